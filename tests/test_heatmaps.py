"""VideoMAE on heatmaps: keypoints are drawn as heatmaps, read by a transformer, and trained on without frames."""

from dataclasses import replace

import pytest
import torch

from model.architecture import AdapterConfig, Architecture, BackboneConfig, FinderConfig
from model.errors import BundleError
from model.export import export_bundle, save_checkpoint
from model.heatmaps import HeatmapBackbone
from model.network import Network
from tests.pose_runs import SETTINGS as POSE
from tests.pose_runs import TAXONOMY, make_people
from tests.untrained_bundle import SMALLEST_HEAD, random_network, small_manifest
from training.dataset import DatasetError, load_dataset
from training.keypoint_noise import add_keypoint_noise, features_from_keypoints
from training.objectives import Teacher, TrainingModule, collate
from training.people.options import Storage
from training.recipe import RecipeError, load_recipe
from training.run import Examples, Run, TrainingError, make_manifest
from training.train import set_trainable, train

FINDER = FinderConfig(keypoints=5, widths=(8, 8, 16), fused=8, moves=10.0)
SMALL = BackboneConfig(embed_dim=16, depth=1, heads=2, patch_size=8, tubelet_size=2, stem="heatmaps", finder=FINDER)
SETTINGS = ["architecture.backbone={embed_dim: 32, depth: 1, heads: 2, tubelet_size: 2, patch_size: 12, stem: heatmaps, "
            "finder: {widths: [8, 16, 16], fused: 16}}", "finder=null", "teacher=null", "input.clip_frames=16",
            "input.height=48", "input.width=48", "input.fps=5.0", "data.workers=0",
            'stages=[{objective: dense, given: keypoints, tuning: all, steps: 9, batch: 4, frames: 96, backbone_rate: 0.001}, '
            '{objective: detection, given: keypoints, tuning: adapters, steps: 9, batch: 4, dense: 0.5}]']  # fmt: skip


@pytest.fixture(scope="module")
def keypoint_data(tmp_path_factory):
    """The data set of the fixture `people` without frames."""
    return make_people(tmp_path_factory.mktemp("keypoints"), Storage.NONE)


def make_run(folders, out, *settings: str) -> Run:
    recipe = load_recipe("videomae", [*SETTINGS, *settings])
    dataset = load_dataset(folders, TAXONOMY, "train", 0)
    return Run(recipe, make_manifest(recipe, TAXONOMY, "people"), dataset, out, dataset.count_keypoints())


def backbone(**changed: object) -> HeatmapBackbone:
    torch.manual_seed(0)
    network = HeatmapBackbone(SMALL.model_copy(update=changed), AdapterConfig(kind="dsta"), 4, 48, 64)
    for name, parameter in network.named_parameters():
        if ".adapter." in name:  # adapters start as identities
            torch.nn.init.normal_(parameter, std=0.1)
    return network.eval()


# -- the network


@torch.inference_mode()
def test_visible_keypoints_are_drawn_at_their_positions():
    keypoints = torch.full((1, 8, 5, 3), 0.5)
    keypoints[..., 2] = 0
    keypoints[:, :, 1] = torch.tensor([6.5 / 8, 1.5 / 6, 1.0])  # the middle of column 6, row 1
    keypoints[:, :, 3] = torch.tensor([6.5 / 8, 1.5 / 6, 0.25])
    maps = backbone()._draw_heatmaps(keypoints)  # a grid of 6 rows and 8 columns
    assert maps.shape == (1, 8, 5 * 5, 6, 8)
    by_keypoint = maps[0, 0].unflatten(0, (5, 5))  # (keypoints, bump and moves, rows, columns)
    assert by_keypoint[1, 0, 1, 6] == pytest.approx(1.0)
    assert by_keypoint[1, 0].argmax() == 1 * 8 + 6
    assert by_keypoint[1, 0, 1, 5] == pytest.approx(float(torch.exp(torch.tensor(-0.5 / 0.36))))
    torch.testing.assert_close(by_keypoint[3, 0], 0.25 * by_keypoint[1, 0])
    assert by_keypoint[[0, 2, 4]].abs().max() == 0
    assert by_keypoint[:, 1:].abs().max() == 0  # nothing moves


