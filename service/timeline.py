"""Draws a result as a timeline: bars over time, with one row per body part.

With few detections each bar is labelled. With many, each action has its own lane with its name at the left, which
keeps the image readable and its size bounded for any number of detections and any duration.
"""

import io
import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any, Literal

import numpy as np

from service.results import compute_shown_interval
from service.schemas import Detection, Label, Labels, Result
from service.summary import Interval, clip

# Colours of body parts, by id: light enough for black text, and distinguishable with common colour vision deficiencies.
_COLOURS = (
    "#6fa8dc", "#f2a65a", "#8cc084", "#e58a8a", "#b39ddb", "#e6c84f", "#6fc7c7", "#c9a58b", "#a9b4c2", "#d99bc5",
)  # fmt: skip
_INK, _GREY, _PALE = "#20262d", "#6b7480", "#e6e9ed"
# Parts that were not analysed, by status: face colour, edge colour, hatching, and the note in the footer.
_NOT_ANALYSED = {
    "no_person": ("#f4f5f7", "#c9ced6", "////", "Hatched in grey: nobody was seen there, so nothing was looked for."),
    "damaged": ("#fbf1f0", "#dfb3ae", "xxxx", "Crossed in red: the video could not be decoded there."),
}

_WIDTH_IN, _LEFT_IN, _RIGHT_IN = 12.0, 1.35, 0.3
_LANE_IN, _NAMED_LANE_IN, _ROW_GAP_IN, _TITLE_IN, _AXIS_IN, _NOTE_IN = 0.24, 0.18, 0.1, 0.62, 0.5, 0.17
_LABEL_PT = 7.5
# Width of a character relative to the font size: slightly above the average of DejaVu Sans.
_CHARACTER_WIDTH = 0.56
# Above the first number of detections each action has its own lane; the second is the maximum number of such lanes.
_MAX_LABELLED_BARS, _MAX_NAMED_LANES = 60, 100
_MAX_NAME_CHARACTERS = 36
_DPI = 130
# Minimum width of a bar.
_MIN_BAR_IN = 2 / _DPI
# Distances of ticks on the time axis, and their maximum number.
_TICKS_S = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 28800, 86400)
_MAX_TICKS = 12

# matplotlib's settings and font cache are global to the process.
_LOCK = Lock()


@dataclass(frozen=True)
class _Bar:
    """A detection, its lane within its row, and its label, which starts or ends at `label_s`."""

    detection: Detection
    lane: int
    label: str = ""
    label_s: float = 0.0
    label_ends_there: bool = False


@dataclass(frozen=True)
class _Row:
    """A body part, its bars, and the names of its lanes (empty if the bars are labelled)."""

    body: Label
    bars: list[_Bar]
    names: tuple[str, ...] = ()

    @property
    def lanes(self) -> int:
        """Number of lanes; at least one, so that an empty row is visible."""
        return max((bar.lane + 1 for bar in self.bars), default=1)


@dataclass(frozen=True)
class _Layout:
    """Layout of the image: `span` in seconds, sizes in inches."""

    rows: list[_Row]
    span: Interval
    names_in: float
    lane_in: float

    @property
    def bars_in(self) -> float:
        """Width of the area with bars."""
        return _WIDTH_IN - _LEFT_IN - self.names_in - _RIGHT_IN

    @property
    def height_in(self) -> float:
        """Height of all rows."""
        return sum(row.lanes * self.lane_in + _ROW_GAP_IN for row in self.rows)


def draw_timeline(video: str, result: Result, labels: Labels, form: Literal["png", "svg"]) -> bytes:
    """Draw a result, with a row for each body part and `video` as the title, and return the image file."""
    from matplotlib import rc_context

    # Text remains text in SVG, and the output is deterministic.
    with _LOCK, rc_context({"svg.fonttype": "none", "svg.hashsalt": "mmad", "font.family": "DejaVu Sans"}):
        buffer = io.BytesIO()
        metadata = {"Date": None, "Creator": "mmad"} if form == "svg" else {"Software": "mmad"}
        _draw(video, result, labels).savefig(buffer, format=form, dpi=_DPI, metadata=metadata)
        return buffer.getvalue()


