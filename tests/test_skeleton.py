"""Synthetic people's joints: bones keep their lengths, feet stand, hands meet what they go to and stay out of the body."""

from functools import cache
from itertools import pairwise

import numpy as np
import pytest

from training.people.actions import ACTIONS, BY_CODE
from training.people.arms import Arms
from training.people.body import load_anatomy
from training.people.hand_targets import HAND_TARGETS, REST_TARGETS, Contact
from training.people.hands import HandMotion, Visit, is_shared_target, move_arms
from training.people.performance import perform
from training.people.rotations import (
    axis_angle,
    invert,
    limit_rate,
    normalize,
    rotate,
    rotation_between,
    slerp,
    slerp_one_way,
    two_bone_ik,
)
from training.people.schedules.schedule import Event, Schedule
from training.people.skeleton import LETTER, SIDES, Skeleton
from training.people.timing import STYLES

FPS, DURATION_S = 6, 4.2
LEGS = ("D1", "D2", "D3", "D4", "D5", "D6", "D8")
BENT_DOUBLE = ("G3", "G4")  # the belly lies on the thighs
NODDED = {"nose": 0.02, "chin": 0.02, "cheek": 0.02, "eye": 0.02, "ear": 0.02, "forehead": 0.02, "hair_top": 0.02}


@cache
def skeletons(count=6):
    """Thin and fat, men and women."""
    anatomy = load_anatomy()
    kinds = [(gender, weight) for weight in (0.3, 0.55, 0.83) for gender in (0, 1)][:count]
    away = [
        9 * (anatomy.phenotypes[:, 0] - gender) ** 2 + (anatomy.phenotypes[:, 2] - weight) ** 2
        for gender, weight in kinds
    ]
    return [Skeleton(anatomy, *anatomy.rest(int(distances.argmin()))) for distances in away]


def still(frames, curl=0.2):
    return HandMotion(
        np.zeros((frames, 3)), np.zeros((frames, 3)), np.broadcast_to(np.asarray(curl, float), (frames, 5))
    )


def curl_of(hand):
    """(5,) in the middle of an action's range."""
    curl = np.full(5, sum(hand.curl) / 2)
    curl[1] = 0.12 if hand.point else curl[1]
    return curl


def posed(skeleton, places, channels=None, frames=1, rest="rest_thigh", curl=0.2, share=1.0):
    """A pose with hands (side -> place) where they belong."""
    pose = skeleton.sit(channels or {}, frames)
    resting = {side: Visit(rest, np.ones(frames), still(frames), side == "left") for side in SIDES}
    visits = {
        side: [Visit(places[side], np.full(frames, share), still(frames, curl), side == "left")]
        if side in places
        else []
        for side in SIDES
    }
    move_arms(skeleton, pose, resting, visits)
    return pose


def acted(skeleton, code, sides, seed=0, fps=FPS, style="calm"):
    """The pose of one action, from before to after."""
    schedule = Schedule(DURATION_S, (Event(code, 0.9, 3.2, sides),))
    times_s = np.arange(int(DURATION_S * fps)) / fps
    performance = perform(np.random.default_rng(seed), schedule, times_s, STYLES[style])
    pose = skeleton.sit(performance.channels, len(times_s))
    move_arms(skeleton, pose, performance.rest, performance.visits, fps)
    return pose


def steps_of(rotations):
    """Angles (frames - 1,) between rotations, degrees."""
    turned = invert(rotations[:-1]) @ rotations[1:]
    return np.degrees(np.arccos(np.clip((np.trace(turned, axis1=1, axis2=2) - 1) / 2, -1, 1)))


def choose_sides(code, number):
    return tuple(SIDES) if BY_CODE[code].both == 1 else (("left",), ("right",))[number % 2]


def skin(skeleton, pose, bones):
    """Vertices (frames, n, 3) that bones of these names move most."""
    anatomy = skeleton.anatomy
    chosen = np.isin(anatomy.bones[:, 0], [anatomy.index[name] for name in anatomy.names if name.startswith(bones)])
    moves = pose.transforms()[:, anatomy.bones[chosen]]
    blended = (moves * anatomy.weights[chosen][..., None, None]).sum(2)
    return rotate(blended[..., :3], skeleton.vertices[chosen]) + blended[..., 3]


