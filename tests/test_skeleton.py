"""Skeletons of synthetic people: bone lengths, feet on the floor, hands on their targets and outside the body."""

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
FOLDED_TRUNK = ("G3", "G4")  # the belly touches the thighs
# Largest distance in m between hand and target while the head moves.
HEAD_TARGETS = {"nose": 0.02, "chin": 0.02, "cheek": 0.02, "eye": 0.02, "ear": 0.02, "forehead": 0.02, "hair_top": 0.02}


@cache
def skeletons(count=6):
    """Return skeletons of thin and fat men and women."""
    anatomy = load_anatomy()
    phenotypes = [(gender, weight) for weight in (0.3, 0.55, 0.83) for gender in (0, 1)][:count]
    distances = [
        9 * (anatomy.phenotypes[:, 0] - gender) ** 2 + (anatomy.phenotypes[:, 2] - weight) ** 2
        for gender, weight in phenotypes
    ]
    return [Skeleton(anatomy, *anatomy.rest(int(distance.argmin()))) for distance in distances]


def still_motion(frames, curl=0.2):
    return HandMotion(
        np.zeros((frames, 3)), np.zeros((frames, 3)), np.broadcast_to(np.asarray(curl, float), (frames, 5))
    )


def middle_curl(hand):
    """Return the finger curl (5,) in the middle of an action's range."""
    curl = np.full(5, sum(hand.curl) / 2)
    curl[1] = 0.12 if hand.point else curl[1]
    return curl


def pose_hands(skeleton, targets, channels=None, frames=1, rest="rest_thigh", curl=0.2, share=1.0):
    """Return a pose with hands at their targets (side -> target)."""
    pose = skeleton.sit(channels or {}, frames)
    resting = {side: Visit(rest, np.ones(frames), still_motion(frames), side == "left") for side in SIDES}
    visits = {
        side: [Visit(targets[side], np.full(frames, share), still_motion(frames, curl), side == "left")]
        if side in targets
        else []
        for side in SIDES
    }
    move_arms(skeleton, pose, resting, visits)
    return pose


def pose_action(skeleton, code, sides, seed=0, fps=FPS, style="calm"):
    """Return the pose of one action, including the time before and after it."""
    schedule = Schedule(DURATION_S, (Event(code, 0.9, 3.2, sides),))
    times_s = np.arange(int(DURATION_S * fps)) / fps
    performance = perform(np.random.default_rng(seed), schedule, times_s, STYLES[style])
    pose = skeleton.sit(performance.channels, len(times_s))
    move_arms(skeleton, pose, performance.rest, performance.visits, fps)
    return pose


def rotation_steps_deg(rotations):
    """Return the angles (frames - 1,) between successive rotations in degrees."""
    turned = invert(rotations[:-1]) @ rotations[1:]
    return np.degrees(np.arccos(np.clip((np.trace(turned, axis1=1, axis2=2) - 1) / 2, -1, 1)))


def choose_sides(code, number):
    return tuple(SIDES) if BY_CODE[code].both == 1 else (("left",), ("right",))[number % 2]


def skin(skeleton, pose, bones):
    """Return the vertices (frames, n, 3) that bones of these names move most."""
    anatomy = skeleton.anatomy
    chosen = np.isin(anatomy.bones[:, 0], [anatomy.index[name] for name in anatomy.names if name.startswith(bones)])
    moves = pose.transforms()[:, anatomy.bones[chosen]]
    blended = (moves * anatomy.weights[chosen][..., None, None]).sum(2)
    return rotate(blended[..., :3], skeleton.vertices[chosen]) + blended[..., 3]


def palm(skeleton, pose, side):
    """Return the middle of a palm's surface (frames, 3), and its normal."""
    letter = LETTER[side]
    rotation = pose.rotation(f"wrist.{letter}")
    normal = rotate(rotation, skeleton.hand_axes(letter)[1])
    wrist, knuckle = pose.position(f"wrist.{letter}"), pose.position(f"finger3-1.{letter}")
    return wrist + 0.75 * (knuckle - wrist) + 0.02 * normal, normal


def test_two_bone_ik_reaches_target_with_constant_lengths():
    rng = np.random.default_rng(0)
    start, pole = rng.normal(size=(2, 200, 3))
    target = start + normalize(rng.normal(size=(200, 3))) * rng.uniform(0.1, 0.49, (200, 1))
    middle, end = two_bone_ik(start, target, 0.27, 0.23, pole)
    assert np.allclose(end, target)
    assert np.allclose(np.linalg.norm(middle - start, axis=1), 0.27)
    assert np.allclose(np.linalg.norm(end - middle, axis=1), 0.23)
    assert (((middle - 0.5 * (start + end)) * pole).sum(1) > -0.1).all()


