"""Crop each window around the person that the locator finds in a few of its frames.

frames   |-------------------------------|   a window of whole frames at a moderate size
sampled  ^       ^       ^       ^       ^   SAMPLED_FRAMES of them are passed to the locator
crop     union of the largest person's boxes, with a margin and the network's aspect ratio, the same for all frames
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from model.arrays import Floats, Frame, Integers
from model.bundle import InputConfig
from model.corruption import Intervals
from model.detections import CoverageInterval, Notice
from model.locator import Locator, box_area, drop_overlapping, iou
from model.transforms import crop_and_scale, crop_around
from model.windows import Window, split_frames

SAMPLED_FRAMES = 5
# Whole frames are scaled down to this size on the longer side until the crop is known.
MAX_SIDE_PX = 512

# Boxes in consecutive sampled frames with at least this IoU belong to one person.
_TRACK_IOU = 0.2
# A window shows a person if this many sampled frames do; a further person counts if seen in this fraction of them.
_MIN_PERSON_FRAMES, _MIN_TRACK_FRACTION = 2, 0.8
# If more than this fraction of the smaller of two boxes lies in the larger one, it is rather a part of one person.
_MAX_COVERED_FRACTION = 0.3
# The person of the previous window is preferred, unless another one is larger by this factor.
_PREVIOUS_PERSON_FACTOR = 1.5
_MAX_LISTED_INTERVALS = 5
_REGION_HINT = "region=x,y,width,height (fractions of the picture)"


class WindowPeople(NamedTuple):
    """The number of people in one window, which lasts from `start_frame` to `end_frame` (exclusive)."""

    start_frame: int
    end_frame: int
    people: int


class PersonCropper:
    """Crops the windows of one video around a person.

    Attributes:
        windows: the number of people in each window so far, including windows without a person.
    """

    def __init__(self, locator: Locator, config: InputConfig, margin: float) -> None:
        self._locator = locator
        self._config = config
        self._margin = margin
        self._previous: Floats | None = None
        self.windows: list[WindowPeople] = []

    def crop(self, frames: Iterable[Frame]) -> Iterator[Window]:
        """Split whole frames into windows, and yield those that show a person, cropped to the network's size."""
        width, height = self._config.width, self._config.height
        for start, window in split_frames(frames, self._config.window_frames, self._config.overlap_frames):
            boxes = self._locator.find(np.stack([window[index] for index in sample_indices(len(window))]))
            people = count_people(boxes)
            self.windows.append(WindowPeople(start, start + len(window), people))
            person = choose_person(boxes, self._previous) if people else None
            if person is None:
                continue
            self._previous = person
            rows, columns = window[0].shape[:2]
            box = crop_around(person, columns, rows, width / height, self._margin)
            yield Window(start, crop_and_scale(window, box, width, height))


def sample_indices(frames: int) -> Integers:
    """Return the indices of a window's frames for the locator: evenly spaced, including the first and the last."""
    return np.unique(np.linspace(0, frames - 1, SAMPLED_FRAMES).round().astype(np.int64))


def count_people(boxes_per_frame: list[Floats]) -> int:
    """Count the people in a window, given the boxes (people, 4) in each sampled frame.

    The locator sometimes takes textures for people, but people stay in place. So at least two sampled frames must show
    a person, and several people count only if they are seen in four of five sampled frames, not covered by another.
    """
    if sum(len(boxes) > 0 for boxes in boxes_per_frame) < min(_MIN_PERSON_FRAMES, len(boxes_per_frame)):
        return 0
    tracks = _track([drop_overlapping(boxes, _MAX_COVERED_FRACTION) for boxes in boxes_per_frame])
    return max(1, sum(len(track) >= _MIN_TRACK_FRACTION * len(boxes_per_frame) for track in tracks))


def choose_person(boxes_per_frame: list[Floats], previous: Floats | None = None) -> Floats | None:
    """Return the union (4,) of the boxes of the largest person in a window; None if there is none.

    Args:
        boxes_per_frame: the boxes (people, 4) in each sampled frame.
        previous: the box of the person in the previous window, who is preferred.
    """
    tracks = _track(boxes_per_frame)
    unions = [_join_boxes(track) for track in tracks]

    def weight(index: int) -> float:
        is_previous = previous is not None and iou(unions[index], previous) >= _TRACK_IOU
        return sum(map(box_area, tracks[index])) * (_PREVIOUS_PERSON_FACTOR if is_previous else 1.0)

    best = max(range(len(tracks)), key=weight, default=None)
    return None if best is None else unions[best]


def _track(boxes_per_frame: list[Floats]) -> list[list[Floats]]:
    """Return the boxes of each person, tracked from frame to frame."""
    tracks: list[list[Floats]] = []
    for boxes in boxes_per_frame:
        unmatched = set(range(len(tracks)))
        for box in boxes:
            ious = {index: iou(tracks[index][-1], box) for index in unmatched}
            best = max(ious, key=ious.__getitem__, default=None)
            if best is None or ious[best] < _TRACK_IOU:
                tracks.append([box])
            else:
                unmatched.remove(best)
                tracks[best].append(box)
    return tracks


