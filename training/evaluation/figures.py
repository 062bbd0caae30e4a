"""Figures of data sets, of detection errors, and of single videos. Each draw function writes one PNG."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.patches import Rectangle

from model.arrays import Doubles
from model.taxonomy import Taxonomy
from training.evaluation.errors import KINDS, Analysis, Bucket
from training.evaluation.metrics import tiou_matrix
from training.evaluation.statistics import Statistics
from training.instances import Instances

_BODY_COLOURS = plt.get_cmap("tab10")
_NO_LOSSES = {"stage", "step", "frames", "seconds"}  # fields of history.jsonl that are not losses
_KIND_COLOURS = ("#2a9d8f", "#8ab17d", "#e9c46a", "#f4a261", "#e76f51", "#9a9a9a")


def draw_classes(statistics: Statistics, taxonomy: Taxonomy, path: Path) -> None:
    """Draw the number of instances of each action in descending order, coloured by body part (paper, figure 3)."""
    counts = np.array(statistics.class_count)
    order = np.argsort(-counts, kind="stable").tolist()
    figure, axes = _draw_bars(np.maximum(counts, 0.5), order, taxonomy)
    axes.set_yscale("log")
    axes.set_ylabel("instances")
    axes.set_title(f"{statistics.instances:,} instances in {statistics.videos:,} videos")
    _save(figure, path)


def draw_precision(precision: Doubles, taxonomy: Taxonomy, path: Path) -> None:
    """Draw the average precision of each action (NaN without ground truth) in descending order, by body part."""
    order = [label for label in np.argsort(-precision, kind="stable").tolist() if not np.isnan(precision[label])]
    figure, axes = _draw_bars(100 * precision, order, taxonomy)
    axes.set(ylabel="percent", title="average precision of every action, mean over tIoU 0.1 to 0.9")
    _save(figure, path)


def _draw_bars(values: Doubles, order: Sequence[int], taxonomy: Taxonomy) -> tuple[Any, Any]:
    actions = [taxonomy.actions[label] for label in order]
    figure, axes = plt.subplots(figsize=(14, 5))
    axes.bar(range(len(order)), values[order], color=[_BODY_COLOURS(action.body_id % 10) for action in actions])
    axes.set_xticks(range(len(order)), [f"{action.code} {action.name}" for action in actions], rotation=90, fontsize=7)
    axes.set_xlim(-0.7, len(order) - 0.3)
    handles = [Rectangle((0, 0), 1, 1, color=_BODY_COLOURS(body.id % 10)) for body in taxonomy.bodies]
    axes.legend(handles, [body.name for body in taxonomy.bodies], fontsize=8)
    return figure, axes


def draw_lengths(truth: Instances, statistics: Statistics, path: Path) -> None:
    """Draw durations of instances and videos, instances per video, and concurrency of actions (paper, figure 4)."""
    figure, ((lengths, videos), (numbers, together)) = plt.subplots(2, 2, figsize=(11, 7))
    lengths.hist(truth.segments[:, 1] - truth.segments[:, 0], bins=60, color="#457b9d")
    lengths.set(title="length of instances", xlabel="s", ylabel="instances")
    videos.hist(truth.durations, bins=40, color="#457b9d")
    videos.set(title="length of videos", xlabel="s", ylabel="videos")
    numbers.bar(range(len(statistics.instances_per_video)), statistics.instances_per_video, color="#e76f51")
    numbers.set(title="instances in a video", xlabel="instances", ylabel="videos")
    numbers.set_xticks(range(len(statistics.instances_per_video)))
    shares = [100 * share for share in statistics.concurrent_time if share > 5e-5]
    bars = together.bar(range(len(shares)), shares, color="#2a9d8f")
    together.bar_label(bars, fmt="%.1f", fontsize=8)
    together.set(title="actions at once", xlabel="actions", ylabel="percent of time")
    together.set_xticks(range(len(shares)))
    together.margins(y=0.1)
    _save(figure, path)


def draw_cooccurrence(statistics: Statistics, taxonomy: Taxonomy, path: Path) -> None:
    """Draw how often two actions overlap in time."""
    codes = [action.code for action in taxonomy.actions]
    order = sorted(range(len(codes)), key=lambda label: (taxonomy.actions[label].body_id, label))
    counts = np.array(statistics.overlap_count)[np.ix_(order, order)]
    figure, axes = plt.subplots(figsize=(10, 9))
    image = axes.imshow(np.log10(counts + 1), cmap="magma_r")
    axes.set_xticks(range(len(order)), [codes[label] for label in order], rotation=90, fontsize=7)
    axes.set_yticks(range(len(order)), [codes[label] for label in order], fontsize=7)
    axes.set_title("pairs of instances that overlap in time, log10(1 + n)")
    figure.colorbar(image, shrink=0.8)
    _save(figure, path)


def draw_false_positives(analysis: Analysis, path: Path) -> None:
    """Draw the kinds of the best predictions, and the mAP that each kind of error costs (paper, figure 6)."""
    figure, (profile, gains) = plt.subplots(1, 2, figsize=(12, 4.5), width_ratios=(3, 2))
    bottom = np.zeros(len(analysis.false_positives))
    for kind, colour in zip(KINDS, _KIND_COLOURS, strict=True):
        shares = np.array([100 * one[kind] for one in analysis.false_positives])
        profile.bar(range(1, len(shares) + 1), shares, bottom=bottom, color=colour, label=kind)
        bottom += shares
    profile.set(title="false positive profile at tIoU 0.5", xlabel="best predictions, in G", ylabel="percent")
    profile.set_xticks(range(1, len(bottom) + 1), [f"{number}G" for number in range(1, len(bottom) + 1)])
    profile.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize=8)
    bars = gains.barh(list(analysis.gains), [100 * gain for gain in analysis.gains.values()], color=_KIND_COLOURS[1:])
    gains.bar_label(bars, fmt="%.2f", fontsize=8, padding=2)
    gains.set(title=f"mAP at tIoU 0.5 to 0.9 is {100 * analysis.average_from_half:.2f}; gain without", xlabel="points")
    gains.title.set_fontsize(10)
    gains.margins(x=0.15)
    gains.invert_yaxis()
    _save(figure, path)


def draw_false_negatives(analysis: Analysis, path: Path) -> None:
    """Draw the share of missed ground truth, by its size (paper, figure 7)."""
    titles = {"coverage": "share of the video", "length": "length in s", "instances": "instances in the video"}
    figure, panels = plt.subplots(1, len(titles), figsize=(13, 4), sharey=True)
    for axes, (name, title) in zip(panels, titles.items(), strict=True):
        buckets = analysis.false_negatives[name]
        bars = axes.bar(range(len(buckets)), [100 * (bucket.missed or 0) for bucket in buckets], color="#457b9d")
        axes.bar_label(
            bars, [f"{100 * (bucket.missed or 0):.0f}\n(n={bucket.instances})" for bucket in buckets], fontsize=8
        )
        axes.set_xticks(range(len(buckets)), [_format_range(bucket) for bucket in buckets], fontsize=8)
        axes.set(title=title, ylim=(0, 115))
    panels[0].set_ylabel("percent missed at tIoU 0.5")
    _save(figure, path)


def draw_timeline(
    video: str, truth: Instances, predictions: Instances, taxonomy: Taxonomy, path: Path, most: int = 12
) -> None:
    """Draw one video: ground truth above, the `most` best predictions below, coloured by tIoU (paper, figure 8)."""
    index = truth.videos.index(video)
    true, predicted = truth[truth.video == index], predictions[predictions.video == index]
    predicted = predicted[np.argsort(-predicted.scores, kind="stable")[:most]]
    overlap = tiou_matrix(predicted.segments, true.segments) * (predicted.labels[:, None] == true.labels[None])
    best = overlap.max(axis=1) if len(true) else np.zeros(len(predicted))
    figure, axes = plt.subplots(figsize=(11, 1.2 + 0.28 * (len(true) + len(predicted))))
    colours = plt.get_cmap("RdYlGn")
    suffixes = [f"  {score:.2f}, tIoU {tiou:.2f}" for score, tiou in zip(predicted.scores, best, strict=True)]
    rows = [(true, one, "#457b9d", "") for one in range(len(true))]
    rows += [(predicted, one, colours(best[one]), suffixes[one]) for one in range(len(predicted))]
    names = []
    for row, (source, one, colour, suffix) in enumerate(rows):
        start, end = source.segments[one]
        axes.barh(row, end - start, left=start, color=colour, edgecolor="black", linewidth=0.4)
        action = taxonomy.actions[source.labels[one]]
        names.append(f"{action.code} {action.name}{suffix}")
    axes.axhline(len(true) - 0.5, color="black", linewidth=1)
    axes.set_yticks(range(len(rows)), names, fontsize=8)
    axes.invert_yaxis()
    end_s = truth.durations[index] if truth.durations[index] > 0 else None  # which may be unknown
    axes.set(xlabel="s", title=f"{video}: ground truth above, predictions below", xlim=(0, end_s))
    _save(figure, path)


def draw_history(rows: Sequence[dict[str, float]], path: Path) -> None:
    """Draw the losses of all steps (faint) and their running mean, with a line between stages."""
    names: set[str] = set().union(*rows) - _NO_LOSSES
    figure, axes = plt.subplots(figsize=(10, 4))
    for index, name in enumerate(sorted(names)):
        steps = np.array([step for step, row in enumerate(rows) if name in row])
        values = np.array([row[name] for row in rows if name in row])
        width = min(max(len(values) // 50, 1), 200)
        smooth = np.convolve(values, np.ones(width) / width, "valid")
        axes.plot(steps, values, color=_BODY_COLOURS(index), alpha=0.2, linewidth=0.6)
        axes.plot(steps[width - 1 :], smooth, color=_BODY_COLOURS(index), label=name)
    for step in range(1, len(rows)):
        if rows[step]["stage"] != rows[step - 1]["stage"]:
            axes.axvline(step, color="black", linewidth=0.6)
    axes.set(xlabel="step", ylabel="loss", yscale="log")
    if names:
        axes.legend(fontsize=8)
    _save(figure, path)


def _format_range(bucket: Bucket) -> str:
    above = "" if bucket.above < 0 else f"{bucket.above:g}"
    if np.isinf(bucket.up_to):
        return f"> {above}"
    return f"{above} to {bucket.up_to:g}".strip()


def _save(figure: Any, path: Path) -> None:
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def worst_and_best(scores: Sequence[float], most: int) -> list[int]:
    """Return the indices of the `most` lowest and the `most` highest scores."""
    order = np.argsort(scores, kind="stable")
    chosen = [*order[:most], *order[-most:]]
    return [int(index) for index in dict.fromkeys(chosen)]
