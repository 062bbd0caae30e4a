"""Training: recipes, examples that follow their labels, stages, resuming, what is frozen, what stops a run."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from mmad.cli import app
from model.bundle import Bundle, Thresholds
from model.network import Network
from training.augment import make_example
from training.dataset import DatasetError, Keypoints, VideoDataset, load_dataset, read_frames
from training.evaluation.validation import choose_thresholds
from training.instances import Instances
from training.objectives import Teacher, TrainingModule, _resize, collate, feature_distance
from training.people.film import Recipe as People
from training.people.options import Mix, Storage
from training.people.studio import DatasetSpec, produce
from training.recipe import AugmentConfig, RecipeError, list_shipped_recipes, load_recipe
from training.run import CHECKPOINT, HISTORY, Examples, Run, TrainingError, make_manifest
from training.tables import standard_labels
from training.train import train

TAXONOMY = standard_labels()
# A few steps of the smoke recipe.
SHORT = ["stages.0.steps=3", "stages.1.steps=4", "stages.0.warmup=1", "stages.1.warmup=1"]
PLAIN = AugmentConfig(scale=(1, 1), flip=0, speed=(1, 1), truncate=0, freeze=0, colour=False)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("people")
    people = People(seed=1, fps=10.0, height=48, width=48, mix=Mix.BALANCED)
    produce(DatasetSpec(people, folder, Storage.NPZ, 17), 1, lambda done, count: None)
    return folder


def make_run(data: Path, out: Path, *overrides: str) -> Run:
    recipe = load_recipe("smoke", [*SHORT, *overrides])
    dataset = load_dataset([data], TAXONOMY, "train", recipe.data.class_balance_exponent)
    return Run(recipe, make_manifest(recipe, TAXONOMY, "people"), dataset, out, dataset.count_keypoints())


def losses(out: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (out / HISTORY).read_text().splitlines()]


# -- recipes


@pytest.mark.parametrize("name", list_shipped_recipes())
def test_shipped_recipes_are_read(name):
    start = {"fine-tune": [f"start={files('bundles') / 'demo'}"]}  # what it does not say is the bundle's
    recipe = load_recipe(name, start.get(name, []))
    assert recipe.stages[-1].objective == "detection"
    make_manifest(recipe, TAXONOMY, "data")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("stages.1.setps=3", "stages.1.setps: Extra inputs"),
        ("emma=0.9", "emma: Extra inputs"),
        ("ema=2", "ema: Input should be less than 1"),
        ("stages.7.steps=3", "there is no 7"),
        ("ema", "not of the form key=value"),
        ("stages.0.frames=97", "stages.0.frames 97 do not fit into a window: input.window_frames is 96"),
        ("stages.1.objective=dense", "the last stage must have the objective detection"),
        ("input.height=50", "input.height 50 is no multiple of 16"),
    ],
)
def test_what_a_recipe_cannot_mean_is_refused_by_name(override, words):
    with pytest.raises(RecipeError, match=words):
        load_recipe("smoke", [override])


def test_unknown_recipes_are_told_with_those_there_are():
    with pytest.raises(RecipeError, match="no recipe 'nowhere': give a file, or one of .*smoke"):
        load_recipe("nowhere", [])


# -- data


def test_folders_mix_by_weight(data):
    dataset = load_dataset([data, Path(f"{data}*3")], TAXONOMY, "train", 0.0)
    half = len(dataset.samples) // 2
    assert len(set(dataset.truth(range(2 * half)).videos)) == 2 * half  # though names are the same in both
    assert dataset.weights[half:].sum() == pytest.approx(0.75)
    class_balance_exponent = load_dataset([data], TAXONOMY, "train", 1.0)
    counts = np.bincount(np.concatenate([item.labels for item in class_balance_exponent.samples]), minlength=52)
    rarest = [min(counts[item.labels], default=99) for item in class_balance_exponent.samples]
    assert (
        class_balance_exponent.weights[int(np.argmin(rarest))] > class_balance_exponent.weights[int(np.argmax(rarest))]
    )


def test_broken_folders_are_told(data, tmp_path):
    with pytest.raises(DatasetError, match=r"has no mmad\.json"):
        load_dataset([tmp_path], TAXONOMY, "train", 0)
    (tmp_path / "mmad.json").write_text((data / "mmad.json").read_text())
    with pytest.raises(DatasetError, match="videos of 'train' are missing"):
        load_dataset([tmp_path], TAXONOMY, "train", 0)
    with pytest.raises(DatasetError, match="no video of subset 'test'"):
        load_dataset([data], TAXONOMY, "test", 0)
    for weight in ("often", "0", "-1", "nan", "inf"):
        with pytest.raises(DatasetError, match=rf"'{weight}' is no weight above 0; write FOLDER\*2"):
            load_dataset([Path(f"{data}*{weight}")], TAXONOMY, "train", 0)


def test_videos_are_decoded_once_with_a_cache(tmp_path):
    folder = tmp_path / "mp4"
    produce(
        DatasetSpec(People(seed=2, fps=10.0, height=48, width=48), folder, Storage.MP4, 1), 1, lambda done, count: None
    )
    recipe = load_recipe("smoke", [])
    item = load_dataset([folder], TAXONOMY, "train", 0).samples[0]
    first = read_frames(item, recipe.input, 1.0, tmp_path / "cache")
    kept = list((tmp_path / "cache").iterdir())
    item.path.write_bytes(item.path.read_bytes())  # another time stamp: decoded anew
    assert len(kept) == 1
    assert np.array_equal(first, read_frames(item, recipe.input, 1.0, tmp_path / "cache"))
    assert first.shape[1:] == (48, 48, 3)
    assert abs(len(first) / recipe.input.fps - item.duration_s) < 0.3


def test_examples_follow_their_labels():
    """Each frame's grey says where it is in the video: the labels of the window must agree."""
    recipe = load_recipe("smoke", [])
    count = 120
    frames = np.zeros((count, 48, 48, 3), np.uint8) + np.arange(count, dtype=np.uint8)[:, None, None, None] * 2
    segments_s = np.array([[4.0, 12.0]])  # frames 20 to 60 at 5 a second
    changing = PLAIN.model_copy(update={"speed": (0.7, 1.4), "truncate": 0.7, "freeze": 0.3})
    for seed in range(200):
        rng = np.random.default_rng(seed)
        example = make_example(rng, frames, segments_s, np.array([3]), None, recipe.input, changing)
        assert 1 <= len(example.frames) <= recipe.input.window_frames
        shown = example.frames[:, 0, 0, 0].astype(int) / 2
        inside = np.flatnonzero((shown >= 20) & (shown <= 60))
        if not len(example.labels):
            assert len(inside) <= max(0.35 * 40 / 0.7, 4)
            continue
        start, end = example.segments[0]
        assert abs(start - inside[0]) <= 1.5
        moving = inside[: int(np.argmax(shown[inside])) + 1]
        assert abs(end - moving[-1]) <= 1.5


