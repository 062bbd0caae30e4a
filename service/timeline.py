"""A result as a picture: bars over time, in a row for each body part.

Of few detections each bar has its words beside it. Of many, each action has a line with its name at the left, so that
the picture stays readable, and of a bounded size, for any number of detections and any length of the video.
"""

import io
import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any, Literal

import numpy as np

from service.schemas import Detection, Label, Labels, Result
from service.summary import Interval

# Of body parts, by id: as bright as black words on them need, apart for all common kinds of colour vision.
_COLOURS = (
    "#6fa8dc",
    "#f2a65a",
    "#8cc084",
    "#e58a8a",
    "#b39ddb",
    "#e6c84f",
    "#6fc7c7",
    "#c9a58b",
    "#a9b4c2",
    "#d99bc5",
)
_INK, _GREY, _PALE = "#20262d", "#6b7480", "#e6e9ed"
# What was not looked at: background, hatching, pattern, and what a note says of it.
_UNSEEN = {
    "no_person": (
        "#f4f5f7",
        "#c9ced6",
        "////",
        "Hatched in grey: nobody was seen there, so nothing was looked for.",
    ),
    "damaged": ("#fbf1f0", "#dfb3ae", "xxxx", "Crossed in red: the video could not be decoded there."),
}

_WIDTH_IN, _LEFT_IN, _RIGHT_IN = 12.0, 1.35, 0.3
_LANE_IN, _LINE_LANE_IN, _ROW_GAP_IN, _HEAD_IN, _AXIS_IN, _LINE_IN = 0.24, 0.18, 0.1, 0.62, 0.5, 0.17
_WORDS_PT = 7.5
# Of a letter, over the size of the font; DejaVu Sans on average, and somewhat more.
_LETTER = 0.56
# Above the first number of detections each action has one line; at most the second number of actions is drawn.
_MOST_WORDS, _MOST_LINES = 60, 100
_LETTERS_OF_NAMES = 36
_DPI = 130
# A bar is never narrower than this; on a line, what lies within better bars of it is not drawn.
_NARROWEST_IN = 2 / _DPI
# Distances of ticks on the axis of time; there are at most so many.
_TICKS_S = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 28800, 86400)
_MOST_TICKS = 12

# The drawing library keeps settings and fonts for the whole process.
_LOCK = Lock()


@dataclass(frozen=True)
class _Bar:
    """A detection, its lane within its row, and its words, which begin or end at a time (s)."""

    found: Detection
    lane: int
    words: str = ""
    words_s: float = 0.0
    words_end_there: bool = False


@dataclass(frozen=True)
class _Row:
    """A body part and its bars; names of its lanes, where they have some."""

    body: Label
    bars: list[_Bar]
    names: tuple[str, ...] = ()

    @property
    def lanes(self) -> int:
        """How many bars lie above each other; at least one, so that an empty row can be seen."""
        return max((bar.lane + 1 for bar in self.bars), default=1)


@dataclass(frozen=True)
class _Layout:
    """What a picture is made of: `span` in seconds, sizes in inches."""

    rows: list[_Row]
    span: Interval
    names_in: float
    lane_in: float

    @property
    def left_in(self) -> float:
        """Left of the bars."""
        return _LEFT_IN + self.names_in

    @property
    def bars_in(self) -> float:
        """Width of the whole span."""
        return _WIDTH_IN - self.left_in - _RIGHT_IN

    @property
    def height_in(self) -> float:
        """Of all rows."""
        return sum(row.lanes * self.lane_in + _ROW_GAP_IN for row in self.rows)

    @property
    def narrowest_s(self) -> float:
        """Length of the shortest bar."""
        return (self.span[1] - self.span[0]) * _NARROWEST_IN / self.bars_in


def draw_timeline(video: str, result: Result, labels: Labels, form: Literal["png", "svg"]) -> bytes:
    """Draw a result.

    Args:
        video: its name, for the title.
        result: what is drawn: bars as opaque as their scores are high, what was not looked at hatched, and warnings.
        labels: all body parts, of which each has a row.
        form: of the picture.
    """
    from matplotlib import rc_context

    # Words as words, and the same result to the same bytes.
    with _LOCK, rc_context({"svg.fonttype": "none", "svg.hashsalt": "mmad", "font.family": "DejaVu Sans"}):
        return _save(_draw(video, result, labels), form)


