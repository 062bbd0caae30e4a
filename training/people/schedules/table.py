"""What real schedules are like, in numbers: mma52.json beside this file, made by statistics_table.py."""

import re
from functools import cache
from importlib import resources

from pydantic import ConfigDict, TypeAdapter
from pydantic.dataclasses import dataclass

from training.people.actions import BY_CODE

# Lengths are skewed: levels stand closer where a straight line between quantiles would pass the mean by.
LEVELS = (0.0, 0.05, 0.15, 0.3, 0.5, 0.7, 0.85, 0.95, 0.98, 1.0)
DURATION_LEVELS = 41
BANDS = 8
# Annotated ends stop one or two frames of 1/30 s short of the video's end.
AT_END_S = 0.07
# An instance is short, long or full by the part of its video that it takes: at most one of two that use the same part
# of the body is full, so that what goes together has to be told by size.
SIZE_LIMITS = (0.4, 0.8)
SIZES = len(SIZE_LIMITS) + 1
INSIDE, START, END, WHOLE = range(4)  # of the video: WHOLE is START and END
NUMBERS = (
    2,
    3,
    4,
    5,
)  # of instances in a video that `sizes` tells apart, the last one stands for more as well

_STRICT = ConfigDict(extra="forbid", strict=True)


@dataclass(frozen=True, config=_STRICT)
class SizeTable:
    """Those instances of an action that are short, long or full.

    Attributes:
        anchors: how many lie inside the video, start with it, end with it, are as long as it.
        lengths: quantiles at LEVELS; of short ones in seconds, of others as a part of the video, those as long as it
            left out. Empty where there are none.
        together: with whom: ordered pairs of instances in a video of n, each weighing 1 / (n - 1), so that a row of
            the whole matrix adds up to the number of instances. By "code size" of the other, only of those that are not
            listed before this.
        weight, balanced_weight: factors to the odds of being drawn for either mix. They make up for what is lost where
            actions would use one part of the body at once; 1 before they are fitted.
    """

    anchors: tuple[int, int, int, int]
    lengths: tuple[float, ...]
    together: dict[str, float]
    weight: float
    balanced_weight: float


@dataclass(frozen=True, config=_STRICT)
class ActionTable:
    """One action: its number of instances, their mean length, its sizes, and how many pairs of instances overlap in
    time, by the other's code, only of those that are not listed before this.
    """

    count: int
    mean_s: float
    sizes: tuple[SizeTable, SizeTable, SizeTable]
    overlaps: dict[str, int]


# Compared by identity: what is derived from a table is cached by it.
@dataclass(frozen=True, eq=False, config=_STRICT)
class Table:
    """Statistics of many videos; times in seconds.

    Attributes:
        duration_s: quantiles of the videos' durations at equal steps from 0 to 1.
        numbers: per band of durations, bands equally likely: how many videos have 0, 1, 2 ... instances.
        sizes: per band, and per number of instances in the video, see NUMBERS: how many instances are of each size.
        concurrent_time: fraction of time with 0, 1, 2 ... actions going on.
        overlapping, starting, ending: fractions of instances.
        start_gap_s: quantiles at LEVELS of the time from an instance's start to the next one's in the same video.
        actions: by code, in the order of ACTIONS.
    """

    videos: int
    instances: int
    duration_s: tuple[float, ...]
    numbers: tuple[tuple[int, ...], ...]
    sizes: tuple[tuple[tuple[int, int, int], ...], ...]
    concurrent_time: tuple[float, ...]
    overlapping: float
    starting: float
    ending: float
    start_gap_s: tuple[float, ...]
    actions: dict[str, ActionTable]

    def __post_init__(self) -> None:
        """Refuses a table that is not of these actions or whose rows have other lengths than the sampler's."""
        if list(self.actions) != list(BY_CODE):
            raise ValueError("the table's actions are not those of training/people/actions.py, in that order")
        if len(self.duration_s) != DURATION_LEVELS:
            raise ValueError(f"duration_s has {len(self.duration_s)} quantiles, {DURATION_LEVELS} are wanted")
        if len(self.numbers) != BANDS or len({len(row) for row in self.numbers}) != 1:
            raise ValueError(f"numbers must be {BANDS} rows of one length")
        if len(self.sizes) != BANDS or {len(rows) for rows in self.sizes} != {len(NUMBERS)}:
            raise ValueError(f"sizes must be {BANDS} times {len(NUMBERS)} rows")
        for code, action in self.actions.items():
            _check_action(code, action)


def state_names() -> tuple[str, ...]:
    """Keys of SizeTable.together: every action in every size."""
    return tuple(f"{code} {size}" for code in BY_CODE for size in range(SIZES))


def _check_action(code: str, action: ActionTable) -> None:
    if unknown := set(action.overlaps) - set(BY_CODE):
        raise ValueError(f"{code} overlaps actions that are not known: {sorted(unknown)}")
    if sum(sum(size.anchors) for size in action.sizes) != action.count:
        raise ValueError(f"the sizes of {code} do not add up to its {action.count} instances")
    for size in action.sizes:
        if len(size.lengths) != (len(LEVELS) if sum(size.anchors) else 0):
            raise ValueError(f"{code} has {len(size.lengths)} quantiles of lengths, {len(LEVELS)} are wanted")
        if unknown := set(size.together) - set(state_names()):
            raise ValueError(f"{code} goes together with actions that are not known: {sorted(unknown)}")


@cache
def load_table() -> Table:
    """The table shipped."""
    return parse_table((resources.files("training.people.schedules") / "mma52.json").read_text("utf-8"))


def parse_table(text: str) -> Table:
    """A table as written by format_table; ValueError says what is wrong with another."""
    return TypeAdapter(Table).validate_json(text)


def format_table(table: Table) -> str:
    """As JSON, a line for each action."""
    text = TypeAdapter(Table).dump_json(table).decode()
    return re.sub(r'("actions":\{|\}\},)', r"\1\n", text) + "\n"
