"""Labelled segments of videos as arrays: ground truth, or predictions with scores."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from model.arrays import Booleans, Doubles, Integers
from model.taxonomy import Taxonomy


class Fault(NamedTuple):
    """A rejected row: its location in the file, and the reason."""

    place: str
    reason: str

    def __str__(self) -> str:
        return f"{self.place}: {self.reason}"


class Row(NamedTuple):
    """One segment of a file.

    Attributes:
        video, label: as written, or ids. A label of None only lists a video, which may have no actions.
        score: 1 for ground truth.
        place: of the segment in the file, for messages.
        on_player: whether times are on the player's clock instead of relative to the first frame.
        slack_s: accuracy of the times.
    """

    video: str
    start_s: float
    end_s: float
    label: Any
    score: float
    place: str
    on_player: bool = False
    slack_s: float = 0.0


@dataclass(frozen=True)
class Instances:
    """Segments of videos.

    Attributes:
        videos: ids of the videos.
        durations: (videos,) seconds, NaN if unknown.
        video: (n,) index in `videos` of each segment's video.
        segments: (n, 2) seconds.
        labels: (n,) ids of actions, or of body parts after to_body_level.
        scores: (n,), 1 for ground truth.
    """

    videos: tuple[str, ...]
    durations: Doubles
    video: Integers
    segments: Doubles
    labels: Integers
    scores: Doubles

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Booleans | Integers) -> "Instances":
        """Select segments; all videos remain, also those without segments."""
        parts = {name: getattr(self, name)[index] for name in ("video", "segments", "labels", "scores")}
        return replace(self, **parts)

    def select_videos(self, videos: Iterable[str]) -> "Instances":
        """Select videos, in the given order; unknown ones are ignored."""
        position = {video: index for index, video in enumerate(self.videos)}
        known = [video for video in videos if video in position]
        renumber = np.full(len(self.videos), -1)
        renumber[[position[video] for video in known]] = np.arange(len(known))
        chosen = self[renumber[self.video] >= 0] if len(self) else self
        durations = self.durations[[position[video] for video in known]]
        return replace(chosen, videos=tuple(known), durations=durations, video=renumber[chosen.video])

    def to_body_level(self, taxonomy: Taxonomy) -> "Instances":
        """Replace the label of every segment by the id of its body part."""
        return replace(self, labels=np.array(taxonomy.body_ids)[self.labels])


def collect(rows: Iterable[Row], durations: dict[str, float]) -> Instances:
    """Convert rows to arrays; `durations` lists all videos in order, with NaN for unknown durations."""
    listed = list(rows)
    position = {video: index for index, video in enumerate(durations)}
    return Instances(
        videos=tuple(durations),
        durations=np.array(list(durations.values()), float),
        video=np.array([position[row.video] for row in listed], np.int64),
        segments=np.array([(row.start_s, row.end_s) for row in listed], float).reshape(-1, 2),
        labels=np.array([row.label for row in listed], np.int64),
        scores=np.array([row.score for row in listed], float),
    )


def find_fault(row: Row, duration_s: float, *, slack_s: float) -> str | None:
    """Return why a segment is invalid, or None; its end may exceed the duration (NaN if unknown) by `slack_s`."""
    if not np.isfinite((row.start_s, row.end_s, row.score)).all():
        return f"start {row.start_s}, end {row.end_s}, score {row.score}: not all are numbers"
    if row.start_s < 0:
        return f"the start {row.start_s:g} s is negative"
    if row.end_s <= row.start_s:
        return f"the end {row.end_s:g} s is not after the start {row.start_s:g} s"
    if row.start_s >= duration_s:
        return f"the start {row.start_s:g} s is beyond the video's end, {duration_s:g} s"
    if row.end_s > duration_s + slack_s:
        return f"the end {row.end_s:g} s is beyond the video's end, {duration_s:g} s"
    return None


def parse_float(value: Any) -> float:
    """Parse a number; NaN if the value is not one."""
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan
