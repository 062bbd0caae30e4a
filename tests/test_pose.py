"""The pose backbone: keypoints from heatmaps, features from keypoints, and training."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from model.architecture import Architecture, PoseConfig
from model.export import export_bundle, save_checkpoint
from model.network import Network
from model.pose import PoseBackbone
from model.pose_estimator import PoseEstimator, _mean_position
from tests.pose_runs import SETTINGS, make_run
from tests.smoke_runs import PLAIN
from tests.untrained_bundle import SMALLEST_HEAD, random_network, small_manifest
from training.augment import make_example
from training.dataset import DatasetError, Keypoints, VideoDataset
from training.keypoints import Finder
from training.objectives import TrainingModule, collate
from training.recipe import RecipeError, load_recipe
from training.run import Examples, TrainingError
from training.train import train

SMALL = PoseConfig(kind="pose", keypoints=5, widths=(8, 8, 16), fused=8, embed_dim=12, dilations=(1, 2))


@pytest.fixture(scope="module")
def data(people):
    return people


def test_keypoint_is_mean_position_of_heatmap():
    weights = torch.zeros(1, 2, 10)
    weights[0, 0, 3] = 1.0
    weights[0, 1, [2, 5]] = torch.tensor([0.25, 0.75])
    assert _mean_position(weights)[0].tolist() == pytest.approx([0.35, 0.25 * 0.25 + 0.75 * 0.55])


@torch.inference_mode()
def test_keypoints_are_x_then_y():
    """A peak at (row, column) of the heatmap gives (x, y) = (column, row)."""
    finder = PoseEstimator(SMALL).eval()
    finder.heatmaps = _FixedHeatmaps(torch.full((1, 5, 12, 12), -50.0))
    finder.heatmaps.maps[0, :, 2, 9] = 50.0  # row 2, column 9
    keypoints = finder(torch.zeros(1, 3, 48, 48))
    assert keypoints.shape == (1, 5, 3)
    assert keypoints[0, 0, :2].tolist() == pytest.approx([9.5 / 12, 2.5 / 12], abs=1e-4)
    assert ((keypoints[..., 2] > 0) & (keypoints[..., 2] < 1)).all()


class _FixedHeatmaps(torch.nn.Module):
    def __init__(self, maps: torch.Tensor) -> None:
        super().__init__()
        self.maps = maps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.maps


@torch.inference_mode()
def test_keypoints_are_computed_per_frame_in_order():
    backbone = PoseBackbone(SMALL).eval()
    clips = torch.randn(2, 3, 3, 4, 32, 32)  # (B, clips, channels, frames, height, width)
    keypoints = backbone.find(clips)
    assert keypoints.shape == (2, 12, 5, 3)
    torch.testing.assert_close(keypoints[1, 2 * 4 + 1], backbone.finder(clips[1, 2, :, 1][None])[0])
    torch.testing.assert_close(backbone(clips), backbone.read(keypoints))


@torch.inference_mode()
def test_features_depend_on_movement_at_lags():
    torch.manual_seed(0)
    backbone = PoseBackbone(SMALL.model_copy(update={"dilations": ()})).eval()  # each step is independent
    still = torch.rand(1, 1, 5, 3).expand(1, 9, 5, 3).clone()
    features = backbone.read(still)
    torch.testing.assert_close(features, features[..., :1].expand_as(features))
    jumped = still.clone()
    jumped[:, 3, 2, 0] += 0.05  # one keypoint, in one frame
    differs = (backbone.read(jumped) - features).abs().sum(dim=1)[0] > 1e-6
    assert differs.tolist() == [False, False, False, True, True, False, False, True, False]  # lags 1 and 4


def test_moves_factor_scales_movement():
    still = torch.full((1, 8, 25, 3), 0.5)
    moving = still.clone()
    moving[0, 4:, 3, 0] = 0.52
    torch.manual_seed(0)
    few = PoseBackbone(PoseConfig(kind="pose", moves=20.0)).eval()
    many = PoseBackbone(PoseConfig(kind="pose", moves=80.0)).eval()
    many.load_state_dict(few.state_dict())
    with torch.no_grad():
        assert torch.equal(few.read(still), many.read(still))
        assert not torch.allclose(few.read(moving), many.read(moving))


def test_windows_do_not_influence_each_other():
    backbone = PoseBackbone(SMALL).eval()
    keypoints = torch.rand(2, 8, 5, 3, requires_grad=True)
    backbone.read(keypoints)[0].square().sum().backward()
    assert keypoints.grad[0].abs().sum() > 0
    assert keypoints.grad[1].abs().sum() == 0


def test_pose_network_is_exported(tmp_path):
    before = small_manifest("none", SMALLEST_HEAD)
    pose = Architecture.model_validate(
        before.architecture.model_dump() | {"backbone": SMALL.model_dump(), "adapter": {"kind": "none"}}
    )
    manifest = before.model_copy(update={"architecture": pose})
    save_checkpoint(tmp_path / "pose.safetensors", random_network(manifest), manifest)
    bundle = export_bundle(tmp_path / "pose.safetensors", tmp_path / "bundle")  # refuses a graph that differs
    assert bundle.manifest.architecture.backbone.kind == "pose"


def test_pose_backbone_refuses_adapters_and_missing_stages():
    with pytest.raises(ValueError, match="does not go with backbone.kind 'pose'"):
        Architecture(backbone=SMALL)
    with pytest.raises(ValueError, match="at least one stage"):
        PoseConfig(kind="pose", widths=(8,))


def test_scattered_frames_cover_video_in_order():
    frames = np.zeros((90, 48, 48, 3), np.uint8) + 2 * np.arange(90, dtype=np.uint8)[:, None, None, None]
    positions = np.repeat(np.arange(90.0)[:, None, None] / 90, 3, axis=2)
    keypoints = Keypoints(positions, np.array([0]))
    recipe = load_recipe("demo", SETTINGS)
    first_frames, last_frames = [], []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        example = make_example(
            rng, frames, np.array([[2.0, 9.0]]), np.array([4]), keypoints, recipe.input, PLAIN, 16, scattered=True
        )
        frame_numbers = example.frames[:, 0, 0, 0] / 2
        assert len(frame_numbers) == 16
        assert (np.diff(frame_numbers) > 0).all()
        assert not len(example.labels)
        assert example.keypoints[:, 0, 0] * 90 == pytest.approx(frame_numbers, abs=0.6)
        first_frames.append(frame_numbers[0])
        last_frames.append(frame_numbers[-1])
    assert min(first_frames) < 2
    assert max(last_frames) > 87


def test_pose_stages_get_frames_or_keypoints_only(data, tmp_path):
    run = make_run(data, tmp_path)
    scattered, dense = (Examples(run, stage)[3] for stage in (0, 1))
    assert scattered.frames.shape == (16, 48, 48, 3)
    assert not len(scattered.labels)
    assert dense.frames.shape[1:] == (1, 1, 3)  # frames are not read
    assert dense.keypoints.shape == (len(dense.frames), run.keypoints, 3)
    assert np.ptp(dense.keypoints[:, :, :2], axis=0).max() > 0.01


def test_pose_stages_lower_their_losses(data, tmp_path):
    run = make_run(data, tmp_path)
    torch.manual_seed(0)
    network = Network(run.manifest)
    trainee = TrainingModule(network, run.manifest, run.keypoints)
    finder = {name: value.clone() for name, value in network.backbone.finder.named_parameters()}
    for number, names in ((0, {"keypoints", "loss"}), (1, {"dense", "loss"})):
        stage = run.recipe.stages[number]
        batch = collate([Examples(run, number)[example] for example in range(4)], run.manifest)
        optimizer = torch.optim.AdamW(trainee.parameters(), 1e-2)
        curve = []
        for _ in range(15):
            losses = trainee(batch, stage)
            assert set(losses) == names
            curve.append(float(losses["loss"].detach()))
            optimizer.zero_grad()
            losses["loss"].backward()
            optimizer.step()
        assert curve[-1] < 0.7 * curve[0]
        changed = [name for name, value in network.backbone.finder.named_parameters() if not value.equal(finder[name])]
        assert bool(changed) == (number == 0)  # training on sidecars does not change the finder
        finder = {name: value.clone() for name, value in network.backbone.finder.named_parameters()}


@pytest.mark.parametrize("tuning", ["reader", "auto"])
def test_reader_tuning_freezes_finder(data, tmp_path, tuning):
    """Including the running statistics of its batch norms."""
    run = make_run(data, tmp_path, "ema=0", "seed=5", f"stages=[{{objective: dense, given: keypoints, tuning: all, steps: 1, \
batch: 2, frames: 16}}, {{objective: detection, tuning: {tuning}, steps: 2, batch: 2, warmup: 0}}]")  # fmt: skip
    torch.manual_seed(5)  # the run's seed
    initial = Network(run.manifest).state_dict()
    trained = train(run, lambda at: None, accelerator="cpu").state_dict()
    changed = {name for name, value in trained.items() if not value.equal(initial[name])}
    finder = {name for name in initial if name.startswith("backbone.finder.")}
    assert any(name.endswith("running_mean") for name in finder)
    assert not changed & finder
    assert {"backbone.embed.weight", "backbone.temporal.0.conv.weight", "detector.rpn_head.cls_head.weight"} <= changed


def test_reader_tuning_requires_trained_finder(data, tmp_path, pose_bundle):
    with pytest.raises(RecipeError, match="tuning: reader and finder go with architecture.backbone.kind pose"):
        load_recipe("smoke", ["stages.1.tuning=reader"])
    stages = "stages=[{objective: detection, given: keypoints, tuning: reader, steps: 1, batch: 2}]"
    with pytest.raises(TrainingError, match="tuning reader leaves a backbone .* never trained"):
        train(make_run(data, tmp_path / "a", stages), lambda at: None, accelerator="cpu")
    run = make_run(data, tmp_path / "b", stages, f"finder={pose_bundle}")
    state = train(run, lambda at: None, accelerator="cpu").backbone.finder.state_dict()
    expected = Finder(pose_bundle).network.backbone.finder.state_dict()
    assert all(value.equal(expected[name]) for name, value in state.items())


def test_missing_or_too_few_keypoints_are_refused(data, tmp_path):
    run = make_run(data, tmp_path)
    without_sidecars = VideoDataset(
        tuple(replace(item, sidecar=None) for item in run.dataset.samples), run.dataset.weights
    )
    with pytest.raises(DatasetError, match="has no sidecar with keypoints, which stage 1 learns from"):
        Examples(replace(run, dataset=without_sidecars, keypoints=0), 1)[0]
    few = make_run(data, tmp_path, "architecture.backbone.keypoints=17")
    with pytest.raises(TrainingError, match="have 25 keypoints, the backbone finds 17"):
        train(few, lambda at: None, accelerator="cpu")


@pytest.mark.parametrize("setting", ["stages.0.objective=keypoints", "stages.0.given=keypoints"])
def test_keypoint_settings_require_pose_backbone(setting):
    with pytest.raises(RecipeError, match="go with architecture.backbone.kind pose"):
        load_recipe("smoke", [setting])


def test_wise_ft_averages_initial_and_trained_weights(data, pose_bundle, tmp_path):
    stages = "stages=[{objective: detection, given: keypoints, tuning: reader, steps: 2, batch: 2, warmup: 0, head_rate: 0.01}]"
    initial = Finder(pose_bundle).network.state_dict()
    settings = (stages, f"start={pose_bundle}", f"finder={pose_bundle}", "ema=0", "architecture.adapter={kind: none}")
    trained = {
        alpha: train(
            make_run(data, tmp_path / str(alpha), *settings, f"wise_ft_alpha={alpha}"),
            lambda at: None,
            accelerator="cpu",
        ).state_dict()
        for alpha in (0.0, 0.25)
    }
    largest_change = 0.0
    for name, value in initial.items():
        expected = 0.25 * value + 0.75 * trained[0.0][name] if value.is_floating_point() else trained[0.0][name]
        torch.testing.assert_close(trained[0.25][name], expected)
        largest_change = max(largest_change, float((value - trained[0.0][name]).abs().max()))
    assert largest_change > 1e-3
    with pytest.raises(RecipeError, match=r"wise_ft_alpha 0.25 needs a bundle .* set start"):
        make_run(data, tmp_path, "wise_ft_alpha=0.25")
