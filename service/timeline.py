"""A result as a picture: a row for each body part, its actions as bars in the order of time."""

import io
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any, Literal

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

_WIDTH_IN, _LEFT_IN, _RIGHT_IN = 12.0, 1.35, 0.3
_LANE_IN, _ROW_GAP_IN, _HEAD_IN, _AXIS_IN, _LINE_IN = 0.24, 0.1, 0.62, 0.5, 0.17
_WORDS_PT = 7.5
# Of a letter, over the size of the font; DejaVu Sans on average, and somewhat more.
_LETTER = 0.56
# Bars without words above the first, only the best above the second: more cannot be told apart.
_MOST_WORDS, _MOST_BARS = 60, 400
_DPI = 130

# The drawing library keeps settings and fonts for the whole process.
_LOCK = Lock()


@dataclass(frozen=True)
class _Bar:
    """A detection, its lane within its row, and its words, which begin or end at a time (s)."""

    found: Detection
    lane: int
    words: str
    words_s: float
    words_end_there: bool


@dataclass(frozen=True)
class _Row:
    """A body part and its bars."""

    body: Label
    bars: list[_Bar]

    @property
    def lanes(self) -> int:
        """How many bars lie above each other; at least one, so that an empty row can be seen."""
        return max((bar.lane + 1 for bar in self.bars), default=1)


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

    best = sorted(result.detections, key=lambda one: -one.score)[:_MOST_BARS]
    span = _span(result)
    rows = _rows(sorted(best, key=lambda one: one.start_s), labels, span)
    notes = _notes(result, len(best))
    body_in = sum(row.lanes * _LANE_IN + _ROW_GAP_IN for row in rows)
    foot_in = _AXIS_IN + _LINE_IN * len(notes)
    height_in = _HEAD_IN + body_in + foot_in
    figure = Figure(figsize=(_WIDTH_IN, height_in), facecolor="white")
    axes = figure.add_axes(
        (
            _LEFT_IN / _WIDTH_IN,
            foot_in / height_in,
            1 - (_LEFT_IN + _RIGHT_IN) / _WIDTH_IN,
            body_in / height_in,
        )
    )
    # Vertical units are inches, downwards.
    axes.set(xlim=span, ylim=(body_in, 0))
    _dress(axes, span)
    _draw_coverage(axes, result, span)
    _draw_rows(axes, rows)
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


def _rows(detections: Sequence[Detection], labels: Labels, span: Interval) -> list[_Row]:
    seconds_per_inch = (span[1] - span[0]) / (_WIDTH_IN - _LEFT_IN - _RIGHT_IN)
    with_words = len(detections) <= _MOST_WORDS
    return [
        _Row(body, _stack([one for one in detections if one.body.id == body.id], span, seconds_per_inch, with_words))
        for body in labels.bodies
    ]  # fmt: skip


def _stack(
    detections: Sequence[Detection], span: Interval, seconds_per_inch: float, with_words: bool
) -> list[_Bar]:
    """Each bar in the first lane where it and its words are free of those before."""
    free_from: list[float] = []
    bars = []
    for found in detections:
        words = f"{found.action.name} {found.score:.2f}" if with_words else ""
        length_s = (len(words) + 1.5) * _LETTER * _WORDS_PT / 72 * seconds_per_inch if words else 0.0
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


def _draw_coverage(axes: Any, result: Result, span: Interval) -> None:
    """Hatch what was not looked at."""
    for start_s, end_s in _gaps(result, span):
        axes.axvspan(
            start_s, end_s, facecolor="#f4f5f7", edgecolor="#c9ced6", hatch="////", linewidth=0, zorder=0.5
        )


def _gaps(result: Result, span: Interval) -> list[Interval]:
    """Parts of the span that were not analysed."""
    gaps, reached_s = [], span[0]
    for stretch in sorted(result.coverage, key=lambda one: one.start_s):
        if stretch.status == "analysed":
            if stretch.start_s > reached_s:
                gaps.append((reached_s, min(stretch.start_s, span[1])))
            reached_s = max(reached_s, stretch.end_s)
    if reached_s < span[1]:
        gaps.append((reached_s, span[1]))
    return [(start_s, end_s) for start_s, end_s in gaps if end_s > start_s]