@torch.inference_mode()
def test_motion_maps_show_the_direction_of_motion():
    still = torch.full((1, 8, 5, 3), 0.5)
    still[..., 2] = 1
    moved = still.clone()
    moved[0, 5:, 2, 1] += 0.1  # down, from frame 5 on
    # (steps, keypoints, bump and moves, rows, columns)
    maps = backbone()._draw_heatmaps(moved).unflatten(2, (5, 5))[0]
    heights = maps[:, 2, 1:].flatten(2).abs().amax(2) / maps[:, 2, 0].flatten(1).amax(1)[:, None]
    assert heights[4].tolist() == [0, 0, 0, 0]
    assert heights[5].tolist() == pytest.approx([0, 1.0, 0, 0.5])  # y at lag 1, and at lag 4 divided by 2
    assert heights[7].tolist() == pytest.approx([0, 0, 0, 0.5])
    assert maps[5, 2, 2].max() > 0
    assert maps[:, [0, 1, 3, 4], 1:].abs().max() == 0


@torch.inference_mode()
def test_clips_and_their_keypoints_give_the_same_features():
    network = backbone()
    clips = torch.randn(2, 3, 3, 4, 48, 64)  # (B, clips, channels, frames, height, width)
    keypoints = network.find(clips)
    features = network(clips)
    assert features.shape == (2, 16, 6)
    torch.testing.assert_close(features, network.read(keypoints))
    without_adapters = HeatmapBackbone(SMALL, AdapterConfig(kind="none"), 4, 48, 64).eval()
    still = keypoints[:, :1].expand_as(keypoints)
    separate = without_adapters.read(still)
    torch.testing.assert_close(separate[..., :2], separate[..., 2:4])  # without adapters, clips are read separately
    changed = still.clone()
    changed[0, 8:] += 0.1  # the last clip of the first window
    differ = (without_adapters.read(changed) - separate).abs().amax(1) > 1e-6
    assert differ.tolist() == [[False, False, False, False, True, True], [False] * 6]


def test_exported_graph_agrees_with_the_network(tmp_path):
    small = small_manifest("dsta", SMALLEST_HEAD)
    parts = Architecture(backbone=SMALL, adapter=AdapterConfig(kind="dsta"), head=small.architecture.head)
    manifest = small.model_copy(update={"architecture": parts})
    save_checkpoint(tmp_path / "heatmaps.safetensors", random_network(manifest), manifest)
    exported = export_bundle(tmp_path / "heatmaps.safetensors", tmp_path / "bundle")  # refuses a graph that differs
    assert exported.manifest.architecture.backbone == SMALL


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"stem": "heatmaps"}, "a stem of heatmaps needs a finder"),
        ({"stem": "linear", "finder": {}}, "no other stem has one"),
        ({"stem": "heatmaps", "finder": {"widths": (8,)}}, "the stem's and at least one stage's"),
    ],
)  # fmt: skip
def test_inconsistent_backbone_config_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        BackboneConfig(embed_dim=16, depth=1, heads=2, **settings)


# -- training


def test_training_on_keypoints_changes_only_trainable_parameters(keypoint_data, tmp_path):
    run = make_run([keypoint_data], tmp_path)
    torch.manual_seed(0)
    network = Network(run.manifest)
    module = TrainingModule(network, run.manifest, run.keypoints)
    for index, names in ((0, {"dense", "loss"}), (1, {"classes", "boundaries", "dense", "loss"})):
        stage = run.recipe.stages[index]
        trainable = set(set_trainable(network, stage.tuning))
        before = {name: value.clone() for name, value in network.named_parameters()}
        batch = collate([Examples(run, index)[sample] for sample in range(4)], run.manifest)
        assert batch.clips.shape[3:] == (1, 1, 3)  # no frames are read
        optimizer = torch.optim.AdamW([parameter for parameter in module.parameters() if parameter.requires_grad], 1e-2)
        totals = []
        for _ in range(15):
            losses = module(batch, stage)
            assert set(losses) == names
            totals.append(float(losses["loss"].detach()))
            optimizer.zero_grad()
            losses["loss"].backward()
            optimizer.step()
        assert totals[-1] < 0.8 * totals[0]
        changed = {name for name, value in network.named_parameters() if not value.equal(before[name])}
        assert changed <= trainable
        assert not any("finder" in name for name in changed)
        assert any(".adapter." in name for name in changed)
        assert any(name.startswith("backbone.blocks.0.attn") for name in changed) == (index == 0)


