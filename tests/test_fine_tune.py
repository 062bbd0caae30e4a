"""Fine-tuning: held-out videos, early stopping, and the resulting bundle."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from mmad.cli import app
from model.bundle import Bundle, Calibration, LocatorConfig, Thresholds, Training
from model.detector import Detector
from model.engines import load_engine
from model.network import Network
from model.transforms import Region
from model.video import Video
from tests.annotated_people import SEGMENTS, TAXONOMY, render_videos, write_eafs, write_table
from tests.clips import pattern
from training import framed, train
from training.annotated import make_dataset, read_annotated
from training.dataset import Sample, read_frames
from training.evaluation import early_stopping
from training.evaluation.metrics import evaluate
from training.evaluation.validation import ValidationResult, choose_calibration
from training.instances import Instances
from training.recipe import LOCATOR_FILE, RecipeError, load_recipe
from training.run import (
    CHECKPOINT,
    HISTORY,
    RECIPE,
    Run,
    TrainingError,
    find_locator,
    make_manifest,
    start_network,
    tuned_manifest,
)
from training.split import SplitError, split, split_by_list


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    return render_videos(tmp_path_factory.mktemp("people"))


def make_sample(name: str, *labels: int) -> Sample:
    spans = np.array([[0.0, 1.0]] * len(labels)).reshape(-1, 2)
    return Sample(name=name, path=Path(f"{name}.mp4"), sidecar=None, duration_s=2.0, segments=spans, labels=np.array(labels, int))  # fmt: skip


def test_split_puts_actions_of_two_videos_on_both_sides():
    rng = np.random.default_rng(0)
    samples = [make_sample(f"v{index}", *rng.integers(0, 8, rng.integers(0, 3))) for index in range(60)]
    samples += [make_sample("only", 50), make_sample("pair", 51), make_sample("other", 51)]
    training, held = split(samples, 0.2, 7)
    assert len(held) == round(0.2 * 63)
    assert sorted(sample.name for sample in [*training, *held]) == sorted(sample.name for sample in samples)
    held_labels, training_labels = (
        {label for sample in part for label in sample.labels.tolist()} for part in (held, training)
    )
    assert {*range(8), 51} <= held_labels
    assert {*range(8), 50, 51} <= training_labels
    assert any(not len(sample.labels) for sample in held)
    assert [sample.name for sample in split(samples, 0.2, 7)[1]] == [sample.name for sample in held]
    assert any(
        [sample.name for sample in split(samples, 0.2, seed)[1]] != [sample.name for sample in held]
        for seed in range(5)
    )


def test_split_by_list_holds_out_listed_videos(tmp_path):
    samples = [make_sample("a", 1), make_sample("b", 2), make_sample("c")]
    listed = tmp_path / "held.txt"
    listed.write_text("b.mp4\n\nc\n")
    assert [[sample.name for sample in part] for part in split_by_list(samples, listed)] == [["a"], ["b", "c"]]
    listed.write_text("b\nd\n")
    with pytest.raises(SplitError, match=r"held\.txt: line 2: 'd' is no annotated video"):
        split_by_list(samples, listed)
    listed.write_text("a\nb\nc\n")
    with pytest.raises(SplitError, match="holds out 3 of 3"):
        split_by_list(samples, listed)
    with pytest.raises(SplitError, match="1 annotated video: at least two"):
        split(samples[:1], 0.2, 0)


def make_run(videos: Path, out: Path, *overrides: str) -> Run:
    """Make a run of the smoke recipe's detection stage at a learning rate that soon overfits."""
    settings = ("stages.0.objective=detection", "stages.0.keypoints=0", "stages.0.steps=1", "stages.1.steps=30", "stages.1.warmup=0",
                "stages.1.head_rate=0.03", "stages.1.final=1", "stages.1.validate_every=2", "stages.1.patience=3", "ema=0.3")  # fmt: skip
    recipe = load_recipe("smoke", [*settings, *overrides])
    table_path = out.parent / f"{out.name}.csv"
    rows = [f"{name},{start},{end},{label}" for name, segments in SEGMENTS.items() for start, end, label in segments]
    items = read_annotated(videos, [write_table(table_path, rows)], TAXONOMY)
    parts = [make_dataset(part, 52, 0.5) for part in (items[:3], items[3:])]
    return Run(recipe, make_manifest(recipe, TAXONOMY, "people"), parts[0], out, 0, held_out=parts[1])


