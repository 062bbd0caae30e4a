"""Keypoints as network input: noise, loss, measurement and drawing."""

import sys

import numpy as np
import pytest
import torch

from tests.pose_runs import TAXONOMY
from training.dataset import load_dataset, read_frames, read_keypoints
from training.keypoint_noise import add_keypoint_noise, keypoint_loss
from training.keypoints import Finder, _decompose, main, measure
from training.people.camera.footage import write_video


@pytest.fixture(scope="module")
def data(people):
    return people


def test_keypoint_noise_has_expected_statistics():
    torch.manual_seed(1)
    keypoints = torch.full((40, 32, 6, 3), 0.5)
    keypoints[..., 3:, 2] = 0  # three are hidden
    keypoints[..., :3, 2] = 1
    mask = torch.ones(40, 32, dtype=torch.bool)
    noisy = add_keypoint_noise(keypoints, mask, 0.01)
    errors = noisy[..., :2] - 0.5
    # sqrt(1 + .8**2 * 2/3 + .25**2) * .6 * exp(.7**2) / 100
    assert errors[..., :3, :].std().item() == pytest.approx(0.0119, rel=0.2)
    fresh = errors[..., :3, :].diff(dim=1).diff(dim=1).std() / 6**0.5  # lasting and drifting errors cancel
    assert 0.15 < fresh / errors[..., :3, :].std() < 0.35
    per_keypoint = errors[:, :, 0].square().mean(dim=(1, 2)).sqrt()  # of one keypoint in every window
    assert per_keypoint.quantile(0.9) > 3 * per_keypoint.quantile(0.1)
    assert errors[..., 3:, :].std() > 2.5 * errors[..., :3, :].std()
    assert errors.mean(dim=1).std() > 0.6 * errors.std()  # most of the error lasts
    assert torch.equal(noisy[..., 2], keypoints[..., 2])
    moving = torch.linspace(0, 1, 32)[None, :, None, None].expand(2, 32, 6, 3)
    mask = torch.arange(32)[None].expand(2, 32) < 20
    exact = add_keypoint_noise(moving, mask, 0.0)
    torch.testing.assert_close(exact[:, :20], moving[:, :20])
    torch.testing.assert_close(exact[:, 20:], moving[:, 19:20].expand(2, 12, 6, 3))
    assert (
        add_keypoint_noise(moving, mask, 9.0)[..., :2].abs().max() <= 1
    )  # keypoints outside the picture are clamped to its border


def test_keypoint_loss_weights_visibility_and_mask():
    expected = torch.rand(2, 4, 3, 3).round()
    expected[..., 2] = torch.tensor([1.0, 0.0, 1.0])
    mask = torch.tensor([[True] * 4, [True, True, False, False]])
    predicted = expected.clone()
    assert keypoint_loss(predicted, expected, mask) == 0
    predicted[1, 2:, :, :2] = 0.3  # masked
    assert keypoint_loss(predicted, expected, mask) == 0
    weights = 12 + 0.1 * 6  # visible and hidden
    predicted[0, 0, 0, 0] = 1 - predicted[0, 0, 0, 0]
    assert keypoint_loss(predicted, expected, mask) == pytest.approx(10 * (1 - 0.01) / weights)
    predicted[0, 0, 1, 0] = 1 - predicted[0, 0, 1, 0]  # hidden
    assert keypoint_loss(predicted, expected, mask) == pytest.approx(10 * 1.1 * (1 - 0.01) / weights)


def test_keypoint_loss_clamps_targets_to_picture():
    outside = torch.tensor([[[[-0.4, 1.7, 0.0], [0.5, 0.5, 1.0]]]])
    assert keypoint_loss(outside.clamp(0, 1), outside, torch.ones(1, 1, dtype=torch.bool)) == 0
    assert keypoint_loss(outside, outside, torch.ones(1, 1, dtype=torch.bool)) > 0


def test_measured_errors_cover_visible_keypoints(data, pose_bundle, monkeypatch):
    finder = Finder(pose_bundle)
    monkeypatch.setattr(finder, "find", lambda frames: np.full((len(frames), 25, 3), 0.5))
    names, errors = measure(finder, [data])
    distance, count = np.zeros(25), np.zeros(25)
    for item in load_dataset([data], TAXONOMY, "val", 0).samples:
        frames = read_frames(item, finder.bundle.manifest.input, 1.0)
        positions = read_keypoints(item, 5.0, len(frames)).places
        first = max(len(frames) - 64, 0) // 2
        chosen = positions[first : first + 64]
        visible = chosen[..., 2] > 0
        distance += (np.hypot(chosen[..., 0] - 0.5, chosen[..., 1] - 0.5) * visible).sum(axis=0)
        count += visible.sum(axis=0)
    assert names[0] == "nose"
    assert (count > 0).sum() > 20
    assert errors.away[count > 0] == pytest.approx((distance / np.maximum(count, 1))[count > 0])
    assert np.isnan(errors.away[count == 0]).all()


def test_errors_are_decomposed_by_duration():
    rng = np.random.default_rng(0)
    lasting, fresh = rng.normal(0, 3, (1, 400, 2)), rng.normal(0, 1, (64, 400, 2))
    drifting = 2 * 2**0.5 * np.sin(np.linspace(0, 2 * np.pi, 65)[:64, None, None] + rng.uniform(0, 6, (1, 400, 2)))
    deviations = np.sqrt(_decompose(lasting + drifting + fresh).mean(axis=1))
    assert deviations == pytest.approx([3, 2, 1], rel=0.1)


def test_keypoints_command_evaluates_given_keypoints(data, pose_bundle, monkeypatch, capsys):
    arguments = ["keypoints", "--bundle", str(pose_bundle), "--data", str(data), "--read"]
    monkeypatch.setattr(sys, "argv", arguments)
    main()
    count = len(load_dataset([data], TAXONOMY, "val", 0).samples)
    assert capsys.readouterr().out.startswith(f"{count} videos, keypoints given: mAP action ")


def test_keypoints_command_draws_keypoints_on_clips(data, pose_bundle, tmp_path, monkeypatch, capsys):
    write_video(tmp_path / "clip.mp4", np.full((20, 48, 64, 3), 90, np.uint8), 5.0, 20.0)
    arguments = ["keypoints", "--bundle", str(pose_bundle), "--data", str(data), "--clips", str(tmp_path / "clip.mp4"),
                 "--out", str(tmp_path / "sheet.png")]  # fmt: skip
    monkeypatch.setattr(sys, "argv", arguments)
    main()
    assert "% of the picture" in capsys.readouterr().out
    assert (tmp_path / "sheet.png").stat().st_size > 2000


def test_finder_refuses_bundle_without_keypoints(bundle):
    with pytest.raises(ValueError, match="of kind videomae, which finds no keypoints"):
        Finder(bundle.folder)