def palm(skeleton, pose, side):
    """Middle of a palm's surface (frames, 3), and where it looks."""
    letter = LETTER[side]
    rotation = pose.rotation(f"wrist.{letter}")
    looks = rotate(rotation, skeleton.hand_axes(letter)[1])
    wrist, knuckle = pose.position(f"wrist.{letter}"), pose.position(f"finger3-1.{letter}")
    return wrist + 0.75 * (knuckle - wrist) + 0.02 * looks, looks


def test_two_bones_reach_and_keep_their_lengths():
    rng = np.random.default_rng(0)
    start, pole = rng.normal(size=(2, 200, 3))
    target = start + normalize(rng.normal(size=(200, 3))) * rng.uniform(0.1, 0.49, (200, 1))
    middle, end = two_bone_ik(start, target, 0.27, 0.23, pole)
    assert np.allclose(end, target)
    assert np.allclose(np.linalg.norm(middle - start, axis=1), 0.27)
    assert np.allclose(np.linalg.norm(end - middle, axis=1), 0.23)
    assert (((middle - 0.5 * (start + end)) * pole).sum(1) > -0.1).all()


def test_out_of_reach_two_bones_stretch_towards_the_target():
    middle, end = two_bone_ik(np.zeros((1, 3)), np.array([[0.0, -2.0, 0.0]]), 0.3, 0.2, np.array([[0.0, 0.0, -1.0]]))
    assert 0.49 < np.linalg.norm(end) < 0.5
    assert np.allclose(end[0, [0, 2]], 0)
    assert np.linalg.norm(middle) == pytest.approx(0.3)


@pytest.mark.parametrize("code", ["F1", "E5", "G4", "D7", "C4"])
def test_limbs_keep_their_lengths(code):
    for number, skeleton in enumerate(skeletons(4)):
        pose = acted(skeleton, code, choose_sides(code, number), number)
        for letter in "LR":
            for chain in (("upperarm01", "lowerarm01", "wrist"), ("upperleg01", "lowerleg01", "foot")):
                names = [f"{bone}.{letter}" for bone in chain]
                for first, second in pairwise(names):
                    length = np.linalg.norm(pose.position(first) - pose.position(second), axis=1)
                    at_rest = np.linalg.norm(skeleton.rest_head(first) - skeleton.rest_head(second))
                    assert np.allclose(length, at_rest, atol=2e-3), (first, second)


def test_mirrored_channels_and_hands_give_the_mirrored_pose():
    skeleton = skeletons()[0]
    channels = {
        "torso_pitch": 0.2, "torso_yaw": 0.3, "torso_roll": 0.1, "head_yaw": -0.4, "head_roll": 0.2, "lean_x": 0.03,
        "pelvis_yaw": 0.1, "lift.left": 0.4, "knee_out.right": 0.3, "heel.left": 0.4, "foot_back.right": 0.1,
    }  # fmt: skip
    swapped = {"left": "right", "right": "left"}
    mirrored = {}
    for name, value in channels.items():
        base, _, side = name.partition(".")
        sign = -1 if base in ("torso_yaw", "torso_roll", "head_yaw", "head_roll", "lean_x", "pelvis_yaw") else 1
        mirrored[f"{base}.{swapped[side]}" if side else base] = sign * value
    pose = posed(skeleton, {"left": "chin"}, channels)
    other = posed(skeleton, {"right": "chin"}, mirrored)
    for name in skeleton.anatomy.names:
        twin = name[:-1] + {"L": "R", "R": "L"}[name[-1]] if name[-2] == "." else name
        away = np.abs(pose.position(name) * (-1, 1, 1) - other.position(twin)).max()
        assert away < (0.03 if "finger" in name else 0.02), name


def test_a_raised_heel_leaves_the_ball_of_the_foot_on_the_floor():
    for skeleton in skeletons():
        pose = skeleton.sit({"heel.left": np.array([0.0, 0.3, 0.7])}, 3)
        assert np.abs(skin(skeleton, pose, ("toe", "foot.L"))[..., 2].min(1)).max() < 0.015
        ankle = pose.position("foot.L")[:, 2]
        assert ankle[2] > ankle[1] + 0.03 > ankle[0] + 0.06
        ball = pose.position("toe3-1.L")
        assert np.abs(ball - ball[0]).max() < 0.025


@pytest.mark.parametrize("code", LEGS)
def test_feet_stand_on_the_floor(code):
    for number, skeleton in enumerate(skeletons(4)):
        pose = acted(skeleton, code, choose_sides(code, number), number)
        for letter in "LR":
            lowest = skin(skeleton, pose, (f"foot.{letter}", *(f"toe{toe}-1.{letter}" for toe in range(1, 6))))[
                ..., 2
            ].min(1)
            assert lowest.min() > -0.02
            assert lowest[-1] < 0.02