@pytest.mark.usefixtures("without_graphs")
def test_finder_and_teacher_are_loaded_from_a_bundle(keypoint_data, tmp_path):
    pose_recipe = load_recipe("demo", POSE)
    pose_manifest = make_manifest(pose_recipe, TAXONOMY, "people")
    torch.manual_seed(5)
    pose_network = Network(pose_manifest)
    save_checkpoint(tmp_path / "pose.safetensors", pose_network, pose_manifest)
    folder = export_bundle(tmp_path / "pose.safetensors", tmp_path / "pose").folder
    run = make_run(
        [keypoint_data], tmp_path / "run", f"finder={folder}", f"teacher={folder}", "stages.0.distillation=1.0", "stages.0.steps=2",
        "stages.1.steps=1", "stages.0.batch=2", "stages.1.batch=2",
    )  # fmt: skip
    losses: list[dict[str, float]] = []
    trained = train(run, lambda progress: losses.append(progress.losses), accelerator="cpu")
    assert "teacher" in losses[0]
    finder = pose_network.backbone.finder.state_dict()
    assert all(torch.equal(value, finder[name]) for name, value in trained.backbone.finder.state_dict().items())
    batch = collate([Examples(run, 0)[number] for number in range(2)], run.manifest)
    keypoints = add_keypoint_noise(batch.keypoints[:, :96], batch.mask[:, :96], 0.0)
    features = Teacher(folder, run.manifest.input).features(batch.clips, batch.mask, keypoints)
    torch.testing.assert_close(features, features_from_keypoints(pose_network.eval(), keypoints, batch.mask))
    other_run = replace(run, recipe=run.recipe.model_copy(update={"finder": tmp_path / "other"}), out=tmp_path / "o")
    other_manifest = pose_manifest.model_copy(
        update={
            "architecture": pose_manifest.architecture.model_copy(
                update={"backbone": pose_manifest.architecture.backbone.model_copy(update={"fused": 8})}
            )
        }
    )
    save_checkpoint(tmp_path / "small.safetensors", Network(other_manifest), other_manifest)
    export_bundle(tmp_path / "small.safetensors", tmp_path / "other")
    with pytest.raises(BundleError, match="its finder of keypoints does not fit the recipe's"):
        train(other_run, lambda progress: None, accelerator="cpu")


@pytest.mark.parametrize("tuning", ["adapters", "head", "auto"])
def test_untrained_backbone_cannot_be_frozen(keypoint_data, tmp_path, tuning):
    run = make_run([keypoint_data], tmp_path, f"stages.0.tuning={tuning}")
    with pytest.raises(TrainingError, match=f"stage 0 with tuning {tuning} leaves a backbone .* never trained: set"):
        train(run, lambda at: None, accelerator="cpu")


def test_teacher_that_reads_no_keypoints_is_refused(keypoint_data, tmp_path, bundle):
    same_input = [f"input.{name}={getattr(bundle.manifest.input, name)}" for name in ("fps", "window_frames", "overlap_frames", "clip_frames")]  # fmt: skip
    teacher = [f"teacher={bundle.folder}", "stages.0.distillation=1.0", "stages.0.frames=0"]
    run = make_run([keypoint_data], tmp_path, *same_input, *teacher)
    with pytest.raises(TrainingError, match="reads no keypoints, and stage 0 is given nothing else"):
        train(run, lambda at: None, accelerator="cpu")


@pytest.mark.parametrize("setting", ["finder=bundles/demo", "stages.0.given=keypoints"])
def test_keypoint_settings_need_a_backbone_that_reads_keypoints(setting):
    with pytest.raises(RecipeError, match="architecture.backbone.kind pose or stem heatmaps"):
        load_recipe("smoke", [setting])


# -- data sets without frames


def test_data_set_without_frames_has_the_same_annotations(keypoint_data, people):
    assert not (keypoint_data / "frames").exists()
    assert not (keypoint_data / "videos").exists()
    for folder in ("records", "sidecars"):
        for path in sorted((people / folder).iterdir()):
            assert path.read_bytes() == (keypoint_data / folder / path.name).read_bytes()


def test_stages_given_pictures_draw_only_videos_with_frames(keypoint_data, people, tmp_path):
    both = load_dataset([keypoint_data, people], TAXONOMY, "train", 0)
    with_frames = both.with_frames()
    assert [item.path.parent for item in with_frames.samples] == [people / "frames"] * len(with_frames.samples)
    assert with_frames.weights.sum() == pytest.approx(1)
    assert with_frames.with_frames() is with_frames
    run = make_run([keypoint_data, people], tmp_path, "stages.1.given=pictures")
    assert all(Examples(run, 1)[number].frames.shape[1:] == (48, 48, 3) for number in range(8))
    with pytest.raises(DatasetError, match="keypoints and no pictures: add videos"):
        Examples(make_run([keypoint_data], tmp_path, "stages.1.given=pictures"), 1)
