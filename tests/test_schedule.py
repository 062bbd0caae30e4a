"""Sampled schedules: no conflicting events, and the statistics of the real data set."""

import json
from collections import Counter
from functools import cache
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from training.evaluation.statistics import Statistics, compute_statistics
from training.people.actions import BY_CODE, get_resources
from training.people.schedules.placement import GAP_S
from training.people.schedules.schedule import (
    MIN_EVENT_S,
    Event,
    Mix,
    Schedule,
    load_table,
    sample_schedule,
    to_instances,
)
from training.people.schedules.statistics import build_table
from training.people.schedules.table import format_table, parse_table
from training.tables import read_labels

TAXONOMY = read_labels(Path(__file__).parent.parent / "training/labels/mma52.json")
LABELS = {action.code: action.id for action in TAXONOMY.actions}
SCHEDULES = 6000
ROUNDING = 1e-9


@cache
def sampled(mix: Mix, seed: int = 0) -> tuple[Schedule, ...]:
    rng = np.random.default_rng(seed)
    return tuple(sample_schedule(rng, mix) for _ in range(SCHEDULES))


@cache
def statistics() -> Statistics:
    return compute_statistics(to_instances(sampled(Mix.REAL), TAXONOMY), TAXONOMY)


def is_stretch_before(first: Event, second: Event) -> bool:
    codes = (first.code, second.code) == ("C4", "C10")
    return codes and first.end_s == second.start_s and first.sides == second.sides


def test_schedule_depends_on_seed_only():
    draws = [[sample_schedule(np.random.default_rng(seed)) for seed in (0, 0, 1)] for _ in range(2)]
    assert draws[0] == draws[1]
    assert draws[0][0] == draws[0][1] != draws[0][2]


@pytest.mark.parametrize("mix", Mix)
def test_events_with_shared_body_parts_have_a_gap(mix):
    shared = 0
    for schedule in sampled(mix):
        for first, second in combinations(schedule.events, 2):
            both = (get_resources(BY_CODE[event.code], event.sides) for event in (first, second))
            if frozenset.intersection(*both):
                shared += 1
                assert first.end_s + GAP_S <= second.start_s + ROUNDING or is_stretch_before(first, second)
    assert shared > 500


@pytest.mark.parametrize("mix", Mix)
def test_events_are_ordered_and_within_video(mix):
    for schedule in sampled(mix):
        starts = [event.start_s for event in schedule.events]
        assert starts == sorted(starts)
        for event in schedule.events:
            assert 0 <= event.start_s < event.end_s <= schedule.duration_s
            assert event.end_s - event.start_s >= MIN_EVENT_S - ROUNDING
            assert event.sides == ("left", "right") or BY_CODE[event.code].both < 1
            assert len(event.sides) == 1 or BY_CODE[event.code].both > 0


@pytest.mark.parametrize("mix", Mix)
def test_retracted_arm_was_stretched_before(mix):
    checked = 0
    for schedule in sampled(mix):
        for event in schedule.events:
            if event.code == "C10" and event.start_s > 0:
                checked += 1
                assert sum(is_stretch_before(other, event) for other in schedule.events) == 1
    assert checked > 5


@pytest.mark.parametrize("duration_s", [1.0, 1.5, 5.0, 12.0, 40.0])
def test_given_duration_is_used(duration_s):
    rng = np.random.default_rng(0)
    for mix in (*Mix, *Mix):
        schedule = sample_schedule(rng, mix, duration_s=duration_s)
        assert schedule.duration_s == duration_s
        assert schedule.events
        assert all(0 <= event.start_s < event.end_s <= duration_s for event in schedule.events)


@pytest.mark.parametrize("duration_s", [0.5, -1.0, float("nan"), float("inf")])
def test_invalid_duration_is_refused(duration_s):
    with pytest.raises(ValueError, match="a schedule cannot last"):
        sample_schedule(np.random.default_rng(0), duration_s=duration_s)


def test_action_durations_match_real_data():
    table = load_table()
    for code, action in table.actions.items():
        ours = statistics().class_duration[LABELS[code]]
        if action.count < 50:
            continue
        # Means are within a tenth plus chance: 3.3 standard errors, as 38 actions are compared.
        chance = 3.3 * ours.std / np.sqrt(ours.n)
        assert abs(ours.mean - action.mean_s) < 0.1 * action.mean_s + max(0.05 * action.mean_s, chance), code
    counts = [action.count for action in table.actions.values()]
    ratios = [statistics().class_duration[LABELS[code]].mean / action.mean_s for code, action in table.actions.items()]
    assert np.average(ratios, weights=counts) == pytest.approx(1, abs=0.05)


