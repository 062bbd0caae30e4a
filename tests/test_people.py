"""Synthetic people: actions, timing, bodies, performances and films."""

from collections import Counter
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from training.people.actions import ACTIONS, BY_CODE, MotionProfile, get_resources
from training.people.body import CACHE, Part, load_anatomy
from training.people.film import KEYPOINT_NAMES, PARTS, Recipe, get_person, make_film
from training.people.hand_targets import HAND_TARGETS, REST_TARGETS
from training.people.hands import MOTIONS
from training.people.options import Crop
from training.people.performance import perform
from training.people.person import draw_person, make_mesh
from training.people.scene import Framing
from training.people.schedules.schedule import Event, Schedule
from training.people.skeleton import Skeleton
from training.people.timing import STYLES, VISIBLE, Span, cycle_track, hold_track, step_track
from training.tables import standard_labels

WHOLE_BODY = Framing(3.4, 1.15, 0.0, 0.8, 0.5, 0.5, 0.0, "", 0.0)
SMALL = Recipe(seed=4, height=48, width=48)


@pytest.fixture(scope="module")
def anatomy():
    return load_anatomy()


def single_event(code: str, sides=("left",), start_s=1.0, end_s=3.0, duration_s=4.0) -> Schedule:
    return Schedule(duration_s, (Event(code, start_s, end_s, sides),))


# -- actions


def test_every_label_has_one_action():
    assert sorted(action.code for action in standard_labels().actions) == sorted(BY_CODE)
    assert len(ACTIONS) == len(BY_CODE) == 52


def test_actions_refer_to_existing_parts_and_targets():
    for action in ACTIONS:
        assert action.moves or action.hand, action.code
        for name in action.visible_parts:
            assert name in PARTS or f"{name}.left" in PARTS, (action.code, name)
        if action.hand:
            assert action.hand.motion in MOTIONS
            assert set(action.hand.targets) <= set(HAND_TARGETS)
    assert set(REST_TARGETS) <= set(HAND_TARGETS)


def test_resources_depend_on_sides():
    assert get_resources(BY_CODE["F1"], ("left",)) == {"hand.left", "F1"}
    assert get_resources(BY_CODE["C6"], ("left",)) == {"hand.left", "hand.right"}
    assert get_resources(BY_CODE["D7"], ("right",)) == {"leg.left", "leg.right"}
    assert get_resources(BY_CODE["B1"], ("left",)) == {"head_pitch"}


# -- timing


def timing_errors(track, span, times):
    """Return by how many s a track's first and last movement differ from the span's start and end."""
    values = track.sample(times)
    first = times[np.argmax(np.abs(values - values[0]) >= VISIBLE)]
    last = times[len(times) - 1 - np.argmax(np.abs(values[::-1] - values[-1]) >= VISIBLE)]
    return first - span.start_s, last - span.end_s


@pytest.mark.parametrize("style", STYLES)
def test_visible_movement_matches_label_times(style):
    times = np.arange(-2.0, 16.0, 0.002)
    for seed in range(40):
        span = Span(2.0, 2.0 + (0.4, 0.9, 2.0, 6.0, 11.0)[seed % 5])
        for make in (
            hold_track,
            step_track,
            lambda *a: cycle_track(*a, 1.7),
            lambda *a: cycle_track(*a, 2.3, rising=True),
        ):
            track = make(np.random.default_rng(seed), span, STYLES[style])
            assert np.abs(timing_errors(track, span, times)).max() < 1 / 30  # half a frame


def test_open_span_continues_beyond_film():
    for seed in range(30):
        rng = np.random.default_rng(seed)
        for span in (Span(0, 5, open_start=True), Span(3, 8, open_end=True), Span(0, 8, True, True)):
            edges = np.array([0.0] if span.open_start else []), np.array([8.0] if span.open_end else [])
            values = hold_track(rng, span, STYLES["calm"]).sample(np.concatenate(edges))
            assert (values > 0.5).all()


def test_cycles_vary_in_length_and_size():
    times = np.arange(0, 12, 0.01)
    for name, style in STYLES.items():
        values = cycle_track(np.random.default_rng(7), Span(1, 11), style, 1.5).sample(times)
        turns = np.flatnonzero(np.diff(np.sign(np.diff(values))))
        lengths, sizes = np.diff(times[turns]), np.abs(np.diff(values[turns]))
        assert np.std(lengths) / np.mean(lengths) > 0.1, name
        assert np.std(sizes) / np.mean(sizes) > 0.05, name