def _save(figure: Any, form: str) -> bytes:
    buffer = io.BytesIO()
    metadata = {"Date": None, "Creator": "mmad"} if form == "svg" else {"Software": "mmad"}
    figure.savefig(buffer, format=form, dpi=_DPI, metadata=metadata)
    return buffer.getvalue()


def _draw(video: str, result: Result, labels: Labels) -> Any:
    from matplotlib.figure import Figure

    layout = _lay_out(result, labels)
    notes = _notes(result, layout)
    foot_in = _AXIS_IN + _LINE_IN * len(notes)
    height_in = _HEAD_IN + layout.height_in + foot_in
    figure = Figure(figsize=(_WIDTH_IN, height_in), facecolor="white")
    axes = figure.add_axes(
        (
            layout.left_in / _WIDTH_IN,
            foot_in / height_in,
            layout.bars_in / _WIDTH_IN,
            layout.height_in / height_in,
        )
    )
    # Vertical units are inches, downwards.
    axes.set(xlim=layout.span, ylim=(layout.height_in, 0))
    _dress(axes, layout.span)
    _draw_unseen(axes, result, layout.span)
    _draw_rows(axes, layout)
    _write_head(figure, video, result, height_in)
    for number, note in enumerate(reversed(notes)):
        figure.text(
            0.2 / _WIDTH_IN, (0.08 + number * _LINE_IN) / height_in, note, fontsize=7.5, color=_GREY, parse_math=False
        )  # fmt: skip
    return figure


def _span(result: Result) -> Interval:
    """The part of the video that is drawn."""
    duration_s = result.media.duration_s
    start_s = min(result.settings.from_s or 0.0, duration_s)
    end_s = duration_s if result.settings.to_s is None else min(result.settings.to_s, duration_s)
    return (start_s, end_s) if end_s > start_s else (start_s, start_s + 1)


def _lay_out(result: Result, labels: Labels) -> _Layout:
    span = _span(result)
    found = sorted(result.detections, key=lambda one: one.start_s)
    of_bodies = [(body, [one for one in found if one.body.id == body.id]) for body in labels.bodies]
    if len(found) <= _MOST_WORDS:
        seconds_per_inch = (span[1] - span[0]) / (_WIDTH_IN - _LEFT_IN - _RIGHT_IN)
        rows = [_Row(body, _stack(mine, span, seconds_per_inch)) for body, mine in of_bodies]
        return _Layout(rows, span, 0.0, _LANE_IN)
    lines = _lines(found)
    rows = [
        _row_of_lines(body, [line for line in lines if line[0].body.id == body.id], span)
        for body in labels.bodies
    ]
    longest = max(len(name) for row in rows for name in row.names)
    # Two letters more keep the body parts apart from the names.
    return _Layout(rows, span, (longest + 2) * _LETTER * _WORDS_PT / 72, _LINE_LANE_IN)


def _lines(found: Sequence[Detection]) -> list[list[Detection]]:
    """The detections of each action, in the order of actions; of too many actions those with the best scores."""
    of_actions: dict[int, list[Detection]] = {}
    for one in found:
        of_actions.setdefault(one.action.id, []).append(one)
    best = sorted(of_actions, key=lambda id: -max(one.score for one in of_actions[id]))[:_MOST_LINES]
    return [of_actions[id] for id in sorted(best)]


def _row_of_lines(body: Label, lines: Sequence[list[Detection]], span: Interval) -> _Row:
    """Each action in a lane of its own, with its name and how many there are of it."""
    names = (f"{_drawable(line[0].action.name, _LETTERS_OF_NAMES)}  {len(line)}" for line in lines)
    bars = [_Bar(one, lane) for lane, line in enumerate(lines) for one in _visible(line, span)]
    return _Row(body, bars, tuple(names))


def _visible(line: Sequence[Detection], span: Interval) -> list[Detection]:
    """Detections that better ones do not cover, at the width of the narrowest bar; the best last, on top."""
    steps = int((_WIDTH_IN - _LEFT_IN) / _NARROWEST_IN)
    covered = np.zeros(steps, np.bool_)
    shown = []
    for one in sorted(line, key=lambda one: -one.score):
        first, last = (
            min(max(int((time_s - span[0]) / (span[1] - span[0]) * steps), 0), steps - 1)
            for time_s in (one.start_s, one.end_s)
        )
        if not covered[first : last + 1].all():
            covered[first : last + 1] = True
            shown.append(one)
    return shown[::-1]


