"""Crop each window around the person that the locator finds in a few of its frames.

frames   |-------------------------------|   a window of whole frames at a moderate size
sampled  ^       ^       ^       ^       ^   SAMPLED_FRAMES of them are passed to the locator
crop     union of the largest person's boxes, with a margin and the network's aspect ratio, the same for all frames
"""

from collections.abc import Iterable, Iterator

import numpy as np

from model.arrays import Floats, Frame, Integers
from model.bundle import InputConfig
from model.detections import WindowPeople
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


class PersonCropper:
    """Crops the windows of one video around a person; `windows` has the number of people in each so far."""

    def __init__(self, locator: Locator, config: InputConfig, margin: float) -> None:
        self._locator, self._config, self._margin = locator, config, margin
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
            if person is not None:
                self._previous = person
                rows, columns = window[0].shape[:2]
                box = crop_around(person, columns, rows, width / height, self._margin)
                yield Window(start, crop_and_scale(window, box, width, height))


def sample_indices(frames: int) -> Integers:
    """Return the indices of a window's frames for the locator: evenly spaced, including the first and the last."""
    return np.unique(np.linspace(0, frames - 1, SAMPLED_FRAMES).round().astype(np.int64))


def count_people(boxes_per_frame: list[Floats]) -> int:
    """Count the people in a window, given the boxes (people, 4) in each sampled frame.

    The locator sometimes takes textures for people, but people stay in place. So two sampled frames must show a person,
    and several people count only if they are seen in four of five sampled frames, not covered by another.
    """
    if sum(len(boxes) > 0 for boxes in boxes_per_frame) < min(_MIN_PERSON_FRAMES, len(boxes_per_frame)):
        return 0
    tracks = _track([drop_overlapping(boxes, _MAX_COVERED_FRACTION) for boxes in boxes_per_frame])
    return max(1, sum(len(track) >= _MIN_TRACK_FRACTION * len(boxes_per_frame) for track in tracks))


def choose_person(boxes_per_frame: list[Floats], previous: Floats | None = None) -> Floats | None:
    """Return the union (4,) of the boxes of the largest person in a window, if any; that in `previous` is preferred."""
    best, largest = None, -1.0
    for track in _track(boxes_per_frame):
        boxes = np.stack(track)
        union = np.concatenate([boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)])
        is_previous = previous is not None and iou(union, previous) >= _TRACK_IOU
        size = sum(map(box_area, track)) * (_PREVIOUS_PERSON_FACTOR if is_previous else 1.0)
        if size > largest:
            best, largest = union, size
    return best


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