def _draw(video: str, result: Result, labels: Labels) -> Any:
    from matplotlib.figure import Figure

    layout = _lay_out(result, labels)
    notes = _make_notes(result, layout)
    foot_in = _AXIS_IN + _NOTE_IN * len(notes)
    height_in = _TITLE_IN + layout.height_in + foot_in
    figure = Figure(figsize=(_WIDTH_IN, height_in), facecolor="white")
    left, bottom = (_LEFT_IN + layout.names_in) / _WIDTH_IN, foot_in / height_in
    axes = figure.add_axes((left, bottom, layout.bars_in / _WIDTH_IN, layout.height_in / height_in))
    # The y axis is in inches and points downwards.
    axes.set(xlim=layout.span, ylim=(layout.height_in, 0))
    _style_axes(axes, layout.span)
    for status, (face, edge, hatch, _) in _NOT_ANALYSED.items():
        for start_s, end_s in _find_not_analysed(result, layout.span, status):
            axes.axvspan(start_s, end_s, facecolor=face, edgecolor=edge, hatch=hatch, linewidth=0, zorder=0.5)
    _draw_rows(axes, layout)
    _write_title(figure, video, result, height_in)
    for number, note in enumerate(reversed(notes)):
        _write(figure, note, (0.08 + number * _NOTE_IN) / height_in, 7.5, _GREY)
    return figure


def _lay_out(result: Result, labels: Labels) -> _Layout:
    start_s, end_s = compute_shown_interval(result.settings, result.media.duration_s)
    span = (start_s, end_s if end_s > start_s else start_s + 1)  # it may be empty
    detections = sorted(result.detections, key=lambda detection: detection.start_s)
    if len(detections) <= _MAX_LABELLED_BARS:
        seconds_per_inch = (span[1] - span[0]) / (_WIDTH_IN - _LEFT_IN - _RIGHT_IN)
        rows = [
            _Row(body, _stack([one for one in detections if one.body.id == body.id], span, seconds_per_inch))
            for body in labels.bodies
        ]
        return _Layout(rows, span, 0.0, _LANE_IN)
    # One lane for each action; of too many, those with the best scores.
    groups: dict[int, list[Detection]] = {}
    for detection in detections:
        groups.setdefault(detection.action.id, []).append(detection)
    best = sorted(groups, key=lambda id: -max(one.score for one in groups[id]))[:_MAX_NAMED_LANES]
    rows = []
    for body in labels.bodies:
        lanes = [groups[id] for id in sorted(best) if groups[id][0].body.id == body.id]
        names = (f"{_make_drawable(lane[0].action.name, _MAX_NAME_CHARACTERS)}  {len(lane)}" for lane in lanes)
        bars = [_Bar(one, number) for number, lane in enumerate(lanes) for one in _find_visible(lane, span)]
        rows.append(_Row(body, bars, tuple(names)))
    longest = max(len(name) for row in rows for name in row.names)
    # Two more characters separate the body parts from the names.
    return _Layout(rows, span, (longest + 2) * _CHARACTER_WIDTH * _LABEL_PT / 72, _NAMED_LANE_IN)


def _find_visible(group: Sequence[Detection], span: Interval) -> list[Detection]:
    """Return the detections that better ones do not cover entirely, at the resolution of a minimum bar; best last."""
    steps = int((_WIDTH_IN - _LEFT_IN) / _MIN_BAR_IN)
    covered = np.zeros(steps, np.bool_)
    shown = []
    for detection in sorted(group, key=lambda detection: -detection.score):
        first, last = (
            min(max(int((time_s - span[0]) / (span[1] - span[0]) * steps), 0), steps - 1)
            for time_s in (detection.start_s, detection.end_s)
        )
        if not covered[first : last + 1].all():
            covered[first : last + 1] = True
            shown.append(detection)
    return shown[::-1]