def test_styles_differ():
    def mean_peak_speed(style):
        tracks = [hold_track(np.random.default_rng(s), Span(1, 5), STYLES[style], 0.6) for s in range(40)]
        times = np.arange(0, 3, 0.01)
        return np.mean([np.abs(np.diff(track.sample(times))).max() for track in tracks])

    assert mean_peak_speed("brisk") > 1.25 * mean_peak_speed("calm")


# -- bodies


def test_body_cache_has_many_different_adults(anatomy):
    assert CACHE.stat().st_size < 20 * 2**20
    assert anatomy.people >= 1000
    shapes = [anatomy.rest(person)[0] for person in range(0, anatomy.people, 60)]
    heights = np.array([np.ptp(shape[:, 2]) for shape in shapes])
    assert heights.min() > 1.3
    assert heights.max() < 2.2
    assert heights.std() > 0.05
    assert all(np.abs(a - b).max() > 0.02 for a, b in pairwise(shapes))
    weights = anatomy.weights.sum(axis=1)
    np.testing.assert_allclose(weights, 1, atol=1e-5)


def test_loose_clothes_have_larger_girth(anatomy):
    person = draw_person(np.random.default_rng(1), anatomy)
    tight, loose = (make_mesh(replace(person, loose=value), anatomy)[1] for value in (0.01, 0.04))
    chest = make_mesh(person, anatomy)[2][anatomy.index["spine02"]]
    cloth = np.unique(anatomy.faces[anatomy.parts == Part.TIGHTS])
    near = cloth[(np.abs(tight[cloth] - chest) < (0.2, 0.3, 0.1)).all(axis=1)]
    girth = [np.linalg.norm((shape - chest)[near, :2], axis=1).mean() for shape in (tight, loose)]
    assert 0.01 < girth[1] - girth[0] < 0.05


def test_neighbouring_videos_share_person(anatomy):
    films = [make_film(SMALL, number, anatomy, single_event("B1")) for number in (0, 1, 5)]
    assert films[0].person == films[1].person == get_person(1) != films[2].person
    assert np.array_equal(films[0].shot.dress, films[1].shot.dress)
    assert not np.array_equal(films[0].shot.dress, films[2].shot.dress)
    assert not np.array_equal(films[0].shot.room, films[1].shot.room)


# -- performance


@pytest.mark.parametrize("code", [action.code for action in ACTIONS])
def test_action_moves_its_channels_during_label(code, anatomy):
    """Channels or hands move within the label's times and hardly before."""
    action = BY_CODE[code]
    sides = ("left", "right") if action.both == 1.0 else ("left",)
    times = np.arange(0, 4.2, 1 / 15)
    person = draw_person(np.random.default_rng(3), anatomy)
    _, vertices, heads = make_mesh(person, anatomy)
    skeleton = Skeleton(anatomy, vertices, heads)
    events = (Event(code, 1.4, 3.0, sides),)
    if code == "C10":
        events = (Event("C4", 0.4, 1.4, sides), *events)
    performance = perform(np.random.default_rng(1), Schedule(4.2, events), times, STYLES["calm"])
    largest = 0.0
    before = 0.0
    for name in {move.channel.strip("±").split(".")[0] for move in action.moves}:
        for channel, values in performance.channels.items():
            if channel.split(".")[0] == name:
                inside = (times > 1.4) & (times < 3.0)
                largest = max(largest, float(np.ptp(values[inside])))
                before = max(before, float(np.ptp(values[times < 1.2])))
    if action.hand is None:
        assert largest > 0.03, code
        assert largest > 1.5 * before, code
        return
    shares = [
        visit.share for side in sides for visit in performance.visits[side] if visit.target in action.hand.targets
    ]
    if code == "C10":
        shares = [visit.share for visit in performance.visits["left"] if visit.share.max() > 0.8]
        assert max(share[np.argmin(np.abs(times - 1.4))] for share in shares) > 0.8
        assert min(share[-1] for share in shares) < 0.1
        return
    assert any(share[(times > 1.8) & (times < 2.6)].min() > 0.5 and share[times < 1.3].max() < 0.15 for share in shares)
    assert skeleton.arm > 0.35


def test_step_actions_end_in_new_posture(anatomy):
    times = np.arange(0, 6, 1 / 15)
    for code, channel in (("D6", "knee_out.left"), ("D5", "knee_out.left"), ("D2", "foot_back.left"), ("A3", "slump")):
        assert BY_CODE[code].profile is MotionProfile.STEP
        sides = ("left", "right")
        performance = perform(
            np.random.default_rng(2),
            Schedule(6.0, (Event(code, 2.0, 3.0, sides),)),
            times,
            replace(STYLES["calm"], aborted=0),
        )
        values = performance.channels[channel]
        change = values[times > 3.3].mean() - values[times < 1.7].mean()
        assert abs(change) > 0.1
        assert np.ptp(values[times > 3.3]) < 0.5 * abs(change)