def test_mirror_images_move_keypoints_along():
    recipe = load_recipe("smoke", [])
    frames = np.zeros((10, 48, 48, 3), np.uint8)
    frames[:, 12, 36] = 255
    left, right = (36.5 / 48, 12.5 / 48, 1.0), (20.5 / 48, 40.5 / 48, 0.0)
    keypoints = Keypoints(np.broadcast_to(np.array([left, right]), (10, 2, 3)), np.array([1, 0]))
    changing = PLAIN.model_copy(update={"flip": 1.0, "scale": (0.7, 0.9)})
    for seed in range(20):
        made = make_example(
            np.random.default_rng(seed), frames, np.zeros((0, 2)), np.zeros(0, int), keypoints, recipe.input, changing
        )
        assert not made.keypoints[0, 0, 2]  # the right one, which is hidden, looks left now
        x, y, seen = made.keypoints[0, 1]
        if seen:
            row, column = np.unravel_index(made.frames[0, ..., 0].argmax(), (48, 48))
            assert abs(x * 48 - column - 0.5) < 1.2
            assert abs(y * 48 - row - 0.5) < 1.2


def test_numbers_alone_decide_an_example(data, tmp_path):
    run = make_run(data, tmp_path)
    first, again, other = Examples(run, 0)[5], Examples(run, 0)[5], Examples(run, 1)[5]
    assert np.array_equal(first.frames, again.frames)
    assert first.frames.shape != other.frames.shape or not np.array_equal(first.frames, other.frames)