def _stack(detections: Sequence[Detection], span: Interval, seconds_per_inch: float) -> list[_Bar]:
    """Each bar in the first lane where it and its words are free of those before."""
    free_from: list[float] = []
    bars = []
    for found in detections:
        words = f"{found.action.name} {found.score:.2f}"
        length_s = (len(words) + 1.5) * _LETTER * _WORDS_PT / 72 * seconds_per_inch
        # Within the bar, or else after it, or else before it.
        fits = length_s <= found.end_s - found.start_s
        words_s = found.start_s if fits else found.end_s
        before = words_s + length_s > span[1]
        start_s = max(span[0], found.start_s - length_s) if before else found.start_s
        end_s = found.end_s if before else max(words_s + length_s, found.end_s)
        lane = next((lane for lane, free_s in enumerate(free_from) if free_s <= start_s), len(free_from))
        free_from[lane : lane + 1] = [end_s]
        bars.append(_Bar(found, lane, words, found.start_s if before else words_s, before))
    return bars


def _draw_unseen(axes: Any, result: Result, span: Interval) -> None:
    """Hatch what was not looked at."""
    for status, (face, edge, hatch, _) in _UNSEEN.items():
        for start_s, end_s in _unseen(result, span, status):
            axes.axvspan(start_s, end_s, facecolor=face, edgecolor=edge, hatch=hatch, linewidth=0, zorder=0.5)


def _unseen(result: Result, span: Interval, status: str) -> list[Interval]:
    """Parts of the span with that status."""
    parts = [
        (max(one.start_s, span[0]), min(one.end_s, span[1]))
        for one in result.coverage
        if one.status == status
    ]
    return [(start_s, end_s) for start_s, end_s in parts if end_s > start_s]


def _draw_rows(axes: Any, layout: _Layout) -> None:
    top_in = 0.0
    for row in layout.rows:
        height_in = row.lanes * layout.lane_in + _ROW_GAP_IN
        first_in = top_in + _ROW_GAP_IN / 2
        _draw_bars(axes, row, first_in, layout)
        for lane, name in enumerate(row.names):
            _write_left(axes, name, 0.07, first_in + (lane + 0.5) * layout.lane_in, layout, _WORDS_PT, _INK)
        colour = _INK if row.bars else "#a5acb5"
        _write_left(axes, row.body.name, 0.1 + layout.names_in, top_in + height_in / 2, layout, 9, colour)
        top_in += height_in
        axes.axhline(top_in, color=_PALE, linewidth=0.8, zorder=0.6)
    axes.set_yticks([])


def _write_left(
    axes: Any, text: str, offset_in: float, at_in: float, layout: _Layout, size: float, colour: str
) -> None:
    """Write a label, right-aligned, to the left of the bars."""
    axes.text(
        -offset_in / layout.bars_in, at_in, text, fontsize=size, color=colour, ha="right", va="center_baseline",
        transform=axes.get_yaxis_transform(), parse_math=False,
    )  # fmt: skip


def _draw_bars(axes: Any, row: _Row, first_in: float, layout: _Layout) -> None:
    """A row's bars and their words; its first lane begins at that height."""
    from matplotlib.collections import PolyCollection

    colour = _COLOURS[row.body.id % len(_COLOURS)]
    corners = [_corners(bar, first_in, layout) for bar in row.bars]
    shades = [_shade(colour, bar.found.score) for bar in row.bars]
    # Edges would hide how strong the colours of many narrow bars are.
    width = 0 if row.names else 0.9
    axes.add_collection(
        PolyCollection(corners, facecolors=shades, edgecolors=colour, linewidths=width, zorder=2), autolim=False
    )  # fmt: skip
    for bar in row.bars:
        if bar.words:
            axes.text(
                bar.words_s, first_in + (bar.lane + 0.5) * layout.lane_in, f" {bar.words} ", fontsize=_WORDS_PT,
                color=_INK, clip_on=True, va="center_baseline", ha="right" if bar.words_end_there else "left",
                parse_math=False, zorder=3,
            )  # fmt: skip