def test_two_bone_ik_stretches_towards_unreachable_target():
    middle, end = two_bone_ik(np.zeros((1, 3)), np.array([[0.0, -2.0, 0.0]]), 0.3, 0.2, np.array([[0.0, 0.0, -1.0]]))
    assert 0.49 < np.linalg.norm(end) < 0.5
    assert np.allclose(end[0, [0, 2]], 0)
    assert np.linalg.norm(middle) == pytest.approx(0.3)


@pytest.mark.parametrize("code", ["F1", "E5", "G4", "D7", "C4"])
def test_limb_lengths_are_constant(code):
    for number, skeleton in enumerate(skeletons(4)):
        pose = pose_action(skeleton, code, choose_sides(code, number), number)
        for letter in "LR":
            for chain in (("upperarm01", "lowerarm01", "wrist"), ("upperleg01", "lowerleg01", "foot")):
                names = [f"{bone}.{letter}" for bone in chain]
                for first, second in pairwise(names):
                    length = np.linalg.norm(pose.position(first) - pose.position(second), axis=1)
                    at_rest = np.linalg.norm(skeleton.rest_head(first) - skeleton.rest_head(second))
                    assert np.allclose(length, at_rest, atol=2e-3), (first, second)


def test_mirrored_channels_give_mirrored_pose():
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
    pose = pose_hands(skeleton, {"left": "chin"}, channels)
    other = pose_hands(skeleton, {"right": "chin"}, mirrored)
    for name in skeleton.anatomy.names:
        twin = name[:-1] + {"L": "R", "R": "L"}[name[-1]] if name[-2] == "." else name
        distance = np.abs(pose.position(name) * (-1, 1, 1) - other.position(twin)).max()
        assert distance < (0.03 if "finger" in name else 0.02), name


def test_raised_heel_leaves_ball_of_foot_on_floor():
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
        pose = pose_action(skeleton, code, choose_sides(code, number), number)
        for letter in "LR":
            lowest = skin(skeleton, pose, (f"foot.{letter}", *(f"toe{toe}-1.{letter}" for toe in range(1, 6))))[
                ..., 2
            ].min(1)
            assert lowest.min() > -0.02
            assert lowest[-1] < 0.02


def test_crossed_leg_lies_on_other_leg():
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


@pytest.mark.parametrize("target", HEAD_TARGETS)
@pytest.mark.parametrize("side", SIDES)
def test_hand_follows_moving_head(target, side):
    frames = 20
    beat = np.sin(np.linspace(0, 12, frames))
    channels = {"head_pitch": 0.25 * beat, "head_yaw": 0.2 * np.roll(beat, 3), "torso_roll": 0.1 * beat}
    for skeleton in skeletons(4):
        pose = pose_hands(skeleton, {side: target}, channels, frames)
        reach = Arms(skeleton, pose).reach(HAND_TARGETS[target], side, np.full((frames, 5), 0.2))
        contact = reach.position + rotate(reach.rotation, reach.contact)
        letter = LETTER[side]
        hand = pose.position(f"wrist.{letter}") + rotate(pose.rotation(f"wrist.{letter}"), reach.contact)
        assert np.ptp(contact, axis=0).max() > 0.04  # the head does move
        assert np.linalg.norm(hand - contact, axis=1).max() < HEAD_TARGETS[target]


@pytest.mark.parametrize("target", ["palms_joined", "palms_joined_low", "rub_joined"])
def test_palms_meet(target):
    for skeleton in skeletons():
        pose = pose_hands(skeleton, dict.fromkeys(SIDES, target), curl=0.07)
        (left, left_normal), (right, right_normal) = (palm(skeleton, pose, side) for side in SIDES)
        assert np.linalg.norm(left - right) < 0.04
        assert (left_normal * right_normal).sum() < -0.5


@pytest.mark.parametrize("target", ["lap_joined", "rest_joined", "rest_belly"])
def test_fingers_of_both_hands_meet(target):
    for skeleton in skeletons():
        pose = pose_hands(skeleton, dict.fromkeys(SIDES, target), curl=0.3)
        left, right = (
            skin(skeleton, pose, tuple(f"finger{n}-{joint}.{letter}" for n in (2, 3, 4, 5) for joint in (1, 2, 3)))[0]
            for letter in "LR"
        )
        gaps = np.linalg.norm(left[:, None] - right[None], axis=-1)
        assert gaps.min() < 0.03