def _stack(detections: Sequence[Detection], span: Interval, seconds_per_inch: float) -> list[_Bar]:
    """Put each bar into the first lane where it and its label do not overlap previous ones."""
    free_from: list[float] = []
    bars = []
    for detection in detections:
        label = f"{detection.action.name} {detection.score:.2f}"
        length_s = (len(label) + 1.5) * _CHARACTER_WIDTH * _LABEL_PT / 72 * seconds_per_inch
        # The label is inside the bar, or else after it, or else before it.
        fits = length_s <= detection.end_s - detection.start_s
        label_s = detection.start_s if fits else detection.end_s
        before = label_s + length_s > span[1]
        start_s = max(span[0], detection.start_s - length_s) if before else detection.start_s
        end_s = detection.end_s if before else max(label_s + length_s, detection.end_s)
        lane = next((lane for lane, free_s in enumerate(free_from) if free_s <= start_s), len(free_from))
        free_from[lane : lane + 1] = [end_s]
        bars.append(_Bar(detection, lane, label, detection.start_s if before else label_s, before))
    return bars


def _find_not_analysed(result: Result, span: Interval, status: str) -> list[Interval]:
    return clip(((part.start_s, part.end_s) for part in result.coverage if part.status == status), span)


def _draw_rows(axes: Any, layout: _Layout) -> None:
    top_in = 0.0
    for row in layout.rows:
        height_in = row.lanes * layout.lane_in + _ROW_GAP_IN
        first_in = top_in + _ROW_GAP_IN / 2
        _draw_bars(axes, row, first_in, layout)
        for lane, name in enumerate(row.names):
            _write_left(axes, name, 0.07, first_in + (lane + 0.5) * layout.lane_in, layout, _LABEL_PT, _INK)
        colour = _INK if row.bars else "#a5acb5"
        _write_left(axes, row.body.name, 0.1 + layout.names_in, top_in + height_in / 2, layout, 9, colour)
        top_in += height_in
        axes.axhline(top_in, color=_PALE, linewidth=0.8, zorder=0.6)
    axes.set_yticks([])


def _write_left(axes: Any, text: str, offset_in: float, y_in: float, layout: _Layout, size: float, colour: str) -> None:
    axes.text(
        -offset_in / layout.bars_in, y_in, text, fontsize=size, color=colour, ha="right", va="center_baseline",
        transform=axes.get_yaxis_transform(), parse_math=False,
    )  # fmt: skip


def _draw_bars(axes: Any, row: _Row, first_in: float, layout: _Layout) -> None:
    """Draw a row's bars and their labels; `first_in` is the top of its first lane."""
    from matplotlib.collections import PolyCollection

    colour = _COLOURS[row.body.id % len(_COLOURS)]
    corners = [_compute_corners(bar, first_in, layout) for bar in row.bars]
    shades = [_shade(colour, bar.detection.score) for bar in row.bars]
    # Named lanes have many narrow bars, whose edges would hide their colours.
    width = 0 if row.names else 0.9
    bars = PolyCollection(corners, facecolors=shades, edgecolors=colour, linewidths=width, zorder=2)
    axes.add_collection(bars, autolim=False)
    for bar in row.bars:
        if bar.label:
            axes.text(
                bar.label_s, first_in + (bar.lane + 0.5) * layout.lane_in, f" {bar.label} ", fontsize=_LABEL_PT,
                color=_INK, clip_on=True, va="center_baseline", ha="right" if bar.label_ends_there else "left",
                parse_math=False, zorder=3,
            )  # fmt: skip


def _compute_corners(bar: _Bar, first_in: float, layout: _Layout) -> list[tuple[float, float]]:
    min_bar_s = (layout.span[1] - layout.span[0]) * _MIN_BAR_IN / layout.bars_in
    start_s = min(bar.detection.start_s, layout.span[1] - min_bar_s)
    end_s = max(bar.detection.end_s, start_s + min_bar_s)
    top_in = first_in + bar.lane * layout.lane_in + 0.02
    bottom_in = top_in + layout.lane_in - 0.04
    return [(start_s, top_in), (end_s, top_in), (end_s, bottom_in), (start_s, bottom_in)]


