"""Training runs: objectives, tuning, resuming, several processes, results."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from mmad.cli import app
from model.bundle import Bundle, Thresholds
from model.network import Network
from tests.smoke_runs import SHORT, TAXONOMY, make_run, read_losses, render_people, set_options
from training.dataset import VideoDataset, load_dataset
from training.evaluation.validation import choose_thresholds
from training.instances import Instances
from training.objectives import Teacher, TrainingModule, _resize, collate, feature_distance
from training.recipe import RecipeError, load_recipe
from training.run import CHECKPOINT, HISTORY, Examples, TrainingError
from training.train import train


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return render_people(tmp_path_factory.mktemp("people"))


def test_distillation_lowers_teacher_loss_and_freezes_teacher(data, tmp_path, bundle):
    teacher_input = bundle.manifest.input
    input_settings = [
        f"input.{name}={list(value) if isinstance(value, tuple) else value}" for name, value in teacher_input
    ]
    run = make_run(data, tmp_path, *input_settings, f"teacher={bundle.folder}", "stages.0.distillation=2.0")
    stage = run.recipe.stages[0]
    teacher = Teacher(bundle.folder, run.manifest.input)
    trainee = TrainingModule(Network(run.manifest), run.manifest, run.keypoints, teacher=teacher)
    assert sum("teacher" in name for name in trainee.state_dict()) == 0
    batch = collate([Examples(run, 0)[number] for number in range(2)], run.manifest)
    expected = teacher.features(batch.clips, batch.mask)
    assert (
        expected.shape[1]
        == bundle.manifest.architecture.backbone.embed_dim
        != run.manifest.architecture.backbone.embed_dim
    )
    noise = torch.randn(2, 5, batch.mask.shape[1]) * 3 + 7
    assert feature_distance(torch.zeros_like(noise), noise, batch.mask) == pytest.approx(1.0, abs=0.01)
    matching, beyond = (noise - 7) / 3, 100.0 * ~batch.mask[:, None]  # steps beyond the video are masked
    assert feature_distance(matching - beyond, noise + beyond, batch.mask) < 0.1
    optimizer = torch.optim.Adam([p for p in trainee.parameters() if p.requires_grad], 1e-3)
    curve = []
    for _ in range(20):
        losses = trainee(batch, stage)
        assert set(losses) == {"dense", "keypoints", "teacher", "loss"}
        curve.append(float(losses["teacher"].detach()))
        optimizer.zero_grad()
        losses["loss"].backward()
        optimizer.step()
    assert curve[-1] < 0.8 * curve[0]
    assert torch.equal(teacher.features(batch.clips, batch.mask), expected)
    assert "teacher" not in trainee(batch, stage.model_copy(update={"distillation": 0.0}))


def test_clips_are_resized_for_teacher():
    clips = torch.arange(48, dtype=torch.uint8).repeat_interleave(2).reshape(1, 1, 1, 1, 96, 1)
    clips = clips.expand(2, 1, 3, 40, 96, 3)
    half = _resize(clips, (20, 48))
    assert half.shape == (2, 1, 3, 20, 48, 3)
    assert (half[0, 0, 0, 5, 2:-2, 1] - torch.arange(48)[2:-2]).abs().max() < 0.3
    assert _resize(clips, (40, 96)) is clips


def test_teacher_with_other_fps_is_refused(data, tmp_path, bundle):
    run = make_run(data, tmp_path, f"teacher={bundle.folder}")
    with pytest.raises(TrainingError, match=r"input.fps 15.0, the recipe 5.0: .* set input.fps to 15.0"):
        train(run, lambda at: None, accelerator="cpu")
    with pytest.raises(RecipeError, match="distillation needs a teacher"):
        load_recipe("smoke", ["stages.0.distillation=1"])


def test_losses_depend_on_stage_objective(data, tmp_path):
    run = make_run(data, tmp_path)
    batch = collate([Examples(run, 0)[number] for number in range(3)], run.manifest)
    assert batch.clips.dtype == torch.uint8
    assert batch.dense.sum() > 0
    assert batch.keypoints.shape[2] == run.keypoints > 0
    trainee = TrainingModule(Network(run.manifest), run.manifest, run.keypoints)
    assert set(trainee(batch, run.recipe.stages[0])) == {"dense", "keypoints", "loss"}
    assert set(trainee(batch, run.recipe.stages[1])) == {"classes", "boundaries", "loss"}


def test_training_overfits_one_video(data, tmp_path):
    settings = ("stages.0.steps=50", "stages.0.keypoints=0", "stages.0.backbone_rate=0.003", "stages.0.head_rate=0.01")
    run = make_run(data, tmp_path, *settings)
    train(replace(run, dataset=VideoDataset(run.dataset.samples[:1], np.ones(1))), lambda at: None)
    curve = read_losses(tmp_path)
    assert np.mean(curve[40:50]) < 0.6 * np.mean(curve[:5])


@pytest.mark.parametrize("tuning", ["head", "adapters", "all"])
def test_tuning_setting_decides_which_weights_change(tuning, data, tmp_path):
    run = make_run(data, tmp_path, f"stages.1.tuning={tuning}", "stages.0.steps=1", "ema=0")
    steps = []

    def record(at):
        if at.stage == 1:
            steps.append(at.step)

    # The first run ends with the weights that the second stage starts from.
    first = train(make_run(data, tmp_path / "a", "stages.0.steps=1", "stages.1.steps=1", "ema=0", "stages.1.head_rate=1e-12",
                           "stages.1.adapter_rate=1e-12"), lambda at: None)  # fmt: skip
    second = train(run, record)
    assert steps == [1, 2, 3, 4]
    changed = {
        name
        for (name, before), after in zip(first.named_parameters(), second.parameters(), strict=True)
        if (before - after).abs().max() > 1e-9
    }
    for name, _ in second.named_parameters():
        frozen = name.startswith("backbone.") and (
            tuning == "head" or (tuning == "adapters" and ".adapter." not in name)
        )
        if frozen:
            assert name not in changed
    assert any(name.startswith("detector.") for name in changed)
    assert any(".adapter." in name for name in changed) == (tuning != "head")
    assert any(name.startswith("backbone.blocks.0.attn") for name in changed) == (tuning == "all")


def test_only_one_of_several_processes_prints_and_writes(data, tmp_path):
    settings = set_options([*SHORT, "architecture.head.branch_blocks=1"])
    completed = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "mmad", "train", "--data", data,
         "--out", tmp_path, "--config", "smoke", "--device", "cpu", "--devices", "2", *settings],
        check=True, capture_output=True, text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert (completed.stdout + completed.stderr).count("to train on") == 1
    assert " ".join(completed.stdout.split()).count("bundle: smoke 1") == 1  # lines are wrapped at the terminal's width
    rows = [json.loads(line) for line in (tmp_path / HISTORY).read_text().splitlines()]
    assert [(row["stage"], row["step"]) for row in rows] == [(0, 1), (0, 2), (0, 3), (1, 1), (1, 2), (1, 3), (1, 4)]
    assert Bundle.load(tmp_path / "bundle").manifest.metrics


def test_killed_run_resumes_with_same_losses(data, tmp_path):
    """Compare 20 uninterrupted steps with a run that is killed and resumed."""
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
    command += set_options([*SHORT, *settings])
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
    unfinished = tmp_path / "cut" / ".0123456789ab.pt"
    unfinished.write_bytes(b"half a checkpoint")
    held_out = load_dataset([data], TAXONOMY, "val", 0.5)  # as the command does
    train(replace(make_run(data, tmp_path / "cut", *settings), held_out=held_out), lambda at: None, resume=True)
    np.testing.assert_allclose(read_losses(tmp_path / "cut"), read_losses(tmp_path / "whole"), rtol=1e-6)
    assert len(read_losses(tmp_path / "whole")) == 20
    assert not unfinished.exists()


def test_resume_refuses_other_recipe_or_videos(data, tmp_path):
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


def test_run_starts_from_pretrained_backbone(data, tmp_path):
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


def test_dense_stage_saves_backbone_for_other_recipes(data, tmp_path):
    train(make_run(data, tmp_path / "first"), lambda at: None)
    backbone = tmp_path / "first" / "backbone.safetensors"
    second = make_run(
        data, tmp_path / "second", "stages.0.steps=1", "stages.0.tuning=head", "stages.1.tuning=head", "ema=0"
    )
    started = train(replace(second, recipe=second.recipe.model_copy(update={"backbone": backbone})), lambda at: None)
    for name, value in load_file(backbone).items():
        assert torch.equal(started.backbone.state_dict()[name], value), name


@pytest.mark.usefixtures("without_graphs")
def test_imported_videomae_trains_with_mmad_small_recipe(data, tmp_path):
    """Import weights, train and load the bundle, with a tiny model."""
    transformers = pytest.importorskip("transformers")
    config = transformers.VideoMAEConfig(
        image_size=224, num_hidden_layers=2, hidden_size=48, num_attention_heads=4, intermediate_size=192
    )
    transformers.VideoMAEModel(config).save_pretrained(tmp_path / "hub")
    weights = tmp_path / "videomae.safetensors"
    imported = CliRunner().invoke(app, ["import-weights", str(tmp_path / "hub"), "--out", str(weights)])
    assert imported.exit_code == 0, imported.output
    arguments = ["train", "--data", str(data), "--out", str(tmp_path / "run"), "--config", "mmad-small"]
    settings = (
        f"backbone={weights}", "architecture.backbone={embed_dim: 48, depth: 2, heads: 4}",
        "architecture.head={channels: 32, branch_blocks: 4}", "input.height=48", "input.width=48", "input.fps=5",
        "input.window_frames=96", "input.overlap_frames=32", "data.workers=0", "stages.0.steps=2", "validate_videos=1",
    )  # fmt: skip
    result = CliRunner().invoke(app, arguments + set_options(settings))
    assert result.exit_code == 0, result.output
    manifest = Bundle.load(tmp_path / "run" / "bundle").manifest
    assert manifest.architecture.backbone.norm_eps == 1e-12  # the file's own
    assert manifest.architecture.adapter.kind == "dsta"


def test_non_finite_loss_stops_run_and_saves_batch(data, tmp_path):
    run = make_run(data, tmp_path, "stages.0.backbone_rate=1e30", "stages.0.head_rate=1e30", "stages.0.warmup=0")
    with pytest.raises(TrainingError, match=r"the loss of stage \d, step \d is (nan|inf).*bad-batch"):
        train(run, lambda at: None)
    (path,) = tmp_path.glob("bad-batch-*.pt")
    assert torch.load(path, weights_only=True)["clips"].dtype == torch.uint8


def test_two_devices_train_like_one(data, tmp_path):
    """Processes share each batch; their mean loss is that of the batch."""
    script = (
        "import sys; from pathlib import Path; sys.path.insert(0, '.')\n"
        "from tests.smoke_runs import make_run\n"
        "from training.train import train\n"
        "run = make_run(Path(sys.argv[1]), Path(sys.argv[2]), 'stages.0.steps=2', 'stages.1.steps=2')\n"
        "train(run, lambda at: None, accelerator='cpu', devices=2)\n"
    )
    path = tmp_path / "pair.py"
    path.write_text(script)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    subprocess.run([sys.executable, str(path), str(data), str(tmp_path / "pair")], check=True, env=environment, timeout=200,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    assert len(read_losses(tmp_path / "pair")) == 4
    train(make_run(data, tmp_path / "one", "stages.0.steps=2", "stages.1.steps=2"), lambda at: None)
    one = torch.load(tmp_path / "one" / CHECKPOINT, weights_only=True)["trainee"]
    two = torch.load(tmp_path / "pair" / CHECKPOINT, weights_only=True)["trainee"]
    name = "network.backbone.blocks.0.mlp.fc1.weight"
    assert (one[name] - two[name]).abs().max() < 5e-3


def test_thresholds_are_half_best_f1_shrunk_to_overall():
    times = np.arange(40.0).reshape(20, 2) * 2
    truth = Instances(("v",), np.array([100.0]), np.zeros(20, int), times, np.repeat([0, 1], 10), np.ones(20))
    # All of the first action are correct; of the second, five and then thirty wrong; of the third, none.
    segments = np.concatenate([times[:15], np.tile([90.0, 91.0], (31, 1))])
    labels = np.array([0] * 10 + [1] * 35 + [2])
    scores = np.concatenate([np.linspace(0.9, 0.6, 10), np.full(5, 0.95), np.linspace(0.55, 0.1, 31)])
    predictions = Instances(("v",), truth.durations, np.zeros(46, int), segments, labels, scores)
    chosen = choose_thresholds(truth, predictions, 4)
    overall = (2 * 15 / (15 + 20)) / 2
    assert chosen.default == pytest.approx(overall)
    assert chosen.per_class == pytest.approx(
        ((1 / 2 + overall) / 2, (2 * 5 / (5 + 10) / 2 + overall) / 2, overall, overall)
    )
    poor = replace(predictions, segments=np.concatenate([times[:1], np.tile([90.0, 91.0], (45, 1))]))
    assert choose_thresholds(truth, poor, 2).default == 0.1  # its best F1 is 2 / 26
    wrong = replace(predictions, segments=np.tile([90.0, 91.0], (46, 1)))
    assert choose_thresholds(truth, wrong, 2) == Thresholds(default=0.3, per_class=(0.3, 0.3))


@pytest.mark.usefixtures("without_graphs")
def test_train_command_writes_bundle_and_report(data, tmp_path):
    arguments = ["train", "--data", str(data), "--out", str(tmp_path), "--config", "smoke"]
    result = CliRunner().invoke(app, arguments + set_options(SHORT))
    assert result.exit_code == 0, result.output
    bundle = Bundle.load(tmp_path / "bundle")
    assert bundle.manifest.trained_on.synthetic
    assert 0 <= bundle.manifest.metrics["validation_action_mAP"] <= 1
    assert len(bundle.manifest.thresholds.per_class) == 52
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert report["versions"]["torch"].startswith("2.")
    assert (tmp_path / "report" / "loss.png").stat().st_size > 1000
    assert list((tmp_path / "tensorboard").iterdir())


def test_train_command_rejects_invalid_setting(data, tmp_path):
    result = CliRunner().invoke(
        app, ["train", "--data", str(data), "--out", str(tmp_path), "--config", "smoke", "--set", "ema=7"]
    )
    assert result.exit_code == 1
    assert "ema" in result.output
