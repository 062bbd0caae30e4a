"""Fine-tuning: users' annotations, which videos are held out, early stopping, and the bundle that comes of it."""

import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pympi.Elan import Eaf
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from mmad.cli import app
from model.bundle import Bundle, Calibration, LocatorConfig, Thresholds, Training
from model.detector import Detector
from model.engines import load_engine
from model.network import Network
from model.transforms import Region
from model.video import Video
from tests.clips import pattern
from training import framed, train
from training.annotated import AnnotationError, make_dataset, read_annotated
from training.dataset import Sample, read_frames
from training.evaluation import early_stopping
from training.evaluation.metrics import evaluate
from training.evaluation.validation import ValidationResult, choose_calibration
from training.instances import Instances
from training.people.film import Recipe as People
from training.people.options import Mix, Storage
from training.people.studio import DatasetSpec, produce
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
from training.tables import standard_labels

TAXONOMY = standard_labels()
CODES = [action.code for action in TAXONOMY.actions]
FPS = 10
MARKS = {  # seconds that are frames
    "synth000000": [(0.5, 1.5, 9), (1.0, 2.0, 43)],
    "synth000001": [(0.2, 1.0, 9)],
    "synth000002": [(0.3, 1.8, 26)],
    "synth000003": [(0.0, 1.2, 43), (1.2, 2.4, 26)],
    "synth000004": [(0.4, 1.1, 9), (0.4, 1.1, 26)],
    "synth000005": [],
}


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("people")
    people = People(seed=3, fps=float(FPS), height=48, width=48, mix=Mix.BALANCED)
    produce(DatasetSpec(people, folder, Storage.MP4, len(MARKS)), 1, lambda done, count: None)
    return folder / "videos"


def write_eaf(path: Path, marks, media: str | None = None, origin_ms: int | None = None, tier: str = "x") -> None:
    """Marks are start, end and label."""
    eaf = Eaf()
    eaf.remove_tier("default")
    eaf.add_tier(tier)
    if media is not None:
        eaf.add_linked_file(media, mimetype="video/mp4", time_origin=origin_ms, relpath=f"./{Path(media).name}")
    for start_s, end_s, label in marks:
        eaf.add_annotation(tier, round(start_s * 1000), round(end_s * 1000), label)
    eaf.to_file(str(path))


def write_eafs(folder: Path) -> Path:
    folder.mkdir()
    for name, marks in MARKS.items():
        write_eaf(folder / f"{name}.eaf", [(start, end, CODES[label]) for start, end, label in marks])
    return folder


def write_table(path: Path, lines: list[str]) -> Path:
    path.write_text("\n".join(["video,start_s,end_s,action", *lines]) + "\n")
    return path


# -- annotations