# -- stages


def test_a_teacher_is_imitated_and_never_trained(data, tmp_path, bundle):
    theirs = bundle.manifest.input
    seen = [f"input.{name}={list(value) if isinstance(value, tuple) else value}" for name, value in theirs]
    run = make_run(data, tmp_path, *seen, f"teacher={bundle.folder}", "stages.0.distillation=2.0")
    stage = run.recipe.stages[0]
    teacher = Teacher(bundle.folder, run.manifest.input)
    trainee = TrainingModule(Network(run.manifest), run.manifest, run.keypoints, teacher=teacher)
    assert sum("teacher" in name for name in trainee.state_dict()) == 0
    batch = collate([Examples(run, 0)[number] for number in range(2)], run.manifest)
    wanted = teacher.features(batch.clips, batch.mask)
    assert (
        wanted.shape[1]
        == bundle.manifest.architecture.backbone.embed_dim
        != run.manifest.architecture.backbone.embed_dim
    )
    noise = torch.randn(2, 5, batch.mask.shape[1]) * 3 + 7
    assert feature_distance(torch.zeros_like(noise), noise, batch.mask) == pytest.approx(1.0, abs=0.01)
    told, beyond = (noise - 7) / 3, 100.0 * ~batch.mask[:, None]  # what is beyond the video does not count
    assert feature_distance(told - beyond, noise + beyond, batch.mask) < 0.1
    optimizer = torch.optim.Adam([p for p in trainee.parameters() if p.requires_grad], 1e-3)
    course = []
    for _ in range(20):
        losses = trainee(batch, stage)
        assert set(losses) == {"dense", "keypoints", "teacher", "loss"}
        course.append(float(losses["teacher"].detach()))
        optimizer.zero_grad()
        losses["loss"].backward()
        optimizer.step()
    assert course[-1] < 0.8 * course[0]
    assert torch.equal(teacher.features(batch.clips, batch.mask), wanted)
    assert "teacher" not in trainee(batch, stage.model_copy(update={"distillation": 0.0}))


def test_pictures_are_scaled_for_a_teacher_of_another_size():
    clips = torch.arange(48, dtype=torch.uint8).repeat_interleave(2).reshape(1, 1, 1, 1, 96, 1)
    clips = clips.expand(2, 1, 3, 40, 96, 3)
    half = _resize(clips, (20, 48))
    assert half.shape == (2, 1, 3, 20, 48, 3)
    assert (half[0, 0, 0, 5, 2:-2, 1] - torch.arange(48)[2:-2]).abs().max() < 0.3
    assert _resize(clips, (40, 96)) is clips


def test_a_teacher_must_see_the_same_moments(data, tmp_path, bundle):
    run = make_run(data, tmp_path, f"teacher={bundle.folder}")
    with pytest.raises(TrainingError, match=r"input.fps 15.0, the recipe 5.0: .* set input.fps to 15.0"):
        train(run, lambda at: None, accelerator="cpu")
    with pytest.raises(RecipeError, match="distillation needs a teacher"):
        load_recipe("smoke", ["stages.0.distillation=1"])


def test_losses_of_a_batch_are_of_its_stage(data, tmp_path):
    run = make_run(data, tmp_path)
    batch = collate([Examples(run, 0)[number] for number in range(3)], run.manifest)
    assert batch.clips.dtype == torch.uint8
    assert batch.dense.sum() > 0
    assert batch.keypoints.shape[2] == run.keypoints > 0
    trainee = TrainingModule(Network(run.manifest), run.manifest, run.keypoints)
    assert set(trainee(batch, run.recipe.stages[0])) == {"dense", "keypoints", "loss"}
    assert set(trainee(batch, run.recipe.stages[1])) == {"classes", "boundaries", "loss"}