def history(out: Path) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (out / HISTORY).read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def held_out_losses(out: Path) -> dict[int, float]:
    rows = history(out)
    return {0: rows[1]["held_out_before"]} | {row["step"]: row["held_out"] for row in rows if "held_out" in row}


def test_early_stopping_restores_best_weights(videos, tmp_path):
    run = make_run(videos, tmp_path / "run")
    progress = []
    network = train.train(run, progress.append)
    losses = held_out_losses(run.out)
    best = min(losses, key=losses.__getitem__)
    assert max(losses) == best + 3 * 2 < 30
    assert losses[max(losses)] > losses[best] + 0.05
    held_out = early_stopping.ValidationLoss(run.manifest, run.held_out, run.recipe, torch.device("cpu"))
    assert held_out.loss(network.state_dict()) == pytest.approx(losses[best], rel=1e-6)
    assert (progress[-1].best.step, progress[-1].best.loss) == (best, losses[best])
    assert progress[-1].best.missed == 3


def test_early_stopping_restores_initial_weights_if_none_better(videos, tmp_path):
    torch.manual_seed(4)
    run = make_run(videos, tmp_path / "run", "stages.0.validate_every=1", "stages.0.head_rate=1e-9", "stages.0.adapter_rate=1e-9",
                   "stages.0.backbone_rate=1e-9", "stages.1.head_rate=30", "stages.1.validate_every=1")  # fmt: skip
    network = train.train(run, lambda at: None)
    torch.manual_seed(run.recipe.seed)
    before = Network(run.manifest).state_dict()
    assert max(row["step"] for row in history(run.out)) == 3
    for name, value in network.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=1e-6)


def test_resumed_run_ends_with_same_best_weights(videos, tmp_path):
    whole = train.train(make_run(videos, tmp_path / "whole", "save_minutes=1e-9"), lambda at: None)
    last_step = max(held_out_losses(tmp_path / "whole"))

    class KilledError(Exception):
        pass

    run = make_run(videos, tmp_path / "cut", "save_minutes=1e-9")
    for last in (3, last_step - 3, last_step):  # before and after the best step, and at the last

        def kill_at_last(at: train.Progress, last: int = last) -> None:
            if at.stage == 1 and at.step == last:
                raise KilledError

        with pytest.raises(KilledError):
            train.train(run, kill_at_last, resume=last > 3)
    resumed = train.train(run, lambda at: None, resume=True)
    assert history(tmp_path / "cut") == history(tmp_path / "whole")
    for name, value in resumed.state_dict().items():
        assert torch.equal(value, whole.state_dict()[name]), name


def test_checkpoint_without_early_stopping_state_resumes(videos, tmp_path):
    off = ("stages.1.validate_every=0", "stages.1.patience=0", "stages.1.steps=2")
    run = make_run(videos, tmp_path / "run", *off)
    train.train(run, lambda at: None)
    state = torch.load(run.out / CHECKPOINT, weights_only=True)
    del state["best"]
    torch.save(state, run.out / CHECKPOINT)
    lines = (run.out / RECIPE).read_text().splitlines()
    new_settings = ("start:", "validate_every:", "patience:")
    (run.out / RECIPE).write_text("\n".join(line for line in lines if not line.strip().startswith(new_settings)))
    before = history(run.out)
    resumed = train.train(run, lambda at: None, resume=True).state_dict()
    assert history(run.out) == before  # no step was left
    assert all(torch.equal(value, resumed[name]) for name, value in state["average"].items())


def test_validation_loss_covers_all_windows(videos, tmp_path):
    """The loss is the mean over the points of all windows; each action lies whole in one of them."""
    run = make_run(videos, tmp_path / "run")
    network = Network(run.manifest)
    first, second = (replace(run.held_out, samples=run.held_out.samples[index : index + 1]) for index in (0, 1))
    values = [early_stopping.ValidationLoss(run.manifest, dataset, run.recipe, torch.device("cpu")).loss(network.state_dict())
              for dataset in (first, second, run.held_out)]  # fmt: skip
    assert min(values[:2]) < values[2] < max(values[:2])
    segments = np.array([[0.0, 10.0], [95.0, 105.0], [180.0, 400.0], [99.0, 130.0]])
    cut, inside = early_stopping._clip_to_window(segments, 96, 192)
    assert inside.tolist() == [False, True, False, True]
    np.testing.assert_allclose(cut, [[0.0, 9.0], [3.0, 34.0]])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stages.0.validate_every=5", "goes with the objective detection"),
        ("stages.1.patience=2", "patience counts measurements"),
        ("start=nowhere", "start: no bundle at nowhere"),
    ],
)
def test_conflicting_settings_are_refused(override, message):
    with pytest.raises(RecipeError, match=message):
        load_recipe("smoke", [override])


