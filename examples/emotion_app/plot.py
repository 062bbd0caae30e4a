"""A picture of the features: when each group moves, how often, and how much goes on at once."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from examples.emotion_app.features import Group, Window, episodes
from mmad.models import Result

# Okabe and Ito's colours, which most people can tell apart.
_COLOURS = {"self_touch": "#D55E00", "head": "#0072B2", "legs": "#009E73"}
_TITLES = {"self_touch": "self-touch", "head": "head", "legs": "legs"}
_GREY = "#666666"
# A rate of a few seconds says little: windows of which less than this was analysed are drawn paler.
_FULL_SHARE = 0.5
_PALE = 0.35


def draw(result: Result, groups: Sequence[Group], windows: Sequence[Window], path: Path, note: str) -> None:
    """Write the picture; its kind follows from the name's suffix. `note` stands below it."""
    with mpl.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(9, 6.6), layout="constrained")
        timeline, rates, shares, overlap = figure.subplots(
            4, 1, sharex=True, height_ratios=[3, 2.5, 2.5, 2.5]
        )
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
        bars = [(start, end - start) for start, end in episodes(result.detections, group.codes)]
        axes.broken_barh(bars, (row - 0.35, 0.7), color=_COLOURS[group.name])
    axes.set_yticks(range(len(groups)), [_TITLES[group.name] for group in reversed(groups)])
    axes.set_ylim(-0.6, len(groups) - 0.4)
    axes.set_title("when (grey: nobody was seen)", loc="left", fontsize=9, color=_GREY)


def _draw_bars(axes: Axes, windows: Sequence[Window], groups: Sequence[Group], name: str, label: str) -> None:
    """Side by side in each window; nothing where nothing was analysed."""
    full_s = max((window.end_s - window.start_s for window in windows), default=0.0)
    for window in windows:
        if window.activity is None:
            continue
        length_s = window.end_s - window.start_s
        width = 0.8 * length_s / len(groups)
        for place, group in enumerate(groups):
            axes.bar(
                window.start_s + 0.1 * length_s + place * width,
                getattr(window.activity[group.name], name),
                width,
                align="edge",
                color=_COLOURS[group.name],
                alpha=1.0 if window.analysed_s >= _FULL_SHARE * full_s else _PALE,
            )
    axes.set_ylabel(label)
    _draw_edges(axes, windows)


def _draw_overlap(axes: Axes, windows: Sequence[Window]) -> None:
    seen = [window for window in windows if window.concurrency is not None]
    spans = [(window.start_s, window.end_s) for window in seen]
    axes.bar(
        [start for start, _ in spans],
        [window.concurrency or 0.0 for window in seen],
        [end - start for start, end in spans],
        align="edge",
        color="#CCCCCC",
    )
    axes.hlines(1, 0, spans[-1][1] if spans else 1, color=_GREY, lw=0.8, ls=":")
    axes.set_ylabel("actions at\nonce, mean")
    for window in seen:
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