def test_training_learns_one_video_by_heart(data, tmp_path):
    settings = ("stages.0.steps=50", "stages.0.keypoints=0", "stages.0.backbone_rate=0.003", "stages.0.head_rate=0.01")
    run = make_run(data, tmp_path, *settings)
    train(replace(run, dataset=VideoDataset(run.dataset.samples[:1], np.ones(1))), lambda at: None)
    curve = losses(tmp_path)
    assert np.mean(curve[40:50]) < 0.6 * np.mean(curve[:5])


@pytest.mark.parametrize("tuning", ["head", "adapters", "all"])
def test_only_what_the_setting_says_moves(tuning, data, tmp_path):
    run = make_run(data, tmp_path, f"stages.1.tuning={tuning}", "stages.0.steps=1", "ema=0")
    states = []

    def watch(at):
        if at.stage == 1:
            states.append(at.step)

    # The state after the first stage is what the second begins with.
    first = train(make_run(data, tmp_path / "a", "stages.0.steps=1", "stages.1.steps=1", "ema=0", "stages.1.head_rate=1e-12",
                           "stages.1.adapter_rate=1e-12"), lambda at: None)  # fmt: skip
    second = train(run, watch)
    assert states == [1, 2, 3, 4]
    moved = {
        name
        for (name, before), after in zip(first.named_parameters(), second.parameters(), strict=True)
        if (before - after).abs().max() > 1e-9
    }
    for name, _ in second.named_parameters():
        frozen = name.startswith("backbone.") and (
            tuning == "head" or (tuning == "adapters" and ".adapter." not in name)
        )
        if frozen:
            assert name not in moved
    assert any(name.startswith("detector.") for name in moved)
    assert any(".adapter." in name for name in moved) == (tuning != "head")
    assert any(name.startswith("backbone.blocks.0.attn") for name in moved) == (tuning == "all")


def test_of_several_processes_one_tells_and_writes(data, tmp_path):
    settings = [part for one in [*SHORT, "architecture.head.branch_blocks=1"] for part in ("--set", one)]
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "mmad", "train", "--data", data,
         "--out", tmp_path, "--config", "smoke", "--device", "cpu", "--devices", "2", *settings],
        check=True, capture_output=True, text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert (done.stdout + done.stderr).count("to train on") == 1
    assert " ".join(done.stdout.split()).count("bundle: smoke 1") == 1  # lines are wrapped at the terminal's width
    rows = [json.loads(line) for line in (tmp_path / HISTORY).read_text().splitlines()]
    assert [(row["stage"], row["step"]) for row in rows] == [(0, 1), (0, 2), (0, 3), (1, 1), (1, 2), (1, 3), (1, 4)]
    assert Bundle.load(tmp_path / "bundle").manifest.metrics


def test_a_killed_run_goes_on_with_the_same_losses(data, tmp_path):
    """20 steps at a stretch, against a run that is killed on its way and taken up again."""
    settings = ["stages.0.steps=8", "stages.1.steps=12", "save_minutes=0.0001"]
    train(make_run(data, tmp_path / "whole", *settings), lambda at: None)
    command = [
        sys.executable,
        "-m",
        "mmad",
        "train",
        "--data",
        str(data),
        "--out",
        str(tmp_path / "cut"),
        "--config",
        "smoke",
    ]
    for setting in [*SHORT, *settings]:
        command += ["--set", setting]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    history = tmp_path / "cut" / HISTORY
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if history.exists() and history.read_text().count("\n") >= 9:
            break
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before = history.read_text().count("\n")
    assert before < 20
    held_out = load_dataset([data], TAXONOMY, "val", 0.5)  # as the command does
    train(replace(make_run(data, tmp_path / "cut", *settings), held_out=held_out), lambda at: None, resume=True)
    np.testing.assert_allclose(losses(tmp_path / "cut"), losses(tmp_path / "whole"), rtol=1e-6)
    assert len(losses(tmp_path / "whole")) == 20