def test_crossed_arms_are_in_front_of_chest():
    for skeleton in skeletons():
        pose = pose_hands(skeleton, dict.fromkeys(SIDES, "crossed"), curl=0.3)
        chest = pose.position("spine02")[0]
        for letter, sign in (("L", 1), ("R", -1)):
            wrist, elbow = pose.position(f"wrist.{letter}")[0], pose.position(f"lowerarm01.{letter}")[0]
            assert wrist[0] * sign < 0.02 < elbow[0] * sign
            assert wrist[1] < chest[1]


@pytest.mark.parametrize("rest", REST_TARGETS)
def test_only_hands_on_hips_spread_elbows(rest):
    for skeleton in skeletons():

        def elbow_offset(pose):
            return pose.position("lowerarm01.L")[0, 0] - pose.position("upperarm01.L")[0, 0]

        assert elbow_offset(pose_hands(skeleton, {}, rest=rest)) < 0.15
        assert elbow_offset(pose_hands(skeleton, dict.fromkeys(SIDES, "hip"))) > 0.18


def out_of_reach(target):
    return target.startswith("out_")


@pytest.mark.parametrize("code", [action.code for action in ACTIONS if action.hand])
def test_most_skeletons_reach_hand_targets(code):
    """The trunk is in the middle of the action's range."""
    action = BY_CODE[code]
    for target in action.hand.targets:
        missed = []
        for skeleton in skeletons()[1::2]:
            channels = {
                (move.channel + "left" if move.channel.endswith(".") else move.channel.removeprefix("±")): (
                    move.low + move.high
                )
                / 2
                for move in action.moves
            }
            pitch, yaw, roll = HAND_TARGETS[target].lean
            for name, value in zip(("torso_pitch", "torso_yaw", "torso_roll"), (pitch, yaw, roll), strict=True):
                channels[name] = channels.get(name, 0) + value
            curl = middle_curl(action.hand)
            pose = pose_hands(skeleton, {"left": target}, channels, curl=curl)
            reach = Arms(skeleton, pose).reach(HAND_TARGETS[target], "left", curl[None], on_top=True)
            hand = pose.position("wrist.L") + rotate(pose.rotation("wrist.L"), reach.contact)
            missed.append(np.linalg.norm(hand - reach.position - rotate(reach.rotation, reach.contact)))
        if out_of_reach(target):  # the arm is meant to be stretched
            assert min(missed) > 0.02
        else:
            assert np.median(missed) < 0.035, (target, missed)


@pytest.mark.parametrize("code", [action.code for action in ACTIONS])
def test_arms_stay_outside_body(code):
    """Wrists, knuckles, elbows and forearms in every frame."""
    max_depth = 0.075 if code in FOLDED_TRUNK else 0.045
    for number, skeleton in enumerate(skeletons()[1::2]):
        pose = pose_action(skeleton, code, choose_sides(code, number), number)
        body = skeleton.surface(pose)
        for letter in "LR":
            elbow, wrist, knuckle = (pose.position(f"{bone}.{letter}") for bone in ("lowerarm01", "wrist", "finger3-1"))
            points = [wrist, knuckle, elbow, elbow + 0.35 * (wrist - elbow), elbow + 0.7 * (wrist - elbow)]
            distance, _ = body.signed_distance(np.stack(points, 1))
            assert distance.min() > -max_depth, (number, letter)
            assert np.quantile(distance, 0.05) > (-0.03 if code in FOLDED_TRUNK else -0.01)


@pytest.mark.parametrize("code", ["C7", "E3", "F1", "F4", "F8", "G1", "C6"])
def test_arm_speed_is_limited(code):
    for number, skeleton in enumerate(skeletons()[::2]):
        pose = pose_action(skeleton, code, choose_sides(code, number), number)
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
        pose = pose_action(skeleton, code, choose_sides(code, number), number, 30, style)
        for bone in ("upperarm01", "lowerarm01", "lowerarm02", "wrist"):
            for letter in "LR":
                assert rotation_steps_deg(pose.rotation(f"{bone}.{letter}")).max() < 40, (number, bone, letter)


def test_limit_rate_turns_jumps_into_ramps():
    gentle = 0.3 * np.sin(np.linspace(0, 6, 60))[:, None] * (1, -2)
    assert np.allclose(limit_rate(gentle, 0.1), gentle)
    jump = np.where(np.arange(60) < 30, -1.0, 1.0)
    ramp = limit_rate(jump, 0.2)
    assert np.allclose(np.diff(ramp)[[10, 25, 29, 33, 45]], [0, 0.1, 0.2, 0.1, 0])
    assert np.allclose(ramp[[0, 15, 45, 59]], [-1, -1, 1, 1])
    assert (np.diff(limit_rate(np.random.default_rng(0).normal(size=60), 0.2)) < 0.2 + 1e-9).all()