def test_elan_files_and_both_tables_say_the_same(videos, tmp_path):
    elan = read_annotated(videos, [write_eafs(tmp_path / "eaf")], TAXONOMY)
    names = [
        f"{name}{'.mp4' * (name[-1] == '1')}, {start}, {end}, {TAXONOMY.actions[label].name.upper()}"
        for name, marks in MARKS.items()
        for start, end, label in marks
    ]
    plain = read_annotated(videos, 2 * [write_table(tmp_path / "plain.csv", [*names, "synth000005,,,"])], TAXONOMY)
    with (tmp_path / "frames.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("id", "video_id", "start_frame", "end_frame", "class", "total_frames", "fps"))
        for item in elan:
            for start_s, end_s, label in MARKS[item.name]:
                frames = (round(start_s * FPS), round(end_s * FPS), label, round(item.duration_s * FPS), FPS)
                writer.writerow((0, item.name, *frames))
    (tmp_path / "none.csv").write_text("video , start_s,end_s ,action\nsynth000005,,,\n")
    layout = read_annotated(videos, [tmp_path / "frames.csv", tmp_path / "none.csv"], TAXONOMY)
    assert [item.name for item in elan] == list(MARKS)
    for first, *others in zip(elan, plain, layout, strict=True):
        assert [(*span, label) for span, label in zip(first.segments.tolist(), first.labels.tolist(), strict=True)] \
            == sorted(MARKS[first.name])  # fmt: skip
        for other in others:
            np.testing.assert_allclose(other.segments, first.segments, atol=1e-9)
            assert other.labels.tolist() == first.labels.tolist()
            assert (other.name, other.path, other.duration_s) == (first.name, first.path, first.duration_s)


def test_elan_files_find_their_video_by_the_linked_media_and_its_shift(videos, tmp_path):
    write_eaf(tmp_path / "monday.eaf", [(0.1, 0.6, "nodding")], r"file:///C:/films%20of%20may/synth000002.mp4", 500)
    (item,) = read_annotated(videos, [tmp_path / "monday.eaf"], TAXONOMY)
    assert item.name == "synth000002"
    np.testing.assert_allclose(item.segments, [[0.6, 1.1]])


def test_tiers_are_chosen_and_name_what_has_no_value(videos, tmp_path):
    path = tmp_path / "synth000000.eaf"
    eaf = Eaf()
    for tier, value in (("B1", ""), ("speech", "well, you know")):
        eaf.add_tier(tier)
        eaf.add_annotation(tier, 100, 900, value)
    eaf.to_file(str(path))
    (item,) = read_annotated(videos, [path], TAXONOMY, ["B1"])
    assert item.labels.tolist() == [CODES.index("B1")]
    with pytest.raises(AnnotationError, match=r"tier 'speech', annotation a\d: the action 'well, you know'"):
        read_annotated(videos, [path], TAXONOMY)
    with pytest.raises(AnnotationError, match=r"no tier 'hands'; its tiers are 'default', 'B1', 'speech'"):
        read_annotated(videos, [path], TAXONOMY, ["hands"])


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("synth000000,0.1,0.5,noding", r"a\.csv: line 2: the action 'noding' is not known.*`mmad labels`.*nodding\?"),
        ("elsewhere,0.1,0.5,B1", r"a\.csv: line 2: there is no video 'elsewhere' in .*videos"),
        ("synth000000.avi,0.1,0.5,B1", r"a\.csv: line 2: there is no video 'synth000000\.avi'"),
        ("synth000000,0.1,99,B1", r"a\.csv: line 2: the end 99 s is beyond the video's end, \d"),
        ("synth000000,98,99,B1", r"a\.csv: line 2: the start 98 s is beyond the video's end, \d"),
        ("synth000000,0.5,0.5,B1", r"a\.csv: line 2: the end 0\.5 s is not after the start 0\.5 s"),
        ("synth000000,-1,0.5,B1", r"a\.csv: line 2: the start -1 s is negative"),
        ("synth000000,0:01,0.5,B1", r"a\.csv: line 2: '0:01' is no number of seconds"),
        ("synth000000,0.1,0.5,", r"a\.csv: line 2: the action '' is not known"),
    ],
)
def test_rows_that_make_no_sense_are_named(line, words, videos, tmp_path):
    with pytest.raises(AnnotationError, match=words):
        read_annotated(videos, [write_table(tmp_path / "a.csv", [line])], TAXONOMY)


@pytest.mark.parametrize(
    ("marks", "words"),
    [
        ([(0.1, 0.5, "B99")], r"synth000000\.eaf: tier 'x', annotation a\d: the action 'B99' is not known"),
        ([(0.1, 99, "B1")], r"synth000000\.eaf: tier 'x', annotation a\d: the end 99 s is beyond the video's end"),
    ],
)
def test_elan_annotations_that_make_no_sense_are_named(marks, words, videos, tmp_path):
    write_eaf(tmp_path / "synth000000.eaf", marks)
    with pytest.raises(AnnotationError, match=words):
        read_annotated(videos, [tmp_path], TAXONOMY)