def test_a_checkpoint_goes_on_with_its_own_recipe_only(data, tmp_path):
    with pytest.raises(TrainingError, match="has no checkpoint"):
        train(make_run(data, tmp_path), lambda at: None, resume=True)
    train(make_run(data, tmp_path), lambda at: None)
    assert (tmp_path / CHECKPOINT).exists()
    with pytest.raises(TrainingError, match="is not this recipe"):
        train(make_run(data, tmp_path, "seed=5"), lambda at: None, resume=True)
    run = make_run(data, tmp_path)
    fewer = VideoDataset(run.dataset.samples[1:], run.dataset.weights[1:] / run.dataset.weights[1:].sum())
    for changed in (replace(run, dataset=fewer), replace(run, held_out=fewer)):
        with pytest.raises(TrainingError, match="was begun with other videos"):
            train(changed, lambda at: None, resume=True)


def test_pretrained_weights_begin_a_run(data, tmp_path):
    run = make_run(data, tmp_path / "run", "stages.0.steps=1", "stages.0.tuning=head", "stages.1.tuning=head", "ema=0")
    torch.manual_seed(99)
    backbone = Network(run.manifest).backbone
    path = tmp_path / "backbone.safetensors"
    header = {"mmad_backbone": run.recipe.architecture.backbone.model_dump_json()}
    save_file(backbone.state_dict(), path, metadata=header)
    with_weights = replace(run, recipe=run.recipe.model_copy(update={"backbone": path}))
    trained = train(with_weights, lambda at: None)
    for name, value in backbone.state_dict().items():
        assert torch.equal(trained.backbone.state_dict()[name], value), name
    other = make_run(data, tmp_path / "other", "architecture.backbone.depth=3")
    wrong = replace(other, recipe=other.recipe.model_copy(update={"backbone": path}))
    with pytest.raises(TrainingError, match="depth is 2 in the file, 3 here"):
        train(wrong, lambda at: None)


def test_a_dense_stage_leaves_a_backbone_for_other_recipes(data, tmp_path):
    train(make_run(data, tmp_path / "first"), lambda at: None)
    kept = tmp_path / "first" / "backbone.safetensors"
    second = make_run(
        data, tmp_path / "second", "stages.0.steps=1", "stages.0.tuning=head", "stages.1.tuning=head", "ema=0"
    )
    begun = train(replace(second, recipe=second.recipe.model_copy(update={"backbone": kept})), lambda at: None)
    for name, value in load_file(kept).items():
        assert torch.equal(begun.backbone.state_dict()[name], value), name


@pytest.mark.usefixtures("without_graphs")
def test_videomae_from_hugging_face_trains_with_the_paper_s_recipe(data, tmp_path):
    """The way of whoever holds the data and the weights, in small: folder, import, train, bundle."""
    transformers = pytest.importorskip("transformers")
    config = transformers.VideoMAEConfig(
        image_size=224, num_hidden_layers=2, hidden_size=48, num_attention_heads=4, intermediate_size=192
    )
    transformers.VideoMAEModel(config).save_pretrained(tmp_path / "hub")
    weights = tmp_path / "videomae.safetensors"
    imported = CliRunner().invoke(app, ["import-weights", str(tmp_path / "hub"), "--out", str(weights)])
    assert imported.exit_code == 0, imported.output
    arguments = ["train", "--data", str(data), "--out", str(tmp_path / "run"), "--config", "mmad-small"]
    small = (
        f"backbone={weights}", "architecture.backbone={embed_dim: 48, depth: 2, heads: 4}",
        "architecture.head={channels: 32, branch_blocks: 4}", "input.height=48", "input.width=48", "input.fps=5",
        "input.window_frames=96", "input.overlap_frames=32", "data.workers=0", "stages.0.steps=2", "validate_videos=1",
    )  # fmt: skip
    for setting in small:
        arguments += ["--set", setting]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    manifest = Bundle.load(tmp_path / "run" / "bundle").manifest
    assert manifest.architecture.backbone.norm_eps == 1e-12  # the file's own
    assert manifest.architecture.adapter.kind == "dsta"


def test_a_loss_that_is_no_number_stops_the_run(data, tmp_path):
    run = make_run(data, tmp_path, "stages.0.backbone_rate=1e30", "stages.0.head_rate=1e30", "stages.0.warmup=0")
    with pytest.raises(TrainingError, match=r"the loss of stage \d, step \d is (nan|inf).*bad-batch"):
        train(run, lambda at: None)
    (path,) = tmp_path.glob("bad-batch-*.pt")
    assert torch.load(path, weights_only=True)["clips"].dtype == torch.uint8