def _shade(colour: str, score: float) -> tuple[float, ...]:
    """Blend a colour with white; the opacity rises with the score."""
    from matplotlib.colors import to_rgb

    opacity = 0.15 + 0.85 * score
    return tuple(1 - opacity * (1 - channel) for channel in to_rgb(colour))


def _style_axes(axes: Any, span: Interval) -> None:
    from matplotlib.ticker import FuncFormatter, MultipleLocator

    axes.grid(axis="x", color=_PALE, linewidth=0.8, zorder=0)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelsize=8.5, labelcolor=_INK, pad=5)
    for side in axes.spines.values():
        side.set_visible(False)
    unit = "seconds"
    if span[1] > 120:
        step_s = _choose_tick_s(span[1] - span[0])
        axes.xaxis.set_major_locator(MultipleLocator(step_s))
        with_hours, with_tenths = span[1] >= 3600, step_s < 1
        axes.xaxis.set_major_formatter(FuncFormatter(lambda time_s, _: _format_clock(time_s, with_hours, with_tenths)))
        unit = "h:min:s" if with_hours else "min:s"
    axes.set_xlabel(unit, fontsize=8.5, color=_GREY)


def _choose_tick_s(length_s: float) -> float:
    """Choose the distance of ticks: the smallest round one with at most _MAX_TICKS ticks, or else whole days."""
    days = math.ceil(length_s / _MAX_TICKS / _TICKS_S[-1])
    return next((tick_s for tick_s in _TICKS_S if length_s / tick_s <= _MAX_TICKS), days * _TICKS_S[-1])


def _format_clock(time_s: float, with_hours: bool, with_tenths: bool) -> str:
    tenths = round(time_s * 10)
    minutes, rest = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60) if with_hours else (0, minutes)
    seconds = f"{rest / 10:04.1f}" if with_tenths else f"{rest // 10:02d}"
    return f"{hours}:{minutes:02d}:{seconds}" if with_hours else f"{minutes}:{seconds}"


def _write_title(figure: Any, video: str, result: Result, height_in: float) -> None:
    count = len(result.detections)
    subtitle = f"{count or 'no'} detection{'s' * (count != 1)}   ·   {result.media.duration_s:.1f} s   ·   "
    subtitle += f"{result.model.bundle} {result.model.version}"
    _write(figure, _make_drawable(video), 1 - 0.27 / height_in, 12, _INK)
    _write(figure, subtitle, 1 - 0.47 / height_in, 8.5, _GREY)


def _write(figure: Any, text: str, y: float, size: float, colour: str) -> None:
    figure.text(0.2 / _WIDTH_IN, y, text, fontsize=size, color=colour, parse_math=False)


def _make_notes(result: Result, layout: _Layout) -> list[str]:
    notes = ["The higher a score, the stronger the colour."]
    if shown := sum(len(row.names) for row in layout.rows):
        every = len({detection.action.id for detection in result.detections})
        if shown < every:
            notes[0] += f" Of {every} actions the {shown} with the highest scores are drawn."
    if hidden := result.hidden.count:
        best = result.hidden.best[0]
        notes.append(
            f"Hidden: {hidden} detection{'s' * (hidden != 1)} below their thresholds, the best: "
            f"{best.action.name} {best.score:.2f}."
        )
    notes += [note for status, (*_, note) in _NOT_ANALYSED.items() if _find_not_analysed(result, layout.span, status)]
    notes += [f"{warning.code}: {warning.detail}" for warning in result.warnings]
    return [line for note in notes for line in textwrap.wrap(_make_drawable(note, 1000), 195)]


def _make_drawable(text: str, max_characters: int = 90) -> str:
    """Shorten a text and replace characters that the font lacks by boxes, as matplotlib would warn about them."""
    from matplotlib.font_manager import findfont, get_font

    charmap = get_font(findfont("DejaVu Sans")).get_charmap()
    drawable = "".join(char if ord(char) in charmap else "\u25a1" for char in text)
    return drawable if len(drawable) <= max_characters else f"{drawable[: max_characters - 1]}…"
