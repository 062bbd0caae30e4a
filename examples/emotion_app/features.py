"""Compute features of each time window from the micro-actions of a result."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mmad.models import Detection, Labels, Result

Interval = tuple[float, float]

# A hand touches the own head or body. Excluded: hands touching each other (C3, C9, C13), postures (arms akimbo, arms
# crossed) and pushing glasses (F5).
SELF_TOUCH = ("C6", "E1", "E2", "E3", "E6", "F1", "F2", "F3", "F4", "F6", "F7", "F8", "F9", "F10",
              "G1", "G2", "G3", "G4")  # fmt: skip
HEAD = ("B1", "B2", "B3", "B4", "B5", "B6")
# Movements of legs and feet. Excluded: D7, crossed legs, a posture that may last for minutes.
LEGS = ("D1", "D2", "D3", "D4", "D5", "D6", "D8")


@dataclass(frozen=True)
class Group:
    """Actions that are counted together."""

    name: str
    codes: frozenset[str]


@dataclass(frozen=True)
class Activity:
    """Activity of a group in a window."""

    per_min: float  # episodes that start in the window, per minute of analysed video
    share: float  # fraction of the analysed time with any action of the group, 0 to 1


@dataclass(frozen=True)
class Window:
    """Features of a time window. They are None, not zero, if nothing was analysed."""

    start_s: float  # from the first frame
    end_s: float
    analysed_s: float  # seconds in which a person was visible
    activity: dict[str, Activity] | None  # of each group by name
    concurrency: float | None  # mean number of simultaneous actions of any class
    overlap_share: float | None  # fraction of the analysed time with two or more simultaneous actions, 0 to 1


def make_groups(labels: Labels) -> list[Group]:
    """Make the groups self-touch, head and legs; raises ValueError if the model lacks their classes."""
    known = {action.code for action in labels.actions}
    if missing := sorted({*SELF_TOUCH, *HEAD, *LEGS} - known):
        raise ValueError(f"the model has no classes {', '.join(missing)}, which these features need")
    return [Group("self_touch", frozenset(SELF_TOUCH)), Group("head", frozenset(HEAD)), Group("legs", frozenset(LEGS))]


def compute(result: Result, groups: Sequence[Group], window_s: float = 60.0) -> list[Window]:
    """Compute the features of every window of a video, from a result with the default thresholds of the model."""
    if window_s <= 0:
        raise ValueError(f"the length of a window is {window_s:g} s; it must be above 0")
    edges: list[Interval] = []
    while (start := len(edges) * window_s) < result.media.duration_s:
        edges.append((start, min(start + window_s, result.media.duration_s)))
    return [_compute_window(edge, result, groups) for edge in edges]


def merge_episodes(detections: Iterable[Detection], codes: frozenset[str]) -> list[Interval]:
    """Return the intervals with any of these actions, sorted; adjacent and overlapping ones are merged."""
    merged: list[Interval] = []
    for start, end in sorted((one.start_s, one.end_s) for one in detections if one.action.code in codes):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def intersect(first: Iterable[Interval], second: Sequence[Interval]) -> list[Interval]:
    """Return the intersections of the intervals of two lists."""
    pairs = ((max(a, c), min(b, d)) for a, b in first for c, d in second)
    return [(start, end) for start, end in pairs if start < end]


def seconds_at_least(intervals: Iterable[Interval], count: int) -> float:
    """Return the total time in which at least `count` of the intervals overlap."""
    steps = sorted(step for start, end in intervals for step in ((start, 1), (end, -1)))
    total, level, since = 0.0, 0, 0.0
    for time, step in steps:
        if level >= count:
            total += time - since
        level, since = level + step, time
    return total


def _compute_window(window: Interval, result: Result, groups: Sequence[Group]) -> Window:
    covered = [(one.start_s, one.end_s) for one in result.coverage if one.status == "analysed"]
    analysed = intersect(covered, [window])
    analysed_s = _total_length(analysed)
    if analysed_s == 0:
        return Window(*window, 0.0, None, None, None)
    actions = intersect(((one.start_s, one.end_s) for one in result.detections), analysed)
    return Window(
        *window,
        analysed_s,
        {one.name: _compute_activity(merge_episodes(result.detections, one.codes), window, analysed) for one in groups},
        _total_length(actions) / analysed_s,
        seconds_at_least(actions, 2) / analysed_s,
    )


def _compute_activity(episodes: Sequence[Interval], window: Interval, analysed: Sequence[Interval]) -> Activity:
    # An episode counts in the window in which it starts, so that the counts of all windows add up.
    count = sum(window[0] <= start < window[1] for start, _ in episodes)
    analysed_s = _total_length(analysed)
    return Activity(60 * count / analysed_s, _total_length(intersect(episodes, analysed)) / analysed_s)


def _total_length(intervals: Iterable[Interval]) -> float:
    return sum(end - start for start, end in intervals)