def _join_boxes(boxes: list[Floats]) -> Floats:
    stacked = np.stack(boxes)
    return np.concatenate([stacked[:, :2].min(axis=0), stacked[:, 2:].max(axis=0)])


def find_coverage(
    people: list[WindowPeople] | None, fps: float, duration_s: float, damaged: Intervals = ()
) -> tuple[CoverageInterval, ...]:
    """Return which intervals of the video were analysed, show no person, or are damaged.

    An interval is analysed if a window that contains it shows a person.

    Args:
        people: the number of people in each window; None if a fixed region was analysed.
        fps: the frame rate of the indices in `people`.
        duration_s: the duration of the video.
        damaged: intervals that could not be decoded, sorted and disjoint.
    """
    intervals: list[CoverageInterval] = []
    last_end_s = 0.0
    for start_s, end_s in _find_analysed(people, fps, duration_s):
        if start_s > last_end_s:
            intervals.append(CoverageInterval(last_end_s, start_s, "no_person"))
        intervals.append(CoverageInterval(start_s, end_s, "analysed"))
        last_end_s = end_s
    if last_end_s < duration_s:
        intervals.append(CoverageInterval(last_end_s, duration_s, "no_person"))
    return _insert_damaged(intervals, damaged)


def _find_analysed(people: list[WindowPeople] | None, fps: float, duration_s: float) -> list[tuple[float, float]]:
    if people is None:
        return [(0.0, duration_s)]
    analysed = _join_windows([window for window in people if window.people], fps, duration_s)
    if analysed and people[-1].people:  # the last resampled frame starts up to one frame before the video ends
        analysed[-1] = (analysed[-1][0], duration_s)
    return analysed


def _insert_damaged(intervals: list[CoverageInterval], damaged: Intervals) -> tuple[CoverageInterval, ...]:
    """Cut the damaged intervals out of the others and insert them in their place."""
    parts = [CoverageInterval(start_s, end_s, "damaged") for start_s, end_s in damaged]
    for interval in intervals:
        part_start_s = interval.start_s
        for start_s, end_s in [*damaged, (interval.end_s, interval.end_s)]:
            part_end_s = min(start_s, interval.end_s)
            if part_start_s < part_end_s:
                parts.append(CoverageInterval(part_start_s, part_end_s, interval.status))
            part_start_s = max(part_start_s, end_s)
    return tuple(sorted(parts, key=lambda part: part.start_s))


def _join_windows(people: list[WindowPeople], fps: float, duration_s: float) -> list[tuple[float, float]]:
    """Return the intervals of windows in seconds, within the video; touching and overlapping ones are joined."""
    joined: list[tuple[float, float]] = []
    for window in people:
        start_s, end_s = window.start_frame / fps, min(window.end_frame / fps, duration_s)
        if joined and start_s <= joined[-1][1]:
            start_s = joined.pop()[0]
        joined.append((start_s, end_s))
    return joined


def make_corruption_notice(damaged: Intervals) -> Notice:
    """Make the notice about intervals that could not be decoded."""
    return Notice(
        "video_damaged",
        f"the video could not be decoded at {_format_intervals(damaged)}: nothing was looked for there; export it "
        "anew, or send it again if it was cut off",
    )


def make_late_start_notice(start_offset_s: float) -> Notice:
    """Make the notice that the video starts later than the sound."""
    return Notice(
        "video_starts_late",
        f"players show the first frame {start_offset_s:.2f} s after they start, as sound comes first; times here count "
        "from the first frame: add media.start_offset_s for a player's clock",
    )


def make_person_notices(
    people: list[WindowPeople], fps: float, duration_s: float, damaged: Intervals = ()
) -> tuple[Notice, ...]:
    """Make the notices about intervals without a person or with several people; see find_coverage."""
    notices = []
    coverage = find_coverage(people, fps, duration_s, damaged)
    empty = [(interval.start_s, interval.end_s) for interval in coverage if interval.status == "no_person"]
    if empty:
        notices.append(
            Notice(
                "no_person",
                f"nobody was found at {_format_intervals(empty)}: nothing was looked for there; "
                f"{_REGION_HINT} has that part of the picture analysed in any case",
            )
        )
    crowded = [window for window in people if window.people > 1]
    if crowded:
        maximum = max(window.people for window in crowded)
        intervals = _format_intervals(_join_windows(crowded, fps, duration_s))
        notices.append(
            Notice(
                "several_people",
                f"{maximum} people were found at {intervals}: the largest was looked at; "
                f"{_REGION_HINT} chooses another",
            )
        )
    return tuple(notices)


def _format_intervals(intervals: Sequence[tuple[float, float]]) -> str:
    listed = ", ".join(f"{start_s:.1f}-{end_s:.1f} s" for start_s, end_s in intervals[:_MAX_LISTED_INTERVALS])
    more = len(intervals) - _MAX_LISTED_INTERVALS
    return f"{listed} and {more} more times" if more > 0 else listed