def test_files_that_do_not_fit_are_told(videos, tmp_path):
    def refused(match: str, *paths: Path, folder: Path = videos) -> None:
        with pytest.raises(AnnotationError, match=match):
            read_annotated(folder, list(paths), TAXONOMY)

    refused("holds no .eaf, .csv or .tsv file", tmp_path)
    refused("there is no .*nowhere", tmp_path / "nowhere")
    write_eaf(tmp_path / "other.eaf", [], "film.mp4")
    refused(r"other\.eaf: there is no video called 'other' or 'film'", tmp_path / "other.eaf")
    (tmp_path / "synth000001.eaf").write_text("<ANNOTATION_DOCUMENT")
    refused(r"synth000001\.eaf is no .eaf file of ELAN", tmp_path / "synth000001.eaf")
    (tmp_path / "b.csv").write_text("file;begin\n")
    refused(r"b\.csv has no column video, start_s.*it names file,begin", tmp_path / "b.csv")
    (tmp_path / "a.txt").touch()
    refused(
        r"annotations are \.eaf, \.csv, \.tsv, \.json files, not '\.txt': export them as one of these",
        tmp_path / "a.txt",
    )
    write_eaf(tmp_path / "synth000000.eaf", [])
    both = write_table(tmp_path / "c.csv", ["synth000000,0.1,0.5,B1"])
    refused(r"'synth000000' is annotated in .*synth000000\.eaf too", tmp_path / "synth000000.eaf", both)
    refused("holds no video", both, folder=tmp_path)
    (tmp_path / "broken.mp4").write_text("no video")
    refused(r"broken\.mp4: cannot be read", write_table(tmp_path / "d.csv", ["broken,,,"]), folder=tmp_path)
    (tmp_path / "deeper").mkdir()
    (tmp_path / "deeper" / "broken.mov").write_text("no video")
    refused("have one name", both, folder=tmp_path)
    frames = (
        "video_id,start_frame,end_frame,class,total_frames,fps\nsynth000000,5,2,9,30,10\nsynth000000,5,9,77,30,10\n"
    )
    (tmp_path / "e.csv").write_text(frames)
    refused(r"e\.csv: line 2: the end 0\.2 s is not after(.|\n)*line 3: the class '77' is not", tmp_path / "e.csv")


# -- what is held out


def item(name: str, *labels: int) -> Sample:
    spans = np.array([[0.0, 1.0]] * len(labels)).reshape(-1, 2)
    return Sample(name=name, path=Path(f"{name}.mp4"), sidecar=None, duration_s=2.0, segments=spans, labels=np.array(labels, int))  # fmt: skip


def test_actions_of_two_videos_are_on_both_sides():
    rng = np.random.default_rng(0)
    items = [item(f"v{place}", *rng.integers(0, 8, rng.integers(0, 3))) for place in range(60)]
    items += [item("only", 50), item("pair", 51), item("other", 51)]
    training, held = split(items, 0.2, 7)
    assert len(held) == round(0.2 * 63)
    assert sorted(one.name for one in [*training, *held]) == sorted(one.name for one in items)
    seen, kept = ({label for one in part for label in one.labels.tolist()} for part in (held, training))
    assert {*range(8), 51} <= seen
    assert {*range(8), 50, 51} <= kept
    assert any(not len(one.labels) for one in held)
    assert [one.name for one in split(items, 0.2, 7)[1]] == [one.name for one in held]
    assert any([one.name for one in split(items, 0.2, seed)[1]] != [one.name for one in held] for seed in range(5))


def test_a_list_says_what_is_held_out(tmp_path):
    items = [item("a", 1), item("b", 2), item("c")]
    listed = tmp_path / "held.txt"
    listed.write_text("b.mp4\n\nc\n")
    assert [[one.name for one in part] for part in split_by_list(items, listed)] == [["a"], ["b", "c"]]
    listed.write_text("b\nd\n")
    with pytest.raises(SplitError, match=r"held\.txt: line 2: 'd' is no annotated video"):
        split_by_list(items, listed)
    listed.write_text("a\nb\nc\n")
    with pytest.raises(SplitError, match="holds out 3 of 3"):
        split_by_list(items, listed)
    with pytest.raises(SplitError, match="1 annotated video: at least two"):
        split(items[:1], 0.2, 0)


# -- early stopping


def make_run(videos: Path, out: Path, *overrides: str) -> Run:
    """The smoke recipe's detection alone, at a rate at which it soon gets worse."""
    settings = ("stages.0.objective=detection", "stages.0.keypoints=0", "stages.0.steps=1", "stages.1.steps=30", "stages.1.warmup=0",
                "stages.1.head_rate=0.03", "stages.1.final=1", "stages.1.validate_every=2", "stages.1.patience=3", "ema=0.3")  # fmt: skip
    recipe = load_recipe("smoke", [*settings, *overrides])
    marks = out.parent / f"{out.name}.csv"
    rows = [f"{name},{start},{end},{label}" for name, marks in MARKS.items() for start, end, label in marks]
    items = read_annotated(videos, [write_table(marks, rows)], TAXONOMY)
    parts = [make_dataset(part, 52, 0.5) for part in (items[:3], items[3:])]
    return Run(recipe, make_manifest(recipe, TAXONOMY, "people"), parts[0], out, 0, held_out=parts[1])