def test_a_crossed_leg_lies_on_the_other_one():
    for skeleton in skeletons():
        for side, other in (("L", "R"), ("R", "L")):
            pose = skeleton.sit({f"cross.{'left' if side == 'L' else 'right'}": 1.0}, 1)
            over, under = pose.position(f"lowerleg01.{side}")[0], pose.position(f"lowerleg01.{other}")[0]
            assert over[2] > under[2] + 0.08
            assert abs(over[0] - under[0]) < 0.12
            assert skin(skeleton, pose, (f"foot.{side}", "toe"))[..., 2].min() > -0.02
            foot = pose.position(f"foot.{side}")[0]
            assert foot[2] > 0.15
            assert (foot[0] - under[0]) * (1 if side == "L" else -1) < 0.05


@pytest.mark.parametrize("place", NODDED)
@pytest.mark.parametrize("side", SIDES)
def test_a_touch_stays_on_a_moving_head(place, side):
    frames = 20
    beat = np.sin(np.linspace(0, 12, frames))
    channels = {"head_pitch": 0.25 * beat, "head_yaw": 0.2 * np.roll(beat, 3), "torso_roll": 0.1 * beat}
    for skeleton in skeletons(4):
        pose = posed(skeleton, {side: place}, channels, frames)
        wanted = Arms(skeleton, pose).reach(HAND_TARGETS[place], side, np.full((frames, 5), 0.2))
        touching = wanted.position + rotate(wanted.rotation, wanted.contact)
        letter = LETTER[side]
        hand = pose.position(f"wrist.{letter}") + rotate(pose.rotation(f"wrist.{letter}"), wanted.contact)
        assert np.ptp(touching, axis=0).max() > 0.04  # the head does move
        assert np.linalg.norm(hand - touching, axis=1).max() < NODDED[place]


@pytest.mark.parametrize("place", ["palms_joined", "palms_joined_low", "rub_joined"])
def test_palms_meet(place):
    for skeleton in skeletons():
        pose = posed(skeleton, dict.fromkeys(SIDES, place), curl=0.07)
        (left, left_looks), (right, right_looks) = (palm(skeleton, pose, side) for side in SIDES)
        assert np.linalg.norm(left - right) < 0.04
        assert (left_looks * right_looks).sum() < -0.5


@pytest.mark.parametrize("place", ["lap_joined", "rest_joined", "rest_belly"])
def test_fingers_of_both_hands_meet(place):
    for skeleton in skeletons():
        pose = posed(skeleton, dict.fromkeys(SIDES, place), curl=0.3)
        left, right = (
            skin(skeleton, pose, tuple(f"finger{n}-{joint}.{letter}" for n in (2, 3, 4, 5) for joint in (1, 2, 3)))[0]
            for letter in "LR"
        )
        gaps = np.linalg.norm(left[:, None] - right[None], axis=-1)
        assert gaps.min() < 0.03


def test_arms_are_crossed_in_front_of_the_chest():
    for skeleton in skeletons():
        pose = posed(skeleton, dict.fromkeys(SIDES, "crossed"), curl=0.3)
        chest = pose.position("spine02")[0]
        for letter, sign in (("L", 1), ("R", -1)):
            wrist, elbow = pose.position(f"wrist.{letter}")[0], pose.position(f"lowerarm01.{letter}")[0]
            assert wrist[0] * sign < 0.02 < elbow[0] * sign
            assert wrist[1] < chest[1]


@pytest.mark.parametrize("rest", REST_TARGETS)
def test_only_hips_have_winged_elbows(rest):
    for skeleton in skeletons():

        def width(pose):
            return pose.position("lowerarm01.L")[0, 0] - pose.position("upperarm01.L")[0, 0]

        assert width(posed(skeleton, {}, rest=rest)) < 0.15
        assert width(posed(skeleton, dict.fromkeys(SIDES, "hip"))) > 0.18


def out_of_reach(place):
    return place.startswith("out_")