def test_initial_posture_hardly_predicts_actions():
    """Most videos that begin in a posture do not show the action that starts from it."""
    from training.people.options import Mix
    from training.people.schedules.schedule import sample_schedule

    starting, followed = Counter(), Counter()
    for seed in range(1500):
        rng = np.random.default_rng(seed)
        schedule = sample_schedule(rng, Mix.BALANCED)
        performance = perform(rng, schedule, np.arange(3) / 15, STYLES["calm"])
        first = {name: values[0] for name, values in performance.channels.items()}
        postures = {
            "D5": first["knee_out.left"] > 0.45 and first["knee_out.right"] > 0.45,
            "A3": first["slump"] > 0.5,
            "D2": min(first["foot_back.left"], first["foot_back.right"]) < -0.05,
            "C8": bool(performance.holders),
        }
        codes = {event.code for event in schedule.events}
        for code, present in postures.items():
            starting[code] += present
            followed[code] += present and code in codes
    for code in starting:
        assert followed[code] < 0.45 * starting[code], (code, followed[code], starting[code])


# -- films


def test_film_depends_on_recipe_and_number_only(anatomy):
    first, second = (make_film(SMALL, 7, anatomy) for _ in range(2))
    assert first.schedule == second.schedule
    assert np.array_equal(first.shot.transforms, second.shot.transforms)
    assert np.array_equal(first.keypoints, second.keypoints)
    other = make_film(replace(SMALL, seed=5), 7, anatomy)
    assert first.schedule != other.schedule


def test_boxes_contain_keypoints(anatomy):
    for number in range(4):
        film = make_film(SMALL, number, anatomy, framing=WHOLE_BODY)
        low, high = film.person_box[:, None, :2] - 0.5, film.person_box[:, None, 2:] + 0.5
        assert ((film.keypoints >= low) & (film.keypoints <= high)).all()
        nose = film.keypoints[:, KEYPOINT_NAMES.index("nose")]
        assert ((nose >= film.head_box[:, :2]) & (nose <= film.head_box[:, 2:])).all()
        inside = ((film.keypoints >= 0) & (film.keypoints < 48)).all(axis=-1)
        assert (film.keypoint_visible <= inside).all()


def test_actions_outside_picture_are_not_labelled(anatomy):
    schedule = Schedule(
        4.0, (Event("B1", 0.5, 1.5, ("left",)), Event("D1", 1.0, 2.0, ("left",)), Event("G3", 2.4, 3.4, ("left",)))
    )
    recipe = replace(SMALL, seed=11)  # draws no occluder
    whole = make_film(recipe, 0, anatomy, schedule, WHOLE_BODY)
    assert whole.effects.occluder is None
    assert [event.code for event in whole.shown] == ["B1", "D1", "G3"]
    cut = make_film(recipe, 0, anatomy, schedule, replace(WHOLE_BODY, cut="chest"))
    assert [event.code for event in cut.shown] == ["B1"]
    assert [event.code for event in cut.hidden] == ["D1", "G3"]


@pytest.mark.parametrize("crop", [Crop.PERSON, Crop.HEAD])
def test_crops_enlarge_their_box(crop, anatomy):
    plain = make_film(SMALL, 2, anatomy, single_event("B3"), replace(WHOLE_BODY, person=0.5))
    film = make_film(replace(SMALL, crop=crop), 2, anatomy, single_event("B3"), replace(WHOLE_BODY, person=0.5))
    box = film.person_box if crop is Crop.PERSON else film.head_box
    before = plain.person_box if crop is Crop.PERSON else plain.head_box
    assert (box[:, 3] - box[:, 1]).mean() > 1.3 * (before[:, 3] - before[:, 1]).mean()
    assert (box > -6).all()
    assert (box < 54).all()


def test_glasses_are_independent_of_actions(anatomy):
    pushing = [make_film(SMALL, 5 * number, anatomy, single_event("F5")) for number in range(3)]
    nodding = [make_film(SMALL, 5 * number, anatomy, single_event("B1")) for number in range(12)]
    sizes = {film.person: len(film.shot.mesh.rest) for film in nodding}
    assert all(len(film.shot.mesh.rest) > 0 for film in pushing)
    assert len(set(sizes.values())) > 2  # seats, glasses and held objects differ