def test_validation_requires_held_out_videos(videos, tmp_path):
    run = make_run(videos, tmp_path / "run")
    with pytest.raises(TrainingError, match="validate_every needs videos that are held out"):
        train.train(replace(run, held_out=None), lambda at: None)


def test_run_starts_from_half_precision_weights(bundle, tmp_path):
    halves = {name: value.half() for name, value in load_file(bundle.folder / "weights.safetensors").items()}
    save_file(halves, tmp_path / "weights.safetensors")
    network = Network(bundle.manifest)
    start_network(network, tmp_path)
    for name, value in network.state_dict().items():
        assert value.dtype != torch.float16
        assert torch.equal(value, halves[name].to(value.dtype)), name


def test_tuned_manifest_records_its_origin(bundle):
    recipe = load_recipe("fine-tune", [f"start={bundle.folder}"])
    assert recipe.input == bundle.manifest.input
    assert recipe.architecture == bundle.manifest.architecture
    trained_on = Training(data="people", synthetic=True, notes="a demonstration")
    scores = {"calibration": Calibration(scores=(0, 1), probabilities=(0, 0.5)), "thresholds": Thresholds(default=0.3)}
    before = bundle.manifest.model_copy(update={"trained_on": trained_on, **scores})
    tuned = tuned_manifest(Bundle(bundle.folder, before), recipe, "40 videos")
    assert tuned.name == f"{before.name}-tuned"
    assert not tuned.trained_on.synthetic
    assert "synthetic people (a demonstration)" in tuned.trained_on.notes
    assert all(part in tuned.trained_on.data for part in ("40 videos", before.name, bundle.weights_sha256))
    assert (tuned.calibration, tuned.thresholds) == (before.calibration, before.thresholds)
    assert tuned.metrics is None


def test_calibration_needs_enough_actions(bundle):
    trained_on = Training(data="people", synthetic=True)
    old_calibration = Calibration(scores=(0, 1), probabilities=(0, 0.5))
    before = bundle.manifest.model_copy(
        update={"trained_on": trained_on, "calibration": old_calibration, "thresholds": Thresholds(default=0.3)}
    )

    def validation(per_video: int) -> ValidationResult:
        videos = tuple("abcd")
        truth = Instances(videos, np.full(4, 99.0), np.repeat(np.arange(4), per_video), np.arange(8.0 * per_video).reshape(-1, 2),
                          np.zeros(4 * per_video, int), np.ones(4 * per_video))  # fmt: skip
        level = evaluate(truth, truth, 52)
        fitted = Calibration(scores=(0, 1), probabilities=(0, 0.9))
        return ValidationResult(truth, truth, level, level, Thresholds(default=0.7), fitted, (0.2, 0.1))

    few, enough = validation(14), validation(15)
    assert choose_calibration(enough, before).measured is enough
    chosen = choose_calibration(few, before)
    assert (chosen.measured.calibration, chosen.measured.thresholds) == (old_calibration, before.thresholds)
    assert chosen.measured.calibration_error == (0.2, pytest.approx(0.5))  # predicted 0.5, always correct
    assert "those of demo" in chosen.explanation
    assert choose_calibration(few, before.model_copy(update={"trained_on": None})).measured is few


