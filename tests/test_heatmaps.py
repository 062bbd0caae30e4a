"""VideoMAE on heatmaps: keypoints drawn where they are, read by the transformer, and trained without a picture."""

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
def keypoints(tmp_path_factory):
    """Those of the fixture people without pictures."""
    return make_people(tmp_path_factory.mktemp("keypoints"), Storage.NONE)


def make_run(folders, out, *settings: str) -> Run:
    recipe = load_recipe("videomae", [*SETTINGS, *settings])
    dataset = load_dataset(folders, TAXONOMY, "train", 0)
    return Run(recipe, make_manifest(recipe, TAXONOMY, "people"), dataset, out, dataset.count_keypoints())


def backbone(**changed: object) -> HeatmapBackbone:
    torch.manual_seed(0)
    made = HeatmapBackbone(SMALL.model_copy(update=changed), AdapterConfig(kind="dsta"), 4, 48, 64)
    for name, parameter in made.named_parameters():
        if ".adapter." in name:  # they begin as identities
            torch.nn.init.normal_(parameter, std=0.1)
    return made.eval()


# -- the network


@torch.inference_mode()
def test_keypoints_are_drawn_where_they_are_if_they_are_seen():
    one = torch.full((1, 8, 5, 3), 0.5)
    one[..., 2] = 0
    one[:, :, 1] = torch.tensor([6.5 / 8, 1.5 / 6, 1.0])  # the middle of column 6, row 1
    one[:, :, 3] = torch.tensor([6.5 / 8, 1.5 / 6, 0.25])
    maps = backbone()._draw_heatmaps(one)  # a grid of 6 rows and 8 columns
    assert maps.shape == (1, 8, 5 * 5, 6, 8)
    own = maps[0, 0].unflatten(0, (5, 5))  # (keypoints, bump and moves, rows, columns)
    assert own[1, 0, 1, 6] == pytest.approx(1.0)
    assert own[1, 0].argmax() == 1 * 8 + 6
    assert own[1, 0, 1, 5] == pytest.approx(float(torch.exp(torch.tensor(-0.5 / 0.36))))
    torch.testing.assert_close(own[3, 0], 0.25 * own[1, 0])
    assert own[[0, 2, 4]].abs().max() == 0
    assert own[:, 1:].abs().max() == 0  # nothing moves


@torch.inference_mode()
def test_movement_is_drawn_with_its_direction():
    still = torch.full((1, 8, 5, 3), 0.5)
    still[..., 2] = 1
    moved = still.clone()
    moved[0, 5:, 2, 1] += 0.1  # down, from frame 5 on
    bumps = (
        backbone()._draw_heatmaps(moved).unflatten(2, (5, 5))[0]
    )  # (steps, keypoints, bump and moves, rows, columns)
    heights = bumps[:, 2, 1:].flatten(2).abs().amax(2) / bumps[:, 2, 0].flatten(1).amax(1)[:, None]
    assert heights[4].tolist() == [0, 0, 0, 0]
    assert heights[5].tolist() == pytest.approx([0, 1.0, 0, 0.5])  # y at lag 1, and at lag 4 divided by 2
    assert heights[7].tolist() == pytest.approx([0, 0, 0, 0.5])
    assert bumps[5, 2, 2].max() > 0
    assert bumps[:, [0, 1, 3, 4], 1:].abs().max() == 0


@torch.inference_mode()
def test_pictures_give_what_their_keypoints_do_in_order():
    network = backbone()
    clips = torch.randn(2, 3, 3, 4, 48, 64)  # (B, clips, channels, frames, height, width)
    found = network.find(clips)
    features = network(clips)
    assert features.shape == (2, 16, 6)
    torch.testing.assert_close(features, network.read(found))
    plain = HeatmapBackbone(SMALL, AdapterConfig(kind="none"), 4, 48, 64).eval()
    still = found[:, :1].expand_as(found)
    alone = plain.read(still)
    torch.testing.assert_close(alone[..., :2], alone[..., 2:4])  # without adapters clips are read one by one
    changed = still.clone()
    changed[0, 8:] += 0.1  # the last clip of the first window
    differs = (plain.read(changed) - alone).abs().amax(1) > 1e-6
    assert differs.tolist() == [[False, False, False, False, True, True], [False] * 6]


def test_the_exported_graph_answers_as_the_network(tmp_path):
    before = small_manifest("dsta", SMALLEST_HEAD)
    parts = Architecture(backbone=SMALL, adapter=AdapterConfig(kind="dsta"), head=before.architecture.head)
    manifest = before.model_copy(update={"architecture": parts})
    save_checkpoint(tmp_path / "heatmaps.safetensors", random_network(manifest), manifest)
    exported = export_bundle(tmp_path / "heatmaps.safetensors", tmp_path / "bundle")  # refuses a graph that differs
    assert exported.manifest.architecture.backbone == SMALL


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"stem": "heatmaps"}, "a stem of heatmaps needs a finder"),
        ({"stem": "linear", "finder": {}}, "no other stem has one"),
        ({"stem": "heatmaps", "finder": {"widths": (8,)}}, "the stem's and at least one stage's"),
    ],
)  # fmt: skip
def test_parts_that_do_not_go_together_are_told(settings, told):
    with pytest.raises(ValueError, match=told):
        BackboneConfig(embed_dim=16, depth=1, heads=2, **settings)


# -- training


