"""Compute the statistics of real schedules (see table.py) from the data set's train and val annotations.

`python -m training.people.schedules.statistics MMAD_JSON > mma52.json` takes some minutes: it counts, then fits
sampling weights until sampled schedules have the statistics of the real ones. The table contains only counts and
quantiles, from which no single video can be identified.
"""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from model.arrays import Doubles as Floats
from model.arrays import Integers
from model.taxonomy import Taxonomy
from training.evaluation.statistics import Statistics, compute_statistics
from training.instances import Instances
from training.people.actions import BY_CODE
from training.people.options import Mix
from training.people.schedules.schedule import sample_schedule, to_instances
from training.people.schedules.table import (
    AT_END_S,
    BANDS,
    DURATION_LEVELS,
    END,
    LEVELS,
    NUMBERS,
    SIZE_LIMITS,
    SIZES,
    START,
    WHOLE,
    ActionTable,
    SizeTable,
    Table,
    format_table,
    state_names,
)
from training.tables import read_annotations, standard_labels

ROUNDS = 10
SCHEDULES = 20_000  # sampled per round
# Added to counts before they are compared, so that the weights of rare states do not follow noise.
PRIOR = 15.0


def build_table(truth: Instances, taxonomy: Taxonomy) -> Table:
    """Compute the statistics of annotated videos with known durations."""
    statistics = compute_statistics(truth, taxonomy)
    number = np.bincount(truth.video, minlength=len(truth.videos))
    band = _bands(truth.durations)
    row = np.clip(number, NUMBERS[0], NUMBERS[-1]) - NUMBERS[0]
    counts = np.zeros((BANDS, len(NUMBERS), SIZES), np.int64)
    np.add.at(counts, (band[truth.video], row[truth.video], _sizes(truth)), 1)
    most = int(number.max()) + 1
    anchors = _anchors(truth)
    return Table(
        videos=len(truth.videos),
        instances=len(truth),
        duration_s=_quantiles(truth.durations, np.linspace(0, 1, DURATION_LEVELS)),
        numbers=tuple(tuple(np.bincount(number[band == one], minlength=most).tolist()) for one in range(BANDS)),
        sizes=tuple(tuple((short, long, full) for short, long, full in rows) for rows in counts.tolist()),
        concurrent_time=tuple(round(share, 4) for share in statistics.concurrent_time),
        overlapping=round(statistics.overlapping, 4),
        starting=round(statistics.starting, 4),
        ending=round(float((anchors >= 2).mean()), 4),
        start_gap_s=_quantiles(start_gaps(truth), LEVELS),
        actions=_actions(truth, taxonomy, statistics),
    )


def fit_weights(table: Table, taxonomy: Taxonomy, mix: Mix) -> Table:
    """Fit the weights of one mix so that every action occurs in every size at its target frequency."""
    rng = np.random.default_rng(0)
    target = np.array([[sum(size.anchors) for size in action.sizes] for action in table.actions.values()], float)
    if mix is Mix.BALANCED:
        target /= target.sum(axis=1, keepdims=True)
    weights = np.ones(target.shape)
    for turn in range(ROUNDS):
        sample = to_instances([sample_schedule(rng, mix, table) for _ in range(SCHEDULES)], taxonomy)
        counts = _state_counts(sample, taxonomy).reshape(target.shape)
        expected = target / target.sum() * counts.sum()
        # Steps shrink over the rounds, as the remaining differences are mostly sampling noise.
        weights *= ((expected + PRIOR) / (counts + PRIOR)) ** (1 / (1 + turn / 2))
        table = _with_weights(table, mix, weights / np.average(weights, weights=target))
    return table


def _with_weights(table: Table, mix: Mix, weights: Floats) -> Table:
    actions = {}
    for (code, action), row in zip(table.actions.items(), weights.tolist(), strict=True):
        short, long, full = (
            replace(size, weight=round(weight, 2))
            if mix is Mix.REAL
            else replace(size, balanced_weight=round(weight, 2))
            for size, weight in zip(action.sizes, row, strict=True)
        )
        actions[code] = replace(action, sizes=(short, long, full))
    return replace(table, actions=actions)


def _state_counts(truth: Instances, taxonomy: Taxonomy) -> Integers:
    """Return (states,) numbers of instances."""
    return np.bincount(_states(truth, taxonomy), minlength=len(state_names()))


def _states(truth: Instances, taxonomy: Taxonomy) -> Integers:
    """Return (n,) indices into state_names()."""
    return np.argsort(_action_ids(taxonomy))[truth.labels] * SIZES + _sizes(truth)