@pytest.mark.parametrize("code", [action.code for action in ACTIONS if action.hand])
def test_places_are_reached_by_most(code):
    """The trunk in the middle of what the action makes it do."""
    action = BY_CODE[code]
    for place in action.hand.targets:
        missed = []
        for skeleton in skeletons()[1::2]:
            channels = {
                (move.channel + "left" if move.channel.endswith(".") else move.channel.removeprefix("±")): (
                    move.low + move.high
                )
                / 2
                for move in action.moves
            }
            pitch, yaw, roll = HAND_TARGETS[place].lean
            for name, value in zip(("torso_pitch", "torso_yaw", "torso_roll"), (pitch, yaw, roll), strict=True):
                channels[name] = channels.get(name, 0) + value
            curl = curl_of(action.hand)
            pose = posed(skeleton, {"left": place}, channels, curl=curl)
            wanted = Arms(skeleton, pose).reach(HAND_TARGETS[place], "left", curl[None], on_top=True)
            hand = pose.position("wrist.L") + rotate(pose.rotation("wrist.L"), wanted.contact)
            missed.append(np.linalg.norm(hand - wanted.position - rotate(wanted.rotation, wanted.contact)))
        if out_of_reach(place):  # so that the arm is stretched
            assert min(missed) > 0.02
        else:
            assert np.median(missed) < 0.035, (place, missed)


@pytest.mark.parametrize("code", [action.code for action in ACTIONS])
def test_arms_stay_out_of_the_body(code):
    """Wrists, knuckles, elbows and forearms in every frame, on the way too."""
    deep = 0.075 if code in BENT_DOUBLE else 0.045
    for number, skeleton in enumerate(skeletons()[1::2]):
        pose = acted(skeleton, code, choose_sides(code, number), number)
        body = skeleton.surface(pose)
        for letter in "LR":
            elbow, wrist, knuckle = (pose.position(f"{bone}.{letter}") for bone in ("lowerarm01", "wrist", "finger3-1"))
            points = [wrist, knuckle, elbow, elbow + 0.35 * (wrist - elbow), elbow + 0.7 * (wrist - elbow)]
            distance, _ = body.signed_distance(np.stack(points, 1))
            assert distance.min() > -deep, (number, letter)
            assert np.quantile(distance, 0.05) > (-0.03 if code in BENT_DOUBLE else -0.01)


@pytest.mark.parametrize("code", ["C7", "E3", "F1", "F4", "F8", "G1", "C6"])
def test_nothing_jumps(code):
    for number, skeleton in enumerate(skeletons()[::2]):
        pose = acted(skeleton, code, choose_sides(code, number), number)
        for letter in "LR":
            for bone in ("lowerarm01", "wrist", "finger3-1"):
                speed = np.linalg.norm(np.diff(pose.position(f"{bone}.{letter}"), axis=0), axis=1) * FPS
                assert speed.max() < 4.5
            turned = invert(pose.rotation(f"wrist.{letter}"))[:-1] @ pose.rotation(f"wrist.{letter}")[1:]
            cosine = (np.trace(turned, axis1=1, axis2=2) - 1) / 2
            assert cosine.min() > np.cos(2.2)


@pytest.mark.parametrize("code", ["C7", "E2", "E3", "F3", "F4", "G3", "G4"])
def test_arms_do_not_flip_between_frames(code):
    for number, (skeleton, style) in enumerate(zip(skeletons(), 2 * ("calm", "brisk", "restless"), strict=True)):
        pose = acted(skeleton, code, choose_sides(code, number), number, 30, style)
        for bone in ("upperarm01", "lowerarm01", "lowerarm02", "wrist"):
            for letter in "LR":
                assert steps_of(pose.rotation(f"{bone}.{letter}")).max() < 40, (number, bone, letter)


def test_what_jumps_becomes_a_ramp_and_the_rest_stays():
    gentle = 0.3 * np.sin(np.linspace(0, 6, 60))[:, None] * (1, -2)
    assert np.allclose(limit_rate(gentle, 0.1), gentle)
    jump = np.where(np.arange(60) < 30, -1.0, 1.0)
    ramp = limit_rate(jump, 0.2)
    assert np.allclose(np.diff(ramp)[[10, 25, 29, 33, 45]], [0, 0.1, 0.2, 0.1, 0])
    assert np.allclose(ramp[[0, 15, 45, 59]], [-1, -1, 1, 1])
    assert (np.diff(limit_rate(np.random.default_rng(0).normal(size=60), 0.2)) < 0.2 + 1e-9).all()


