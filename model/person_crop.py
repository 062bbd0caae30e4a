"""One fixed crop for each window, around the person that the locator finds in a few of its frames.

frames   |-------------------------------|   a window, the whole picture in moderate size
looks    ^       ^       ^       ^       ^   LOOKS of them go to the locator
crop     the largest person's boxes joined, with a margin, in the network's shape: the same for all frames
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.bundle import InputConfig
from model.corruption import Stretches
from model.detections import Notice, Stretch
from model.locator import Floats, Locator, apart, area, iou
from model.transforms import crop_around, cut
from model.windows import Frame, Window, runs

LOOKS = 5
# Frames are kept no larger than this while it is not yet known where the person is.
LONGEST = 512

# Boxes of neighbouring looks that share as much as this are one person's.
_FOLLOWS_IOU = 0.2
_SOMEBODY_LOOKS, _SEVERAL_SHARE = 2, 0.8
# Of the smaller of two boxes: where more is in the larger, it is more often a part of one person than a second.
_COVERED = 0.3
# Whoever was looked at in the window before stays, unless somebody is larger by this factor.
_LOYALTY = 1.5
_SPANS_NAMED = 5
_CHOOSE = "region=x,y,width,height (fractions of the picture)"


class Seen(NamedTuple):
    """How many people one window shows, from which frame to which (exclusive)."""

    start_frame: int
    end_frame: int
    people: int


class Framer:
    """Crops the windows of one video; `seen` tells of all windows so far."""

    def __init__(self, locator: Locator, config: InputConfig, margin: float) -> None:
        self._locator = locator
        self._config = config
        self._margin = margin
        self._last: Floats | None = None
        self.seen: list[Seen] = []

    def crop(self, frames: Iterable[Frame]) -> Iterator[Window]:
        """Whole pictures in; windows that show somebody out, in the network's size, around that person."""
        width, height = self._config.width, self._config.height
        for start, held in runs(frames, self._config.window_frames, self._config.overlap_frames):
            found = self._locator.find(np.stack([held[place] for place in looks(len(held))]))
            people = count(found)
            self.seen.append(Seen(start, start + len(held), people))
            person = choose(found, self._last) if people else None
            if person is None:
                continue
            self._last = person
            rows, columns = held[0].shape[:2]
            box = crop_around(person, columns, rows, width / height, self._margin)
            yield Window(start, cut(held, box, width, height))


def looks(frames: int) -> NDArray[np.int64]:
    """Which of a window's frames are looked at: a few, evenly spread, the first and the last among them."""
    return np.unique(np.linspace(0, frames - 1, LOOKS).round().astype(np.int64))


def count(found: list[Floats]) -> int:
    """How many people a window shows, from the boxes of each look.

    Textures are taken for people here and there, and people stay: somebody is there if two looks see somebody, and of
    several people those count who are seen in the same place in four of five looks, not behind another.
    """
    if sum(len(boxes) > 0 for boxes in found) < min(_SOMEBODY_LOOKS, len(found)):
        return 0
    tracks = _tracks([apart(boxes, _COVERED) for boxes in found])
    return max(1, sum(len(track) >= _SEVERAL_SHARE * len(found) for track in tracks))


def choose(found: list[Floats], before: Floats | None = None) -> Floats | None:
    """All of the room (4,) that the largest person takes over the looks of a window; None where there is nobody.

    Args:
        found: of each look the boxes.
        before: the room of the person in the window before, who is preferred.
    """
    tracks = _tracks(found)
    rooms = [_joined(track) for track in tracks]

    def weight(place: int) -> float:
        loyal = before is not None and iou(rooms[place], before) >= _FOLLOWS_IOU
        return sum(map(area, tracks[place])) * (_LOYALTY if loyal else 1.0)

    best = max(range(len(tracks)), key=weight, default=None)
    return None if best is None else rooms[best]


def _tracks(found: list[Floats]) -> list[list[Floats]]:
    """The boxes of each person, followed from look to look."""
    tracks: list[list[Floats]] = []
    for boxes in found:
        free = set(range(len(tracks)))
        for box in boxes:
            shared = {place: iou(tracks[place][-1], box) for place in free}
            place = max(shared, key=shared.__getitem__, default=None)
            if place is None or shared[place] < _FOLLOWS_IOU:
                tracks.append([box])
            else:
                free.remove(place)
                tracks[place].append(box)
    return tracks