def test_concurrency_matches_real_data():
    table, ours = load_table(), statistics()
    for real, sampled_share in zip(table.concurrent_time[:4], ours.concurrent_time[:4], strict=True):
        assert sampled_share == pytest.approx(real, abs=0.025)
    assert ours.starting == pytest.approx(table.starting, abs=0.03)
    assert ours.overlapping == pytest.approx(table.overlapping, abs=0.03)
    ends = [event.end_s == schedule.duration_s for schedule in sampled(Mix.REAL) for event in schedule.events]
    assert np.mean(ends) == pytest.approx(table.ending, abs=0.03)


def test_video_durations_and_event_counts_match_real_data():
    table, ours = load_table(), statistics()
    real = np.array(table.numbers).sum(axis=0) / table.videos
    sampled_share = np.array(ours.instances_per_video) / ours.videos
    assert np.abs(np.pad(sampled_share, (0, len(real) - len(sampled_share))) - real).max() < 0.04
    durations = np.quantile([schedule.duration_s for schedule in sampled(Mix.REAL)], np.linspace(0, 1, 9))
    assert durations == pytest.approx(table.duration_s[::5], abs=0.4)


def test_action_frequencies_and_overlaps_match_real_data():
    table, ours = load_table(), statistics()
    real = np.array([action.count for action in table.actions.values()]) / table.videos
    sampled_share = np.array([ours.class_count[LABELS[code]] for code in table.actions]) / ours.videos
    assert np.abs(sampled_share - real).sum() < 0.09 * real.sum()
    order = [LABELS[code] for code in table.actions]
    overlaps = np.array(ours.overlap_count)[np.ix_(order, order)]
    expected = [[action.overlaps.get(code, 0) for code in table.actions] for action in table.actions.values()]
    pairs = np.triu_indices(len(order))
    assert np.corrcoef(overlaps[pairs], np.array(expected)[pairs])[0, 1] > 0.9


def test_balanced_schedules_have_equal_action_counts():
    events = Counter(event.code for schedule in sampled(Mix.BALANCED) for event in schedule.events)
    mean = sum(events.values()) / len(BY_CODE)
    assert set(events) == set(BY_CODE)
    # C4 is more frequent: every retracted arm (C10) needs it.
    assert events.pop("C4") < 1.7 * mean
    # Four and a half standard deviations of chance.
    assert max(abs(number - mean) for number in events.values()) < 4.5 * np.sqrt(mean)


def test_instances_equal_events():
    schedule = Schedule(6.0, (Event("B1", 0.0, 1.5, ("left",)), Event("C3", 2.0, 6.0, ("left", "right"))))
    instances = to_instances([schedule, schedule], TAXONOMY)
    assert instances.videos == ("synth00000", "synth00001")
    assert instances.durations.tolist() == [6.0, 6.0]
    assert instances.video.tolist() == [0, 0, 1, 1]
    assert instances.segments[:2].tolist() == [[0.0, 1.5], [2.0, 6.0]]
    assert [TAXONOMY.actions[label].code for label in instances.labels] == ["B1", "C3"] * 2


def test_table_is_built_from_annotations():
    events = (Event("C10", 0.0, 2.0, ("left",)), Event("B1", 0.0, 10.0, ("left",)))
    table = build_table(to_instances([Schedule(10.0, events)] * 3, TAXONOMY), TAXONOMY)
    assert (table.videos, table.instances, table.starting, table.ending) == (3, 6, 1.0, 0.5)
    nod, retract = table.actions["B1"], table.actions["C10"]
    assert [size.anchors for size in nod.sizes] == [(0, 0, 0, 0), (0, 0, 0, 0), (0, 0, 0, 3)]
    assert retract.sizes[0].anchors == (0, 3, 0, 0)
    assert set(retract.sizes[0].lengths) == {2.0}
    assert nod.sizes[2].together == {"C10 0": 3.0}
    assert nod.overlaps == {"C10": 3}


def test_table_survives_round_trip():
    assert format_table(parse_table(format_table(load_table()))) == format_table(load_table())


def _without_an_action(document):
    del document["actions"]["B1"]


def _with_a_quantile_too_many(document):
    document["actions"]["B1"]["sizes"][0]["lengths"].append(1.0)


def _with_an_unknown_partner(document):
    document["actions"]["B1"]["sizes"][0]["together"]["B9 0"] = 1.0


def _with_a_wrong_count(document):
    document["actions"]["B1"]["count"] += 1


def _with_an_unknown_field(document):
    document["idle"] = 0.1


def _with_a_text_for_a_number(document):
    document["videos"] = "6009"


@pytest.mark.parametrize(
    "corrupt",
    [
        _without_an_action,
        _with_a_quantile_too_many,
        _with_an_unknown_partner,
        _with_a_wrong_count,
        _with_an_unknown_field,
        _with_a_text_for_a_number,
    ],
)
def test_corrupt_table_is_refused(corrupt):
    document = json.loads(format_table(load_table()))
    corrupt(document)
    with pytest.raises(ValueError, match="validation error|table|B1"):
        parse_table(json.dumps(document))