def _action_ids(taxonomy: Taxonomy) -> list[int]:
    """Return the taxonomy ids of ACTIONS, in order."""
    id_of = {action.code: action.id for action in taxonomy.actions}
    return [id_of[code] for code in BY_CODE]


def start_gaps(truth: Instances) -> Floats:
    """Return the seconds from each instance's start to the next start in the same video."""
    order = np.lexsort((truth.segments[:, 0], truth.video))
    gaps = np.diff(truth.segments[order, 0])
    return np.asarray(gaps[np.diff(truth.video[order]) == 0])


def _actions(truth: Instances, taxonomy: Taxonomy, statistics: Statistics) -> dict[str, ActionTable]:
    order, states, anchors = _action_ids(taxonomy), _states(truth, taxonomy), _anchors(truth)
    lengths = truth.segments[:, 1] - truth.segments[:, 0]
    parts = np.where(states % SIZES == 0, lengths, lengths / truth.durations[truth.video])
    together = _together(truth.video, states)
    overlaps = np.array(statistics.overlap_count)[np.ix_(order, order)]
    actions = {}
    for index, code in enumerate(BY_CODE):
        mine = states // SIZES == index
        short, long, full = (
            _size(anchors[states == state], parts[states == state], together[state], state)
            for state in range(index * SIZES, (index + 1) * SIZES)
        )
        actions[code] = ActionTable(
            count=int(mine.sum()),
            mean_s=round(float(lengths[mine].mean()), 3) if mine.any() else 0.0,
            sizes=(short, long, full),
            overlaps={
                other: int(pairs) for other, pairs in list(zip(BY_CODE, overlaps[index], strict=True))[index:] if pairs
            },
        )
    return actions


def _size(anchors: Integers, parts: Floats, together: Floats, state: int) -> SizeTable:
    partial = parts[anchors != WHOLE]
    names = state_names()
    return SizeTable(
        anchors=_count_anchors(anchors),
        lengths=_quantiles(partial if len(partial) else parts, LEVELS) if len(parts) else (),
        together={
            names[other]: round(float(weight), 2) for other, weight in enumerate(together) if weight and other >= state
        },
        weight=1.0,
        balanced_weight=1.0,
    )


def _anchors(truth: Instances) -> Integers:
    """Return (n,) INSIDE, START, END or WHOLE."""
    starts = truth.segments[:, 0] == 0
    ends = truth.durations[truth.video] - truth.segments[:, 1] < AT_END_S
    return np.asarray(starts * START + ends * END)


def _sizes(truth: Instances) -> Integers:
    """Return (n,) sizes: 0 short, 1 long, 2 full."""
    parts = (truth.segments[:, 1] - truth.segments[:, 0]) / truth.durations[truth.video]
    return np.digitize(parts, SIZE_LIMITS)


def _bands(durations: Floats) -> Integers:
    edges = np.quantile(durations, np.linspace(0, 1, BANDS + 1))
    return np.searchsorted(edges[1:-1], durations, side="right")


def _together(video: Integers, states: Integers) -> Floats:
    """Return (states, states) counts of ordered pairs in a video; each of its n instances adds 1 / (n - 1) a pair."""
    weights = np.zeros((len(state_names()),) * 2)
    for one in np.unique(video):
        here = states[video == one]
        for place, state in enumerate(here):
            np.add.at(weights[state], np.delete(here, place), 1 / max(1, len(here) - 1))
    return weights


def _quantiles(values: Floats, levels: Floats | tuple[float, ...]) -> tuple[float, ...]:
    return tuple(round(float(value), 3) for value in np.quantile(values, levels))


def _count_anchors(anchors: Integers) -> tuple[int, int, int, int]:
    inside, start, end, whole = np.bincount(anchors, minlength=4).tolist()
    return inside, start, end, whole


def _train_and_val(path: Path, taxonomy: Taxonomy) -> Instances:
    both = [read_annotations(path, taxonomy, subset=subset).instances for subset in ("train", "val")]
    return _concatenate(both[0], both[1])


def _concatenate(first: Instances, second: Instances) -> Instances:
    return Instances(
        videos=first.videos + second.videos,
        durations=np.concatenate([first.durations, second.durations]),
        video=np.concatenate([first.video, second.video + len(first.videos)]),
        segments=np.concatenate([first.segments, second.segments]),
        labels=np.concatenate([first.labels, second.labels]),
        scores=np.concatenate([first.scores, second.scores]),
    )


def main() -> None:
    """Print the table of the given annotations."""
    taxonomy = standard_labels()
    truth = _train_and_val(Path(sys.argv[1]), taxonomy)
    table = build_table(truth, taxonomy)
    for mix in Mix:
        table = fit_weights(table, taxonomy, mix)
    sys.stdout.write(format_table(table))


if __name__ == "__main__":
    main()