def history(out: Path) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (out / HISTORY).read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def held_out_losses(out: Path) -> dict[int, float]:
    rows = history(out)
    return {0: rows[1]["held_out_before"]} | {row["step"]: row["held_out"] for row in rows if "held_out" in row}


def test_training_stops_and_keeps_the_best(videos, tmp_path):
    run = make_run(videos, tmp_path / "run")
    seen = []
    network = train.train(run, seen.append)
    losses = held_out_losses(run.out)
    best = min(losses, key=losses.__getitem__)
    assert max(losses) == best + 3 * 2 < 30
    assert losses[max(losses)] > losses[best] + 0.05
    held_out = early_stopping.ValidationLoss(run.manifest, run.held_out, run.recipe, torch.device("cpu"))
    assert held_out.loss(network.state_dict()) == pytest.approx(losses[best], rel=1e-6)
    assert (seen[-1].best.step, seen[-1].best.loss) == (best, losses[best])
    assert seen[-1].best.missed == 3


def test_nothing_better_leaves_what_it_began_with(videos, tmp_path):
    torch.manual_seed(4)
    run = make_run(videos, tmp_path / "run", "stages.0.validate_every=1", "stages.0.head_rate=1e-9", "stages.0.adapter_rate=1e-9",
                   "stages.0.backbone_rate=1e-9", "stages.1.head_rate=30", "stages.1.validate_every=1")  # fmt: skip
    network = train.train(run, lambda at: None)
    torch.manual_seed(run.recipe.seed)
    before = Network(run.manifest).state_dict()
    assert max(row["step"] for row in history(run.out)) == 3
    for name, value in network.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=1e-6)


def test_a_stopped_run_goes_on_to_the_same_best(videos, tmp_path):
    whole = train.train(make_run(videos, tmp_path / "whole", "save_minutes=1e-9"), lambda at: None)
    reached = max(held_out_losses(tmp_path / "whole"))

    class KilledError(Exception):
        pass

    run = make_run(videos, tmp_path / "cut", "save_minutes=1e-9")
    for last in (3, reached - 3, reached):  # before and after the best was found, and where training would stop

        def watch(at: train.Progress, last: int = last) -> None:
            if at.stage == 1 and at.step == last:
                raise KilledError

        with pytest.raises(KilledError):
            train.train(run, watch, resume=last > 3)
    again = train.train(run, lambda at: None, resume=True)
    assert history(tmp_path / "cut") == history(tmp_path / "whole")
    for name, value in again.state_dict().items():
        assert torch.equal(value, whole.state_dict()[name]), name


def test_checkpoints_from_before_early_stopping_go_on(videos, tmp_path):
    off = ("stages.1.validate_every=0", "stages.1.patience=0", "stages.1.steps=2")
    run = make_run(videos, tmp_path / "run", *off)
    train.train(run, lambda at: None)
    state = torch.load(run.out / CHECKPOINT, weights_only=True)
    del state["best"]
    torch.save(state, run.out / CHECKPOINT)
    lines = (run.out / RECIPE).read_text().splitlines()
    new = ("start:", "validate_every:", "patience:")
    (run.out / RECIPE).write_text("\n".join(line for line in lines if not line.strip().startswith(new)))
    before = history(run.out)
    kept = train.train(run, lambda at: None, resume=True).state_dict()
    assert history(run.out) == before  # there was nothing left to do
    assert all(torch.equal(value, kept[name]) for name, value in state["kept"].items())


