"""Close-ups, and which actions are visible in them."""

import numpy as np
import pytest

from model.bundle import InputConfig
from training.augment import draw_close_up, find_visible_actions, make_example
from training.dataset import Keypoints
from training.people.film import KEYPOINT_NAMES
from training.recipe import AugmentConfig
from training.tables import standard_labels

NODDING, SHAKING_LEG, STRETCHING = "nodding", "shaking legs", "stretching arms"
# Vertical positions; all keypoints are in the horizontal middle.
HEIGHTS = {"crown": 0.1, "nose": 0.15, "neck": 0.25, "chest": 0.35, "pelvis": 0.55, "knuckle": 0.5, "knee": 0.6,
          "ankle": 0.9, "toe": 0.95}  # fmt: skip


def person(frames: int) -> np.ndarray:
    """Return keypoints (frames, keypoints, 3) of a still person, all visible."""
    heights = [HEIGHTS.get(name.split(".")[0], 0.3) for name in KEYPOINT_NAMES]
    return np.tile(np.stack([np.full(len(heights), 0.5), heights, np.ones(len(heights))], -1), (frames, 1, 1))


def find_label_ids(*names: str) -> np.ndarray:
    known = [action.name for action in standard_labels().actions]
    return np.array([known.index(name) for name in names])


def test_close_ups_lie_in_picture_and_contain_neck():
    rng = np.random.default_rng(0)
    sides = []
    for _ in range(300):
        left, top, side = draw_close_up(rng, person(4))
        assert left >= 0
        assert top >= 0
        assert left + side <= 1
        assert top + side <= 1
        assert left < 0.5 < left + side
        assert top < HEIGHTS["neck"] < top + side
        sides.append(side)
    assert min(sides) < 0.4
    assert max(sides) > 0.8


def test_action_is_visible_while_its_keypoints_are():
    points = person(20)
    whole = np.array([[0.0, 20.0], [0.0, 20.0], [0.0, 20.0]])
    labels = find_label_ids(NODDING, SHAKING_LEG, STRETCHING)
    assert find_visible_actions(points, KEYPOINT_NAMES, whole, labels).tolist() == [True, True, True]
    points[:, [name.split(".")[0] in ("knee", "ankle", "toe") for name in KEYPOINT_NAMES], 2] = 0
    assert find_visible_actions(points, KEYPOINT_NAMES, whole, labels).tolist() == [True, False, True]
    points[:, [name.startswith("knuckle") for name in KEYPOINT_NAMES], 2] = 0
    assert find_visible_actions(points, KEYPOINT_NAMES, whole, labels).tolist() == [True, False, False]
    points[8:, :, 2] = 0  # eight of twenty frames are less than half
    assert not find_visible_actions(points, KEYPOINT_NAMES, whole, labels).any()
    assert find_visible_actions(points, KEYPOINT_NAMES, np.array([[0.0, 9.0]]), find_label_ids(NODDING)).all()


@pytest.mark.parametrize(("close", "expected"), [(0.0, [NODDING, SHAKING_LEG]), (1.0, [NODDING])])
def test_close_up_removes_actions_outside_it(close, expected, monkeypatch):
    monkeypatch.setattr("training.augment._CLOSE_UP_SIDE", (0.4, 0.41))
    config = InputConfig(height=32, width=32, fps=10.0, window_frames=64, overlap_frames=32, clip_frames=8,
                         mean=(0, 0, 0), std=(1, 1, 1))  # fmt: skip
    augment = AugmentConfig(scale=(1, 1), speed=(1, 1), truncate=0, freeze=0, colour=False, flip=0, close=close)
    frames = np.zeros((60, 64, 64, 3), np.uint8)
    frames[:, int(HEIGHTS["nose"] * 64), 32] = 255
    keypoints = Keypoints(person(60), np.arange(len(KEYPOINT_NAMES)), KEYPOINT_NAMES)
    example = make_example(
        np.random.default_rng(0), frames, np.array([[1.0, 3.0], [2.0, 4.0]]), find_label_ids(NODDING, SHAKING_LEG),
        keypoints, config, augment,
    )  # fmt: skip
    assert example.labels.tolist() == find_label_ids(*expected).tolist()
    assert len(example.segments) == len(expected)
    nose = example.keypoints[0, KEYPOINT_NAMES.index("nose"), :2]
    brightest = np.unravel_index(example.frames[0].sum(-1).argmax(), (32, 32))
    np.testing.assert_allclose((nose[::-1] * 32), np.array(brightest) + 0.5, atol=2)
