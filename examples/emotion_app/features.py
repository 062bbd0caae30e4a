"""From micro-actions to features of each minute. Arithmetic on a result; no network, no files."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mmad.models import Detection, Labels, Result

Interval = tuple[float, float]

# A hand on the own head or body. Left out: hands on each other (C3, C9, C13), postures (arms akimbo, arms crossed), and
# pushing glasses (F5), which is done for the glasses.
SELF_TOUCH = ("C6", "E1", "E2", "E3", "E6", "F1", "F2", "F3", "F4", "F6", "F7", "F8", "F9", "F10",
              "G1", "G2", "G3", "G4")  # fmt: skip
HEAD = ("B1", "B2", "B3", "B4", "B5", "B6")
# Movements of legs and feet. Left out: D7, one leg over the other, is a posture that may last for minutes.
LEGS = ("D1", "D2", "D3", "D4", "D5", "D6", "D8")


@dataclass(frozen=True)
class Group:
    """Actions that are counted together."""

    name: str
    codes: frozenset[str]


@dataclass(frozen=True)
class Activity:
    """How a group moves in a window.

    Attributes:
        per_min: episodes that begin in the window, a minute of analysed video. Actions that touch or overlap are one
            episode.
        share: of the analysed time in which any of its actions goes on, 0 to 1.
    """

    per_min: float
    share: float


@dataclass(frozen=True)
class Window:
    """The features of a stretch of video. Where nothing was analysed there are none, which is not the same as zero.

    Attributes:
        start_s: in seconds from the first frame, as is end_s.
        end_s: the last window ends with the video.
        analysed_s: for how much of it somebody was there to be looked at.
        activity: of each group, by its name; None if analysed_s is 0.
        concurrency: how many actions of any kind go on at once, on average; None if analysed_s is 0.
        overlap_share: of the analysed time in which two actions or more go on; None if analysed_s is 0.
    """

    start_s: float
    end_s: float
    analysed_s: float
    activity: dict[str, Activity] | None
    concurrency: float | None
    overlap_share: float | None


def make_groups(labels: Labels) -> list[Group]:
    """Self-touch, head and legs, in the classes of this model; raises ValueError if it has others."""
    known = {action.code for action in labels.actions}
    if missing := sorted({*SELF_TOUCH, *HEAD, *LEGS} - known):
        raise ValueError(
            f"the model does not know {', '.join(missing)}: features of other classes mean other things"
        )
    return [
        Group("self_touch", frozenset(SELF_TOUCH)),
        Group("head", frozenset(HEAD)),
        Group("legs", frozenset(LEGS)),
    ]


def compute(result: Result, groups: Sequence[Group], window_s: float = 60.0) -> list[Window]:
    """The features of every window of a video.

    Args:
        result: as the service gives it, with the thresholds of its model.
        groups: what is counted together.
        window_s: length of a window in seconds, above 0.
    """
    if window_s <= 0:
        raise ValueError(f"a window of {window_s:g} s is none")
    edges: list[Interval] = []
    while (start := len(edges) * window_s) < result.media.duration_s:
        edges.append((start, min(start + window_s, result.media.duration_s)))
    return [_window(edge, result, groups) for edge in edges]


def episodes(detections: Iterable[Detection], codes: frozenset[str]) -> list[Interval]:
    """The stretches in which any of these actions goes on, in order; those that touch or overlap are one."""
    merged: list[Interval] = []
    for start, end in sorted((one.start_s, one.end_s) for one in detections if one.action.code in codes):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def shared(first: Iterable[Interval], second: Sequence[Interval]) -> list[Interval]:
    """Where an interval of the one list meets one of the other."""
    pairs = ((max(a, c), min(b, d)) for a, b in first for c, d in second)
    return [(start, end) for start, end in pairs if start < end]


def seconds_at_least(intervals: Iterable[Interval], count: int) -> float:
    """For how long at least so many of the intervals go on at once."""
    steps = sorted(step for start, end in intervals for step in ((start, 1), (end, -1)))
    total, level, since = 0.0, 0, 0.0
    for time, step in steps:
        if level >= count:
            total += time - since
        level, since = level + step, time
    return total


def _window(window: Interval, result: Result, groups: Sequence[Group]) -> Window:
    covered = [(one.start_s, one.end_s) for one in result.coverage if one.status == "analysed"]
    seen = shared(covered, [window])
    analysed_s = _length(seen)
    if analysed_s == 0:
        return Window(*window, 0.0, None, None, None)
    everything = shared(((one.start_s, one.end_s) for one in result.detections), seen)
    return Window(
        *window,
        analysed_s,
        {one.name: _activity(episodes(result.detections, one.codes), window, seen) for one in groups},
        _length(everything) / analysed_s,
        seconds_at_least(everything, 2) / analysed_s,
    )


def _activity(found: Sequence[Interval], window: Interval, seen: Sequence[Interval]) -> Activity:
    # An episode belongs to the window it begins in, so that the windows' counts add up to the video's.
    count = sum(window[0] <= start < window[1] for start, _ in found)
    analysed_s = _length(seen)
    return Activity(60 * count / analysed_s, _length(shared(found, seen)) / analysed_s)


def _length(intervals: Iterable[Interval]) -> float:
    return sum(end - start for start, end in intervals)
