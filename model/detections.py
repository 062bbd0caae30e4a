"""The results of the detector for one video: proposals, which intervals were analysed, and notices for the caller."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Literal, NamedTuple

from model.corruption import Intervals
from model.segments import Proposals
from model.video import Media

# A notice is added if a smaller fraction of the frame was analysed.
_MIN_ANALYSED_FRACTION = 0.7
# A notice is added from this start offset on; B-frames alone cause an offset of a few frames.
_LATE_START_S = 0.1
_MAX_LISTED_INTERVALS = 5
_REGION_HINT = "region=x,y,width,height (fractions of the picture)"

Status = Literal["analysed", "no_person", "damaged"]


@dataclass(frozen=True)
class CoverageInterval:
    """An interval of the video, and whether it was analysed."""

    start_s: float
    end_s: float
    status: Status


@dataclass(frozen=True)
class Notice:
    """A notice for the caller; `code` is stable."""

    code: str
    detail: str


@dataclass(frozen=True)
class Detections:
    """All proposals of the detector, highest score first, without a threshold, and the coverage of the video."""

    proposals: Proposals
    media: Media
    coverage: tuple[CoverageInterval, ...]
    notices: tuple[Notice, ...] = ()
    decode_s: float = 0.0  # the part of the detector's time that it waited for frames


class WindowPeople(NamedTuple):
    """The number of people in one window; `end_frame` is exclusive."""

    start_frame: int
    end_frame: int
    people: int


def find_coverage(people: list[WindowPeople] | None, fps: float, media: Media) -> tuple[CoverageInterval, ...]:
    """Return which intervals of the video were analysed, show no person, or are damaged.

    Windows without a person are not analysed. `people` is None for a fixed region; `fps` is the rate of their frames.
    """
    analysed = [(0.0, media.duration_s)]
    if people is not None:
        analysed = _join_windows([window for window in people if window.people], fps, media.duration_s)
        if analysed and people[-1].people:  # the last resampled frame starts up to one frame before the video ends
            analysed[-1] = (analysed[-1][0], media.duration_s)
    coverage: list[CoverageInterval] = []
    for start_s, end_s in pairwise(sorted({0.0, media.duration_s, *chain(*analysed, *media.damaged)})):
        status: Status = "analysed" if _contains(analysed, start_s) else "no_person"
        if _contains(media.damaged, start_s):
            status = "damaged"
        if coverage and coverage[-1].status == status:
            start_s = coverage.pop().start_s
        coverage.append(CoverageInterval(start_s, end_s, status))
    return tuple(coverage)


def _contains(intervals: Sequence[tuple[float, float]], time_s: float) -> bool:
    return any(start_s <= time_s < end_s for start_s, end_s in intervals)


def _join_windows(people: list[WindowPeople], fps: float, duration_s: float) -> list[tuple[float, float]]:
    """Return the intervals of windows in seconds; touching and overlapping ones are joined."""
    joined: list[tuple[float, float]] = []
    for window in people:
        start_s, end_s = window.start_frame / fps, min(window.end_frame / fps, duration_s)
        if joined and start_s <= joined[-1][1]:
            start_s = joined.pop()[0]
        joined.append((start_s, end_s))
    return joined


def make_notices(
    people: list[WindowPeople] | None, fps: float, media: Media, coverage: tuple[CoverageInterval, ...]
) -> tuple[Notice, ...]:
    """Make the notices about a video; see find_coverage."""
    details: dict[str, str] = {}
    if media.damaged:
        details["video_damaged"] = (
            f"the video could not be decoded at {_format_intervals(media.damaged)}: nothing was looked for there; "
            "export it anew, or send it again if it was cut off"
        )
    if empty := tuple((part.start_s, part.end_s) for part in coverage if part.status == "no_person"):
        details["no_person"] = (
            f"nobody was found at {_format_intervals(empty)}: nothing was looked for there; "
            f"{_REGION_HINT} has that part of the picture analysed in any case"
        )
    if crowded := [window for window in people or () if window.people > 1]:
        maximum = max(window.people for window in crowded)
        intervals = _format_intervals(tuple(_join_windows(crowded, fps, media.duration_s)))
        details["several_people"] = (
            f"{maximum} people were found at {intervals}: the largest was looked at; {_REGION_HINT} chooses another"
        )
    if media.start_offset_s >= _LATE_START_S:
        details["video_starts_late"] = (
            f"players show the first frame {media.start_offset_s:.2f} s after they start, as sound comes first; "
            "times here count from the first frame: add media.start_offset_s for a player's clock"
        )
    if media.analysed_fraction < _MIN_ANALYSED_FRACTION:
        details["picture_cropped"] = (
            f"{media.analysed_fraction:.0%} of the picture was looked at, the middle of it or of the region; "
            "give region=x,y,width,height (fractions) around the person to choose the part"
        )
    return tuple(Notice(code, detail) for code, detail in details.items())


def _format_intervals(intervals: Intervals) -> str:
    listed = ", ".join(f"{start_s:.1f}-{end_s:.1f} s" for start_s, end_s in intervals[:_MAX_LISTED_INTERVALS])
    more = len(intervals) - _MAX_LISTED_INTERVALS
    return f"{listed} and {more} more times" if more > 0 else listed