def test_a_passage_of_half_a_turn_keeps_its_way_round():
    frames = 40
    share = np.linspace(0, 1, frames)
    first = np.broadcast_to(np.eye(3), (frames, 3, 3))
    second = axis_angle((0, 0, 1), np.linspace(np.pi - 0.2, np.pi + 0.2, frames))
    assert steps_of(slerp(first, second, share)).max() > 150
    for way in (second, invert(second)):
        passage = slerp_one_way(first, way, share)
        assert steps_of(passage).max() < 15
        assert np.allclose(passage[[0, -1]], [first[0], way[-1]])


def test_the_smallest_turn_takes_one_direction_to_another():
    first, second = normalize(np.random.default_rng(0).normal(size=(2, 50, 3)))
    turn = rotation_between(first, second)
    assert np.allclose(rotate(turn, first), second)
    assert np.allclose(turn @ invert(turn), np.eye(3))
    assert np.allclose(rotate(turn, np.cross(first, second)), np.cross(first, second))


def test_a_wrist_stays_away_from_its_shoulder():
    skeleton = skeletons()[0]
    pose = skeleton.sit({}, 1)
    arms, shoulder = Arms(skeleton, pose), pose.position("upperarm01.R")
    near, far = shoulder + np.array([[0.02, -0.05, 0.0]]), shoulder + np.array([[0.0, -0.3, 0.0]])
    assert np.linalg.norm(near + arms.unfold("right", near, 0.15) - shoulder) > 0.08
    assert not arms.unfold("right", far, 0.15).any()


def test_a_hand_that_turns_all_round_does_not_flip():
    frames = 200
    skeleton = skeletons()[0]
    pose = skeleton.sit({}, frames)
    arms = Arms(skeleton, pose)
    tilt = np.linspace(0, 2 * np.pi, frames)[:, None] * (1, 0, 0)
    arms.pose_arm("left", arms.reach(HAND_TARGETS["front"], "left", np.full((frames, 5), 0.2), tilt=tilt))
    turned = invert(pose.rotation("wrist.L"))[:-1] @ pose.rotation("wrist.L")[1:]
    assert ((np.trace(turned, axis1=1, axis2=2) - 1) / 2).min() > np.cos(0.3)


def test_hands_travel_in_a_bow_away_from_the_body():
    for skeleton in skeletons(2):
        for place, axis, sign in (("nose", 1, -1), ("hindbrain", 0, 1)):
            start, half, end = (
                posed(skeleton, {"left": place}, share=share).position("wrist.L")[0, axis] for share in (0.0, 0.5, 1.0)
            )
            assert sign * (half - 0.5 * (start + end)) > 0.04


def test_hands_that_meet_share_what_they_do():
    assert {place for place in HAND_TARGETS if is_shared_target(place)} == {
        "rest_joined", "lap_joined", "palms_joined", "palms_joined_low", "rub_joined", "crossed",
    }  # fmt: skip


def test_wrists_bend_no_farther_than_wrists_do():
    for place, where in HAND_TARGETS.items():
        if where.parent.endswith(".other"):
            continue
        for skeleton in (skeletons()[0], skeletons()[5]):
            pose = posed(skeleton, {"left": place})
            forearm = normalize(pose.position("wrist.L") - pose.position("lowerarm01.L"))
            at_rest = normalize(skeleton.rest_head("wrist.L") - skeleton.rest_head("lowerarm01.L"))
            hand = rotate(pose.rotation("wrist.L"), at_rest)
            assert (forearm * hand).sum() > np.cos(1.35), place


def test_fingers_give_way_to_the_thigh_they_lie_on():
    for skeleton in skeletons():
        pose = posed(skeleton, {}, rest="rest_thigh")
        tips = skin(skeleton, pose, ("finger2-3.L", "finger3-3.L", "finger4-3.L"))
        distance, _ = skeleton.surface(pose).signed_distance(tips)
        assert np.median(distance) > -0.012
        assert np.median(distance) < 0.04


def test_a_contact_is_a_part_of_the_hand():
    skeleton = skeletons()[0]
    pose = skeleton.sit({}, 1)
    arms = Arms(skeleton, pose)
    lengths = {
        place.contact: np.linalg.norm(arms.reach(place, "left", np.full((1, 5), 0.1)).contact)
        for place in HAND_TARGETS.values()
    }
    assert lengths[Contact.WRIST] < 0.005
    assert 0.03 < lengths[Contact.PALM] < lengths[Contact.PADS] < 0.25
    assert lengths[Contact.TIP] > lengths[Contact.PALM]
