"""Draw the features: a timeline of each group, its episode rate and share of time, and simultaneous actions."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from examples.emotion_app.features import Group, Window, merge_episodes
from mmad.models import Result

# Colours of Okabe and Ito, which are distinguishable for colour-blind people.
_COLOURS = {"self_touch": "#D55E00", "head": "#0072B2", "legs": "#009E73"}
_TITLES = {"self_touch": "self-touch", "head": "head", "legs": "legs"}
_GREY = "#666666"
# Windows with a smaller analysed fraction are drawn pale, as their rates are unreliable.
_FULL_SHARE = 0.5
_PALE = 0.35


def draw(result: Result, groups: Sequence[Group], windows: Sequence[Window], path: Path, note: str) -> None:
    """Draw the figure and write it to `path`, whose suffix selects the format. `note` is printed below."""
    with mpl.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(9, 6.6), layout="constrained")
        timeline, rates, shares, overlap = figure.subplots(4, 1, sharex=True, height_ratios=[3, 2.5, 2.5, 2.5])
        _draw_timeline(timeline, result, groups)
        _draw_bars(rates, windows, groups, "per_min", "episodes\na minute")
        _draw_bars(shares, windows, groups, "share", "share of\ntime")
        _draw_overlap(overlap, windows)
        rates.set_title("pale: less than half a window was analysed", loc="left", fontsize=9, color=_GREY)
        shares.set_ylim(0, 1)
        overlap.set_xlim(0, result.media.duration_s)
        overlap.set_xlabel("seconds from the first frame")
        figure.suptitle("Movements found, not emotions", x=0.01, ha="left", weight="bold")
        figure.supxlabel(note, x=0.01, ha="left", fontsize=7.5, color=_GREY)
        figure.savefig(path, dpi=150)


def _draw_timeline(axes: Axes, result: Result, groups: Sequence[Group]) -> None:
    for stretch in result.coverage:
        if stretch.status != "analysed":
            axes.axvspan(stretch.start_s, stretch.end_s, color="#dddddd", lw=0)
    for row, group in enumerate(reversed(groups)):
        bars = [(start, end - start) for start, end in merge_episodes(result.detections, group.codes)]
        axes.broken_barh(bars, (row - 0.35, 0.7), color=_COLOURS[group.name])
    axes.set_yticks(range(len(groups)), [_TITLES[group.name] for group in reversed(groups)])
    axes.set_ylim(-0.6, len(groups) - 0.4)
    axes.set_title("when (grey: nobody was seen)", loc="left", fontsize=9, color=_GREY)


def _draw_bars(axes: Axes, windows: Sequence[Window], groups: Sequence[Group], name: str, label: str) -> None:
    """Draw one bar per group in each window; none where nothing was analysed."""
    full_s = max((window.end_s - window.start_s for window in windows), default=0.0)
    for window in windows:
        if window.activity is None:
            continue
        length_s = window.end_s - window.start_s
        width = 0.8 * length_s / len(groups)
        for index, group in enumerate(groups):
            axes.bar(
                window.start_s + 0.1 * length_s + index * width,
                getattr(window.activity[group.name], name),
                width,
                align="edge",
                color=_COLOURS[group.name],
                alpha=1.0 if window.analysed_s >= _FULL_SHARE * full_s else _PALE,
            )
    axes.set_ylabel(label)
    _draw_edges(axes, windows)


def _draw_overlap(axes: Axes, windows: Sequence[Window]) -> None:
    analysed = [window for window in windows if window.concurrency is not None]
    spans = [(window.start_s, window.end_s) for window in analysed]
    axes.bar(
        [start for start, _ in spans],
        [window.concurrency or 0.0 for window in analysed],
        [end - start for start, end in spans],
        align="edge",
        color="#CCCCCC",
    )
    axes.hlines(1, 0, spans[-1][1] if spans else 1, color=_GREY, lw=0.8, ls=":")
    axes.set_ylabel("actions at\nonce, mean")
    for window in analysed:
        axes.annotate(
            f"{window.overlap_share:.0%}",
            ((window.start_s + window.end_s) / 2, 0),
            xytext=(0, 3),
            textcoords="offset points",
            ha="center",
            fontsize=8,
        )
    axes.set_title("percent: of the time with two or more", loc="left", fontsize=9, color=_GREY)
    _draw_edges(axes, windows)


def _draw_edges(axes: Axes, windows: Sequence[Window]) -> None:
    for window in windows[1:]:
        axes.axvline(window.start_s, color="#eeeeee", lw=0.8, zorder=0)