def _joined(boxes: list[Floats]) -> Floats:
    every = np.stack(boxes)
    return np.concatenate([every[:, :2].min(axis=0), every[:, 2:].max(axis=0)])


def coverage(
    seen: list[Seen] | None, fps: float, duration_s: float, damaged: Stretches = ()
) -> tuple[Stretch, ...]:
    """What became of each part of the video: analysed where a window that shows it shows a person as well.

    Args:
        seen: of each window; None where a region was looked at, whoever is there.
        fps: of the frames that `seen` counts.
        duration_s: where the last part ends.
        damaged: stretches that could not be decoded, in order and apart from each other.
    """
    stretches: list[Stretch] = []
    reached_s = 0.0
    for start_s, end_s in _analysed(seen, fps, duration_s):
        if start_s > reached_s:
            stretches.append(Stretch(reached_s, start_s, "no_person"))
        stretches.append(Stretch(start_s, end_s, "analysed"))
        reached_s = end_s
    if reached_s < duration_s:
        stretches.append(Stretch(reached_s, duration_s, "no_person"))
    return _marked(stretches, damaged)


def _analysed(seen: list[Seen] | None, fps: float, duration_s: float) -> list[tuple[float, float]]:
    if seen is None:
        return [(0.0, duration_s)]
    found = spans([one for one in seen if one.people], fps, duration_s)
    if found and seen[-1].people:  # frames end up to one of them before the video does
        found[-1] = (found[-1][0], duration_s)
    return found


def _marked(stretches: list[Stretch], damaged: Stretches) -> tuple[Stretch, ...]:
    """Stretches with the damaged ones cut out of them and put in between."""
    parts = [Stretch(start_s, end_s, "damaged") for start_s, end_s in damaged]
    for one in stretches:
        reached_s = one.start_s
        for start_s, end_s in [*damaged, (one.end_s, one.end_s)]:
            if reached_s < min(start_s, one.end_s):
                parts.append(Stretch(reached_s, min(start_s, one.end_s), one.status))
            reached_s = max(reached_s, end_s)
    return tuple(sorted(parts, key=lambda part: part.start_s))


def spans(seen: list[Seen], fps: float, duration_s: float) -> list[tuple[float, float]]:
    """Windows as stretches in seconds, those that touch joined, within the video."""
    joined: list[tuple[float, float]] = []
    for one in seen:
        start_s, end_s = one.start_frame / fps, min(one.end_frame / fps, duration_s)
        if joined and start_s <= joined[-1][1]:
            start_s = joined.pop()[0]
        joined.append((start_s, end_s))
    return joined


def damage_notice(damaged: Stretches) -> Notice:
    """What a caller should know about what could not be decoded."""
    return Notice(
        "video_damaged",
        f"the video could not be decoded at {_times(damaged)}: nothing was looked for there; export it anew, or send "
        "it again if it was cut off",
    )


def late_notice(start_offset_s: float) -> Notice:
    """The notice that the video starts later than the sound."""
    return Notice(
        "video_starts_late",
        f"players show the first frame {start_offset_s:.2f} s after they start, as sound comes first; times here count "
        "from the first frame: add media.start_offset_s for a player's clock",
    )


def notices(seen: list[Seen], fps: float, duration_s: float, damaged: Stretches = ()) -> tuple[Notice, ...]:
    """What a caller should know about who was found; see coverage."""
    told = []
    parts = coverage(seen, fps, duration_s, damaged)
    empty = [(one.start_s, one.end_s) for one in parts if one.status == "no_person"]
    if empty:
        told.append(
            Notice(
                "no_person",
                f"nobody was found at {_times(empty)}: nothing was looked for there; "
                f"{_CHOOSE} has that part of the picture analysed in any case",
            )
        )
    crowded = [one for one in seen if one.people > 1]
    if crowded:
        most = max(one.people for one in crowded)
        told.append(
            Notice(
                "several_people",
                f"{most} people were found at {_times(spans(crowded, fps, duration_s))}: the largest was looked at; "
                f"{_CHOOSE} chooses another",
            )
        )
    return tuple(told)


def _times(stretches: Sequence[tuple[float, float]]) -> str:
    named = ", ".join(f"{start_s:.1f}-{end_s:.1f} s" for start_s, end_s in stretches[:_SPANS_NAMED])
    more = len(stretches) - _SPANS_NAMED
    return f"{named} and {more} more times" if more > 0 else named