def test_videos_are_cropped_to_person_as_in_detection(bundle, tmp_path, monkeypatch):
    """With a locator that finds a person in the right half, only that half is left."""
    source = tmp_path / "wide.mp4"
    pattern(source, size="256x128", seconds=2, rate="10")
    config = LocatorConfig(size=64, threshold=0.4, margin=1.0)
    located = Bundle(bundle.folder, bundle.manifest.model_copy(update={"locator": config}))

    class RightHalfLocator:
        def find(self, frames):
            rows, columns = frames.shape[1:3]
            return [np.array([[columns / 2, 0, columns, rows]], np.float32)] * len(frames)

    class NoPersonLocator:
        def find(self, frames):
            return [np.zeros((0, 4), np.float32)] * len(frames)

    monkeypatch.setattr(framed, "load_locator", lambda _bundle: RightHalfLocator())
    recipe = load_recipe("fine-tune", [f"start={bundle.folder}", "input.height=64", "input.width=64", "data.margin=1"])
    wide = replace(make_sample("wide", 1), path=source)
    (cut,) = framed.crop_to_person([wide], located, recipe, tmp_path / "frames", lambda done, count: None)
    frames = read_frames(cut, recipe.input, 1.0)
    with source.open("rb") as file:
        expected = list(Video(file).frames(recipe.input.fps, 64, 64, Region(0.5, 0, 0.5, 1)))
    assert np.array_equal(frames, np.stack(expected))
    assert (cut.name, cut.labels.tolist()) == ("wide", [1])
    monkeypatch.setattr(framed, "load_locator", lambda _bundle: NoPersonLocator())
    (whole,) = framed.crop_to_person([wide], located, recipe, tmp_path / "others", lambda done, count: None)
    assert not np.array_equal(read_frames(whole, recipe.input, 1.0), frames)
    monkeypatch.undo()
    plain = Bundle(bundle.folder, bundle.manifest.model_copy(update={"locator": None}))
    assert framed.crop_to_person([wide], plain, recipe, tmp_path, lambda done, count: None) == [wide]


def test_locator_of_start_bundle_is_used_if_framed(tmp_path):
    (tmp_path / "locator.onnx").touch()
    assert find_locator({"framing": "none", "start": str(tmp_path)}) is None
    assert find_locator({"framing": "person", "start": str(tmp_path)}) == tmp_path / "locator.onnx"
    assert find_locator({"framing": "person", "start": None}) == find_locator({"framing": "person"}) == LOCATOR_FILE
    assert find_locator({}) is None


def fine_tune_arguments(bundle: Bundle, videos: Path, annotations: Path) -> list[str]:
    options = {"--bundle": bundle.folder, "--videos": videos, "--annotations": annotations}
    return ["fine-tune", *(str(part) for option in options.items() for part in option)]


@pytest.mark.usefixtures("without_graphs")
def test_fine_tune_command_makes_bundle_that_detects(bundle, videos, tmp_path):
    eafs = write_eafs(tmp_path / "eaf")
    out = tmp_path / "run"
    settings = ("stages.0.batch=1", "stages.0.validate_every=2", "data.workers=0", "stages.0.warmup=1")
    arguments = fine_tune_arguments(bundle, videos, eafs)
    arguments += ["--out", str(out), "--held-out", "0.34", "--steps", "3", "--patience", "2"]
    for setting in settings:
        arguments += ["--set", setting]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    tuned_bundle = Bundle.load(out / "bundle")
    assert tuned_bundle.manifest.trained_on.data.startswith("4 videos with")
    assert bundle.weights_sha256 in tuned_bundle.manifest.trained_on.data
    assert tuned_bundle.weights_sha256 != bundle.weights_sha256
    detector = Detector(tuned_bundle, load_engine(tuned_bundle, "torch"))
    with (videos / "synth000000.mp4").open("rb") as file:
        proposals = detector.detect(file).proposals
    assert len(proposals)
    assert all(math.isfinite(score) for score in proposals.scores)
    assert "held out: synth" in result.output


def test_fine_tune_command_reports_annotation_error(bundle, videos, tmp_path):
    table = write_table(tmp_path / "segments.csv", ["synth000000,0.1,0.5,noding", "synth000001,,,"])
    arguments = fine_tune_arguments(bundle, videos, table)
    result = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "run")])
    assert result.exit_code == 1
    assert "segments.csv: line 2: the action 'noding'" in result.output
    assert not (tmp_path / "run").exists()


def test_the_command_begins_with_the_bundle_of_the_settings(videos, tmp_path, monkeypatch):
    monkeypatch.setenv("MMAD_BUNDLE", str(tmp_path / "missing"))
    marks = write_table(tmp_path / "marks.csv", ["synth000000,0.1,0.5,noding"])
    arguments = ["fine-tune", "--videos", str(videos), "--annotations", str(marks), "--out", str(tmp_path / "run")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1
    assert f"no bundle at {tmp_path / 'missing'}" in result.output
