"""Statistics of real schedules, stored in mma52.json beside this file; statistics.py computes them."""

import re
from functools import cache
from importlib import resources

from pydantic import ConfigDict, TypeAdapter
from pydantic.dataclasses import dataclass

from training.people.actions import BY_CODE

# Lengths are skewed: the levels are denser where linear interpolation between quantiles would bias the mean.
LEVELS = (0.0, 0.05, 0.15, 0.3, 0.5, 0.7, 0.85, 0.95, 0.98, 1.0)
DURATION_LEVELS = 41
BANDS = 8
# Annotated ends stop one or two frames of 1/30 s short of the video's end.
AT_END_S = 0.07
# An instance is short, long or full by the fraction of its video that it covers. Two full instances cannot use the
# same body part, so co-occurrence is counted per size.
SIZE_LIMITS = (0.4, 0.8)
SIZES = len(SIZE_LIMITS) + 1
INSIDE, START, END, WHOLE = range(4)  # position in the video; WHOLE is START and END
# Numbers of instances per video that `sizes` distinguishes; the last one includes higher numbers.
NUMBERS = (2, 3, 4, 5)

_STRICT = ConfigDict(extra="forbid", strict=True)


@dataclass(frozen=True, config=_STRICT)
class SizeTable:
    """Statistics of the instances of one action in one size (short, long or full).

    Attributes:
        anchors: numbers of instances inside the video, at its start, at its end, and covering it.
        lengths: quantiles at LEVELS, in seconds for short instances and as fractions of the video for others, without
            instances that cover the video. Empty if there are no instances.
        together: co-occurrence counts by "code size" of the other instance: in a video of n instances each ordered
            pair counts 1 / (n - 1), so that a row of the full matrix sums to the number of instances. Only the upper
            triangle is stored: states listed before this one are left out.
        weight, balanced_weight: factors on the sampling odds for either mix. They compensate for rejected placements
            (actions that need the same body part); 1 before they are fitted.
    """

    anchors: tuple[int, int, int, int]
    lengths: tuple[float, ...]
    together: dict[str, float]
    weight: float
    balanced_weight: float


@dataclass(frozen=True, config=_STRICT)
class ActionTable:
    """Statistics of one action.

    Attributes:
        count: number of instances.
        mean_s: their mean length.
        sizes: statistics per size.
        overlaps: pairs of instances that overlap in time, by the other's code; codes listed earlier are left out.
    """

    count: int
    mean_s: float
    sizes: tuple[SizeTable, SizeTable, SizeTable]
    overlaps: dict[str, int]


# eq=False: tables are cache keys and must be hashable.
@dataclass(frozen=True, eq=False, config=_STRICT)
class Table:
    """Statistics of many videos; times in seconds.

    Attributes:
        duration_s: quantiles of the videos' durations at equal steps from 0 to 1.
        numbers: per duration band (all equally likely), the number of videos with 0, 1, 2 ... instances.
        sizes: per duration band and number of instances in the video (see NUMBERS), instances of each size.
        concurrent_time: fraction of time with 0, 1, 2 ... concurrent actions.
        overlapping, starting, ending: fractions of instances.
        start_gap_s: quantiles at LEVELS of the time from an instance's start to the next start in the same video.
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
        """Raise ValueError for a table of other actions or with rows of unexpected lengths."""
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
    """Return the keys of SizeTable.together: every action in every size."""
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
    """Load the shipped table."""
    return parse_table((resources.files("training.people.schedules") / "mma52.json").read_text("utf-8"))


def parse_table(text: str) -> Table:
    """Parse a table written by format_table; raise ValueError if it is invalid."""
    return TypeAdapter(Table).validate_json(text)


def format_table(table: Table) -> str:
    """Format a table as JSON with one line per action."""
    text = TypeAdapter(Table).dump_json(table).decode()
    return re.sub(r'("actions":\{|\}\},)', r"\1\n", text) + "\n"