def test_two_devices_make_the_steps_of_one(data, tmp_path):
    """Processes share each batch; the mean of their losses is that of the whole batch's parts."""
    script = (
        "import sys; from pathlib import Path; sys.path.insert(0, '.')\n"
        "from tests.test_train import make_run\n"
        "from training.train import train\n"
        "run = make_run(Path(sys.argv[1]), Path(sys.argv[2]), 'stages.0.steps=2', 'stages.1.steps=2')\n"
        "train(run, lambda at: None, accelerator='cpu', devices=2)\n"
    )
    path = tmp_path / "pair.py"
    path.write_text(script)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    subprocess.run([sys.executable, str(path), str(data), str(tmp_path / "pair")], check=True, env=environment, timeout=200,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    assert len(losses(tmp_path / "pair")) == 4
    train(make_run(data, tmp_path / "one", "stages.0.steps=2", "stages.1.steps=2"), lambda at: None)
    one = torch.load(tmp_path / "one" / CHECKPOINT, weights_only=True)["trainee"]
    two = torch.load(tmp_path / "pair" / CHECKPOINT, weights_only=True)["trainee"]
    name = "network.backbone.blocks.0.mlp.fc1.weight"
    assert (one[name] - two[name]).abs().max() < 5e-3


# -- what is left behind


def test_thresholds_are_half_of_the_best_f1_and_near_that_of_all():
    times = np.arange(40.0).reshape(20, 2) * 2
    truth = Instances(("v",), np.array([100.0]), np.zeros(20, int), times, np.repeat([0, 1], 10), np.ones(20))
    # All of the first action are right; of the second five, before thirty that are wrong; of the third nothing is.
    segments = np.concatenate([times[:15], np.tile([90.0, 91.0], (31, 1))])
    labels = np.array([0] * 10 + [1] * 35 + [2])
    scores = np.concatenate([np.linspace(0.9, 0.6, 10), np.full(5, 0.95), np.linspace(0.55, 0.1, 31)])
    found = Instances(("v",), truth.durations, np.zeros(46, int), segments, labels, scores)
    chosen = choose_thresholds(truth, found, 4)
    every = (2 * 15 / (15 + 20)) / 2
    assert chosen.default == pytest.approx(every)
    assert chosen.per_class == pytest.approx(((1 / 2 + every) / 2, (2 * 5 / (5 + 10) / 2 + every) / 2, every, every))
    poor = replace(found, segments=np.concatenate([times[:1], np.tile([90.0, 91.0], (45, 1))]))
    assert choose_thresholds(truth, poor, 2).default == 0.1  # its best F1 is 2 / 26
    wrong = replace(found, segments=np.tile([90.0, 91.0], (46, 1)))
    assert choose_thresholds(truth, wrong, 2) == Thresholds(default=0.3, per_class=(0.3, 0.3))


@pytest.mark.usefixtures("without_graphs")
def test_the_command_makes_a_bundle_that_loads(data, tmp_path):
    arguments = ["train", "--data", str(data), "--out", str(tmp_path), "--config", "smoke"]
    for setting in SHORT:
        arguments += ["--set", setting]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    bundle = Bundle.load(tmp_path / "bundle")
    assert bundle.manifest.trained_on.synthetic
    assert 0 <= bundle.manifest.metrics["validation_action_mAP"] <= 1
    assert len(bundle.manifest.thresholds.per_class) == 52
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert report["versions"]["torch"].startswith("2.")
    assert (tmp_path / "report" / "loss.png").stat().st_size > 1000
    assert list((tmp_path / "tensorboard").iterdir())


def test_wrong_settings_end_the_command(data, tmp_path):
    result = CliRunner().invoke(
        app, ["train", "--data", str(data), "--out", str(tmp_path), "--config", "smoke", "--set", "ema=7"]
    )
    assert result.exit_code == 1
    assert "ema" in result.output