def _corners(bar: _Bar, first_in: float, layout: _Layout) -> list[tuple[float, float]]:
    """Of a bar: seconds and inches."""
    start_s = min(bar.found.start_s, layout.span[1] - layout.narrowest_s)
    end_s = max(bar.found.end_s, start_s + layout.narrowest_s)
    top_in = first_in + bar.lane * layout.lane_in + 0.02
    bottom_in = top_in + layout.lane_in - 0.04
    return [(start_s, top_in), (end_s, top_in), (end_s, bottom_in), (start_s, bottom_in)]


def _shade(colour: str, score: float) -> tuple[float, ...]:
    """A colour on white, the stronger the higher the score."""
    from matplotlib.colors import to_rgb

    share = 0.15 + 0.85 * score
    return tuple(1 - share * (1 - part) for part in to_rgb(colour))


def _dress(axes: Any, span: Interval) -> None:
    """Axis of time, grid, no frame."""
    from matplotlib.ticker import FuncFormatter, MultipleLocator

    axes.grid(axis="x", color=_PALE, linewidth=0.8, zorder=0)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelsize=8.5, labelcolor=_INK, pad=5)
    for side in axes.spines.values():
        side.set_visible(False)
    words = "seconds"
    if span[1] > 120:
        step_s = _tick_s(span[1] - span[0])
        axes.xaxis.set_major_locator(MultipleLocator(step_s))
        axes.xaxis.set_major_formatter(
            FuncFormatter(lambda time_s, _: _clock(time_s, span[1] >= 3600, step_s < 1))
        )
        words = "h:min:s" if span[1] >= 3600 else "min:s"
    axes.set_xlabel(words, fontsize=8.5, color=_GREY)


def _tick_s(length_s: float) -> float:
    """Distance of ticks on an axis of that length: a round one, as few as fit, or else whole days."""
    days = math.ceil(length_s / _MOST_TICKS / _TICKS_S[-1])
    return next((tick_s for tick_s in _TICKS_S if length_s / tick_s <= _MOST_TICKS), days * _TICKS_S[-1])


def _clock(time_s: float, with_hours: bool, with_tenths: bool) -> str:
    tenths = round(time_s * 10)
    minutes, rest = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60) if with_hours else (0, minutes)
    seconds = f"{rest / 10:04.1f}" if with_tenths else f"{rest // 10:02d}"
    return f"{hours}:{minutes:02d}:{seconds}" if with_hours else f"{minutes}:{seconds}"


def _write_head(figure: Any, video: str, result: Result, height_in: float) -> None:
    found = len(result.detections)
    words = f"{found or 'no'} detection{'s' * (found != 1)}   ·   {result.media.duration_s:.1f} s   ·   "
    words += f"{result.model.bundle} {result.model.version}"
    for text, offset_in, size, colour in ((_drawable(video), 0.27, 12, _INK), (words, 0.47, 8.5, _GREY)):
        figure.text(
            0.2 / _WIDTH_IN, 1 - offset_in / height_in, text, fontsize=size, color=colour, parse_math=False
        )  # fmt: skip


def _notes(result: Result, layout: _Layout) -> list[str]:
    """Lines of the footer: what must be known to read the picture."""
    notes = ["The higher a score, the stronger the colour."]
    if any(row.names for row in layout.rows):
        shown, every = (
            sum(len(row.names) for row in layout.rows),
            len({one.action.id for one in result.detections}),
        )
        if shown < every:
            notes[0] += f" Of {every} actions the {shown} with the highest scores are drawn."
    if hidden := result.hidden.count:
        best = result.hidden.best[0]
        notes.append(
            f"Hidden: {hidden} detection{'s' * (hidden != 1)} below their thresholds, the best: "
            f"{best.action.name} {best.score:.2f}."
        )
    notes += [note for status, (*_, note) in _UNSEEN.items() if _unseen(result, layout.span, status)]
    notes += [f"{warning.code}: {warning.detail}" for warning in result.warnings]
    return [line for note in notes for line in textwrap.wrap(_drawable(note, 1000), 195)]


def _drawable(text: str, most: int = 90) -> str:
    """Shortened, and a box for each letter that the font lacks, of which it would warn."""
    from matplotlib.font_manager import findfont, get_font

    known = get_font(findfont("DejaVu Sans")).get_charmap()
    shown = "".join(letter if ord(letter) in known else "\u25a1" for letter in text)
    return shown if len(shown) <= most else f"{shown[: most - 1]}…"