def test_one_way_slerp_has_no_jump_at_half_turn():
    frames = 40
    fraction = np.linspace(0, 1, frames)
    first = np.broadcast_to(np.eye(3), (frames, 3, 3))
    second = axis_angle((0, 0, 1), np.linspace(np.pi - 0.2, np.pi + 0.2, frames))
    assert rotation_steps_deg(slerp(first, second, fraction)).max() > 150
    for end in (second, invert(second)):
        passage = slerp_one_way(first, end, fraction)
        assert rotation_steps_deg(passage).max() < 15
        assert np.allclose(passage[[0, -1]], [first[0], end[-1]])


def test_rotation_between_directions_is_smallest():
    first, second = normalize(np.random.default_rng(0).normal(size=(2, 50, 3)))
    turn = rotation_between(first, second)
    assert np.allclose(rotate(turn, first), second)
    assert np.allclose(turn @ invert(turn), np.eye(3))
    assert np.allclose(rotate(turn, np.cross(first, second)), np.cross(first, second))


def test_unfold_moves_wrist_away_from_shoulder():
    skeleton = skeletons()[0]
    pose = skeleton.sit({}, 1)
    arms, shoulder = Arms(skeleton, pose), pose.position("upperarm01.R")
    near, far = shoulder + np.array([[0.02, -0.05, 0.0]]), shoulder + np.array([[0.0, -0.3, 0.0]])
    assert np.linalg.norm(near + arms.unfold("right", near, 0.15) - shoulder) > 0.08
    assert not arms.unfold("right", far, 0.15).any()


def test_full_turn_of_hand_does_not_flip():
    frames = 200
    skeleton = skeletons()[0]
    pose = skeleton.sit({}, frames)
    arms = Arms(skeleton, pose)
    tilt = np.linspace(0, 2 * np.pi, frames)[:, None] * (1, 0, 0)
    arms.pose_arm("left", arms.reach(HAND_TARGETS["front"], "left", np.full((frames, 5), 0.2), tilt=tilt))
    turned = invert(pose.rotation("wrist.L"))[:-1] @ pose.rotation("wrist.L")[1:]
    assert ((np.trace(turned, axis1=1, axis2=2) - 1) / 2).min() > np.cos(0.3)


def test_hand_path_bends_away_from_body():
    for skeleton in skeletons(2):
        for target, axis, sign in (("nose", 1, -1), ("hindbrain", 0, 1)):
            start, half, end = (
                pose_hands(skeleton, {"left": target}, share=share).position("wrist.L")[0, axis]
                for share in (0.0, 0.5, 1.0)
            )
            assert sign * (half - 0.5 * (start + end)) > 0.04


def test_shared_targets_are_those_of_joined_hands():
    assert {target for target in HAND_TARGETS if is_shared_target(target)} == {
        "rest_joined", "lap_joined", "palms_joined", "palms_joined_low", "rub_joined", "crossed",
    }  # fmt: skip


def test_wrist_bend_is_limited():
    for name, target in HAND_TARGETS.items():
        if target.parent.endswith(".other"):
            continue
        for skeleton in (skeletons()[0], skeletons()[5]):
            pose = pose_hands(skeleton, {"left": name})
            forearm = normalize(pose.position("wrist.L") - pose.position("lowerarm01.L"))
            at_rest = normalize(skeleton.rest_head("wrist.L") - skeleton.rest_head("lowerarm01.L"))
            hand = rotate(pose.rotation("wrist.L"), at_rest)
            assert (forearm * hand).sum() > np.cos(1.35), name


def test_fingers_rest_on_thigh_surface():
    for skeleton in skeletons():
        pose = pose_hands(skeleton, {}, rest="rest_thigh")
        tips = skin(skeleton, pose, ("finger2-3.L", "finger3-3.L", "finger4-3.L"))
        distance, _ = skeleton.surface(pose).signed_distance(tips)
        assert np.median(distance) > -0.012
        assert np.median(distance) < 0.04


def test_contact_points_lie_on_hand():
    skeleton = skeletons()[0]
    pose = skeleton.sit({}, 1)
    arms = Arms(skeleton, pose)
    lengths = {
        target.contact: np.linalg.norm(arms.reach(target, "left", np.full((1, 5), 0.1)).contact)
        for target in HAND_TARGETS.values()
    }
    assert lengths[Contact.WRIST] < 0.005
    assert 0.03 < lengths[Contact.PALM] < lengths[Contact.PADS] < 0.25
    assert lengths[Contact.TIP] > lengths[Contact.PALM]