def _draw_rows(axes: Any, rows: Sequence[_Row]) -> None:
    top_in = 0.0
    middles = []
    for row in rows:
        height_in = row.lanes * _LANE_IN + _ROW_GAP_IN
        for bar in row.bars:
            _draw_bar(axes, bar, top_in + _ROW_GAP_IN / 2 + bar.lane * _LANE_IN)
        middles.append(top_in + height_in / 2)
        top_in += height_in
        axes.axhline(top_in, color=_PALE, linewidth=0.8, zorder=0.6)
    axes.set_yticks(middles, [row.body.name for row in rows], fontsize=9, parse_math=False)
    for tick, row in zip(axes.get_yticklabels(), rows, strict=True):
        tick.set_color(_INK if row.bars else "#a5acb5")


def _draw_bar(axes: Any, bar: _Bar, top_in: float) -> None:
    from matplotlib.colors import to_rgba
    from matplotlib.patches import Rectangle

    found = bar.found
    colour = _COLOURS[found.body.id % len(_COLOURS)]
    corner, height_in = (found.start_s, top_in + 0.02), _LANE_IN - 0.04
    face = to_rgba(colour, 0.15 + 0.85 * found.score)
    length_s = found.end_s - found.start_s
    axes.add_patch(
        Rectangle(corner, length_s, height_in, facecolor=face, edgecolor=colour, linewidth=0.9, zorder=2)
    )
    if bar.words:
        axes.text(
            bar.words_s, top_in + _LANE_IN / 2, f" {bar.words} ", fontsize=_WORDS_PT, color=_INK, clip_on=True,
            va="center_baseline", ha="right" if bar.words_end_there else "left", parse_math=False, zorder=3,
        )  # fmt: skip


def _dress(axes: Any, span: Interval) -> None:
    """Axis of time, grid, no frame."""
    axes.grid(axis="x", color=_PALE, linewidth=0.8, zorder=0)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelsize=8.5, labelcolor=_INK, pad=5)
    for side in axes.spines.values():
        side.set_visible(False)
    if span[1] > 120:
        from matplotlib.ticker import FuncFormatter, MaxNLocator

        axes.xaxis.set_major_locator(MaxNLocator(12, steps=[1, 1.5, 3, 6, 10], integer=True))
        axes.xaxis.set_major_formatter(
            FuncFormatter(lambda time_s, _: f"{int(time_s // 60)}:{int(time_s % 60):02d}")
        )
        axes.set_xlabel("min:s", fontsize=8.5, color=_GREY)
    else:
        axes.set_xlabel("seconds", fontsize=8.5, color=_GREY)


def _write_head(figure: Any, video: str, result: Result, height_in: float) -> None:
    found = len(result.detections)
    words = f"{found or 'no'} detection{'s' * (found != 1)}   ·   {result.media.duration_s:.1f} s   ·   "
    words += f"{result.model.bundle} {result.model.version}"
    for text, offset_in, size, colour in ((_drawable(video), 0.27, 12, _INK), (words, 0.47, 8.5, _GREY)):
        figure.text(
            0.2 / _WIDTH_IN, 1 - offset_in / height_in, text, fontsize=size, color=colour, parse_math=False
        )  # fmt: skip


def _notes(result: Result, drawn: int) -> list[str]:
    """Lines of the footer: what must be known to read the picture."""
    notes = []
    if drawn < len(result.detections):
        notes.append(
            f"The {drawn} detections with the highest scores are drawn, of {len(result.detections)}."
        )
    if hidden := result.hidden.count:
        best = result.hidden.best[0]
        notes.append(
            f"Hidden: {hidden} detection{'s' * (hidden != 1)} below their thresholds, the best: "
            f"{best.action.name} {best.score:.2f}."
        )
    if _gaps(result, _span(result)):
        notes.append("Hatched: not looked at, since nobody was seen.")
    notes += [f"{warning.code}: {warning.detail}" for warning in result.warnings]
    return [line for note in notes for line in textwrap.wrap(_drawable(note, 1000), 195)]


def _drawable(text: str, most: int = 90) -> str:
    """Shortened, and a box for each letter that the font lacks, of which it would warn."""
    from matplotlib.font_manager import findfont, get_font

    known = get_font(findfont("DejaVu Sans")).get_charmap()
    shown = "".join(letter if ord(letter) in known else "\u25a1" for letter in text)
    return shown if len(shown) <= most else f"{shown[: most - 1]}…"