def test_it_learns_from_keypoints_alone_and_only_what_may_move_does(keypoints, tmp_path):
    run = make_run([keypoints], tmp_path)
    torch.manual_seed(0)
    network = Network(run.manifest)
    trainee = TrainingModule(network, run.manifest, run.keypoints)
    for place, names in ((0, {"dense", "loss"}), (1, {"classes", "boundaries", "dense", "loss"})):
        stage = run.recipe.stages[place]
        moving = set(set_trainable(network, stage.tuning))
        before = {name: value.clone() for name, value in network.named_parameters()}
        batch = collate([Examples(run, place)[number] for number in range(4)], run.manifest)
        assert batch.clips.shape[3:] == (1, 1, 3)  # no picture is read or kept
        optimizer = torch.optim.AdamW([one for one in trainee.parameters() if one.requires_grad], 1e-2)
        course = []
        for _ in range(15):
            losses = trainee(batch, stage)
            assert set(losses) == names
            course.append(float(losses["loss"].detach()))
            optimizer.zero_grad()
            losses["loss"].backward()
            optimizer.step()
        assert course[-1] < 0.8 * course[0]
        moved = {name for name, value in network.named_parameters() if not value.equal(before[name])}
        assert moved <= moving
        assert not any("finder" in name for name in moved)
        assert any(".adapter." in name for name in moved)
        assert any(name.startswith("backbone.blocks.0.attn") for name in moved) == (place == 0)


@pytest.mark.usefixtures("without_graphs")
def test_a_finder_and_a_teacher_come_from_a_bundle(keypoints, tmp_path):
    pose = load_recipe("demo", POSE)
    manifest = make_manifest(pose, TAXONOMY, "people")
    torch.manual_seed(5)
    posed = Network(manifest)
    save_checkpoint(tmp_path / "pose.safetensors", posed, manifest)
    folder = export_bundle(tmp_path / "pose.safetensors", tmp_path / "pose").folder
    run = make_run(
        [keypoints], tmp_path / "run", f"finder={folder}", f"teacher={folder}", "stages.0.distillation=1.0", "stages.0.steps=2",
        "stages.1.steps=1", "stages.0.batch=2", "stages.1.batch=2",
    )  # fmt: skip
    seen: list[dict[str, float]] = []
    trained = train(run, lambda at: seen.append(at.losses), accelerator="cpu")
    assert "teacher" in seen[0]
    theirs = posed.backbone.finder.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in trained.backbone.finder.state_dict().items())
    batch = collate([Examples(run, 0)[number] for number in range(2)], run.manifest)
    held = add_keypoint_noise(batch.keypoints[:, :96], batch.mask[:, :96], 0.0)
    told = Teacher(folder, run.manifest.input).features(batch.clips, batch.mask, held)
    torch.testing.assert_close(told, features_from_keypoints(posed.eval(), held, batch.mask))
    other = replace(run, recipe=run.recipe.model_copy(update={"finder": tmp_path / "other"}), out=tmp_path / "o")
    small = manifest.model_copy(
        update={
            "architecture": manifest.architecture.model_copy(
                update={"backbone": manifest.architecture.backbone.model_copy(update={"fused": 8})}
            )
        }
    )
    save_checkpoint(tmp_path / "small.safetensors", Network(small), small)
    export_bundle(tmp_path / "small.safetensors", tmp_path / "other")
    with pytest.raises(BundleError, match="its finder of keypoints does not fit the recipe's"):
        train(other, lambda at: None, accelerator="cpu")


@pytest.mark.parametrize("tuning", ["adapters", "head", "auto"])
def test_a_backbone_that_was_never_trained_is_not_left_as_it_is(keypoints, tmp_path, tuning):
    run = make_run([keypoints], tmp_path, f"stages.0.tuning={tuning}")
    with pytest.raises(TrainingError, match=f"stage 0 with tuning {tuning} leaves a backbone .* never trained: set"):
        train(run, lambda at: None, accelerator="cpu")


def test_a_teacher_that_reads_no_keypoints_is_told(keypoints, tmp_path, bundle):
    seen = [f"input.{name}={getattr(bundle.manifest.input, name)}" for name in ("fps", "window_frames", "overlap_frames", "clip_frames")]  # fmt: skip
    run = make_run(
        [keypoints], tmp_path, *seen, f"teacher={bundle.folder}", "stages.0.distillation=1.0", "stages.0.frames=0"
    )
    with pytest.raises(TrainingError, match="reads no keypoints, and stage 0 is given nothing else"):
        train(run, lambda at: None, accelerator="cpu")


@pytest.mark.parametrize("setting", ["finder=bundles/demo", "stages.0.given=keypoints"])
def test_pictures_and_keypoints_are_not_mixed_up(setting):
    with pytest.raises(RecipeError, match="architecture.backbone.kind pose or stem heatmaps"):
        load_recipe("smoke", [setting])


# -- people without pictures


def test_they_are_those_of_the_pictures(keypoints, people):
    """The same films: only what is kept differs."""
    assert not (keypoints / "frames").exists()
    assert not (keypoints / "videos").exists()
    for folder in ("records", "sidecars"):
        for path in sorted((people / folder).iterdir()):
            assert path.read_bytes() == (keypoints / folder / path.name).read_bytes()


def test_stages_that_see_draw_only_videos_with_pictures(keypoints, people, tmp_path):
    both = load_dataset([keypoints, people], TAXONOMY, "train", 0)
    shown = both.with_frames()
    assert [item.path.parent for item in shown.samples] == [people / "frames"] * len(shown.samples)
    assert shown.weights.sum() == pytest.approx(1)
    assert shown.with_frames() is shown
    run = make_run([keypoints, people], tmp_path, "stages.1.given=pictures")
    assert all(Examples(run, 1)[number].frames.shape[1:] == (48, 48, 3) for number in range(8))
    with pytest.raises(DatasetError, match="keypoints and no pictures: add videos"):
        Examples(make_run([keypoints], tmp_path, "stages.1.given=pictures"), 1)