def test_the_loss_of_held_out_videos_is_of_all_windows(videos, tmp_path):
    """Windows shorter than the video see each action whole somewhere; the loss is the mean over all points."""
    run = make_run(videos, tmp_path / "run")
    network = Network(run.manifest)
    one, two = (replace(run.held_out, samples=run.held_out.samples[place : place + 1]) for place in (0, 1))
    values = [early_stopping.ValidationLoss(run.manifest, dataset, run.recipe, torch.device("cpu")).loss(network.state_dict())
              for dataset in (one, two, run.held_out)]  # fmt: skip
    assert min(values[:2]) < values[2] < max(values[:2])
    segments = np.array([[0.0, 10.0], [95.0, 105.0], [180.0, 400.0], [99.0, 130.0]])
    cut, kept = early_stopping._clip_to_window(segments, 96, 192)
    assert kept.tolist() == [False, True, False, True]
    np.testing.assert_allclose(cut, [[0.0, 9.0], [3.0, 34.0]])


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("stages.0.validate_every=5", "goes with the objective detection"),
        ("stages.1.patience=2", "patience counts measurements"),
        ("start=nowhere", "start: no bundle at nowhere"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(override, words):
    with pytest.raises(RecipeError, match=words):
        load_recipe("smoke", [override])


def test_measuring_needs_videos(videos, tmp_path):
    run = make_run(videos, tmp_path / "run")
    with pytest.raises(TrainingError, match="validate_every needs videos that are held out"):
        train.train(replace(run, held_out=None), lambda at: None)


# -- the bundle


def test_weights_in_half_precision_begin_a_run_as_they_are(bundle, tmp_path):
    halves = {name: value.half() for name, value in load_file(bundle.folder / "weights.safetensors").items()}
    save_file(halves, tmp_path / "weights.safetensors")
    network = Network(bundle.manifest)
    start_network(network, tmp_path)
    for name, value in network.state_dict().items():
        assert value.dtype != torch.float16
        assert torch.equal(value, halves[name].to(value.dtype)), name


def test_the_manifest_says_where_it_comes_from(bundle):
    recipe = load_recipe("fine-tune", [f"start={bundle.folder}"])
    assert recipe.input == bundle.manifest.input
    assert recipe.architecture == bundle.manifest.architecture
    past = Training(data="people", synthetic=True, notes="a demonstration")
    scores = {"calibration": Calibration(scores=(0, 1), probabilities=(0, 0.5)), "thresholds": Thresholds(default=0.3)}
    before = bundle.manifest.model_copy(update={"trained_on": past, **scores})
    tuned = tuned_manifest(Bundle(bundle.folder, before), recipe, "40 videos")
    assert tuned.name == f"{before.name}-tuned"
    assert not tuned.trained_on.synthetic
    assert "synthetic people (a demonstration)" in tuned.trained_on.notes
    assert all(part in tuned.trained_on.data for part in ("40 videos", before.name, bundle.weights_sha256))
    assert (tuned.calibration, tuned.thresholds) == (before.calibration, before.thresholds)
    assert tuned.metrics is None


def test_scores_are_settled_by_enough_actions_or_stay(bundle):
    past = Training(data="people", synthetic=True)
    kept = Calibration(scores=(0, 1), probabilities=(0, 0.5))
    before = bundle.manifest.model_copy(
        update={"trained_on": past, "calibration": kept, "thresholds": Thresholds(default=0.3)}
    )

    def measured(each: int) -> ValidationResult:
        videos = tuple("abcd")
        truth = Instances(videos, np.full(4, 99.0), np.repeat(np.arange(4), each), np.arange(8.0 * each).reshape(-1, 2),
                          np.zeros(4 * each, int), np.ones(4 * each))  # fmt: skip
        level = evaluate(truth, truth, 52)
        fitted = Calibration(scores=(0, 1), probabilities=(0, 0.9))
        return ValidationResult(truth, truth, level, level, Thresholds(default=0.7), fitted, (0.2, 0.1))

    few, enough = measured(14), measured(15)
    assert choose_calibration(enough, before).measured is enough
    settled = choose_calibration(few, before)
    assert (settled.measured.calibration, settled.measured.thresholds) == (kept, before.thresholds)
    assert settled.measured.calibration_error == (0.2, pytest.approx(0.5))  # shown 0.5, always right
    assert "those of demo" in settled.explanation
    assert choose_calibration(few, before.model_copy(update={"trained_on": None})).measured is few


def test_videos_are_cut_around_the_person_as_the_bundle_does(bundle, tmp_path, monkeypatch):
    """A locator that sees somebody in the right half: only that half is left."""
    source = tmp_path / "wide.mp4"
    pattern(source, size="256x128", seconds=2, rate="10")
    config = LocatorConfig(size=64, threshold=0.4, margin=1.0)
    located = Bundle(bundle.folder, bundle.manifest.model_copy(update={"locator": config}))

    class Right:
        def find(self, frames):
            rows, columns = frames.shape[1:3]
            return [np.array([[columns / 2, 0, columns, rows]], np.float32)] * len(frames)

    monkeypatch.setattr(framed, "load_locator", lambda _bundle: Right())
    recipe = load_recipe("fine-tune", [f"start={bundle.folder}", "input.height=64", "input.width=64", "data.margin=1"])
    wide = replace(item("wide", 1), path=source)
    (cut,) = framed.crop_to_person([wide], located, recipe, tmp_path / "frames", lambda done, count: None)
    frames = read_frames(cut, recipe.input, 1.0)
    with source.open("rb") as file:
        expected = list(Video(file).frames(recipe.input.fps, 64, 64, Region(0.5, 0, 0.5, 1)))
    assert np.array_equal(frames, np.stack(expected))
    assert (cut.name, cut.labels.tolist()) == ("wide", [1])
    nobody = type("Nobody", (), {"find": lambda self, frames: [np.zeros((0, 4), np.float32)] * len(frames)})
    monkeypatch.setattr(framed, "load_locator", lambda _bundle: nobody())
    (whole,) = framed.crop_to_person([wide], located, recipe, tmp_path / "others", lambda done, count: None)
    assert not np.array_equal(read_frames(whole, recipe.input, 1.0), frames)
    monkeypatch.undo()
    plain = Bundle(bundle.folder, bundle.manifest.model_copy(update={"locator": None}))
    assert framed.crop_to_person([wide], plain, recipe, tmp_path, lambda done, count: None) == [wide]


def test_the_locator_of_the_first_bundle_comes_along(tmp_path):
    (tmp_path / "locator.onnx").touch()
    assert find_locator({"framing": "none", "start": str(tmp_path)}) is None
    assert find_locator({"framing": "person", "start": str(tmp_path)}) == tmp_path / "locator.onnx"
    assert find_locator({"framing": "person", "start": None}) == find_locator({"framing": "person"}) == LOCATOR_FILE
    assert find_locator({}) is None


def command(bundle: Bundle, videos: Path, annotations: Path) -> list[str]:
    given = {"--bundle": bundle.folder, "--videos": videos, "--annotations": annotations}
    return ["fine-tune", *(str(part) for option in given.items() for part in option)]


@pytest.mark.usefixtures("without_graphs")
def test_the_command_makes_a_bundle_that_detects(bundle, videos, tmp_path):
    eafs = write_eafs(tmp_path / "eaf")
    out = tmp_path / "run"
    small = ("stages.0.batch=1", "stages.0.validate_every=2", "data.workers=0", "stages.0.warmup=1")
    arguments = command(bundle, videos, eafs)
    arguments += ["--out", str(out), "--held-out", "0.34", "--steps", "3", "--patience", "2"]
    for setting in small:
        arguments += ["--set", setting]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    tuned = Bundle.load(out / "bundle")
    assert tuned.manifest.trained_on.data.startswith("4 videos with")
    assert bundle.weights_sha256 in tuned.manifest.trained_on.data
    assert tuned.weights_sha256 != bundle.weights_sha256
    detector = Detector(tuned, load_engine(tuned, "torch"))
    with (videos / "synth000000.mp4").open("rb") as file:
        found = detector.detect(file)
    assert len(found.proposals)
    assert all(math.isfinite(score) for score in found.proposals.scores)
    assert "held out: synth" in result.output


def test_the_command_fails_with_a_sentence(bundle, videos, tmp_path):
    marks = write_table(tmp_path / "marks.csv", ["synth000000,0.1,0.5,noding", "synth000001,,,"])
    arguments = command(bundle, videos, marks)
    result = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "run")])
    assert result.exit_code == 1
    assert "marks.csv: line 2: the action 'noding'" in result.output
    assert not (tmp_path / "run").exists()


def test_the_command_begins_with_the_bundle_of_the_settings(videos, tmp_path, monkeypatch):
    monkeypatch.setenv("MMAD_BUNDLE", str(tmp_path / "missing"))
    marks = write_table(tmp_path / "marks.csv", ["synth000000,0.1,0.5,noding"])
    arguments = ["fine-tune", "--videos", str(videos), "--annotations", str(marks), "--out", str(tmp_path / "run")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1
    assert f"no bundle at {tmp_path / 'missing'}" in result.output
