"""Keypoints computed once and stored as a data set, for training recipes and fine-tuning."""

import csv
import json
import os
import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from mmad.cli import app
from model.bundle import Bundle
from model.network import Network
from tests.pose_runs import SETTINGS, TAXONOMY, make_people, make_run
from tests.smoke_runs import PLAIN
from training import keypoint_cache as module
from training.dataset import DatasetError, VideoDataset, load_dataset, read_frames, read_keypoints
from training.evaluation.early_stopping import ValidationLoss
from training.evaluation.validation import evaluate_network
from training.keypoint_cache import compute_fingerprint, has_fixed_keypoints, to_keypoint_recipe, write_keypoints
from training.keypoint_cache import main as run_keypoint_cache
from training.keypoints import Finder
from training.people.options import Storage
from training.recipe import load_recipe
from training.run import HISTORY, RECIPE, Examples, make_manifest, start_network


def make_plain_recipe():
    return load_recipe("demo", SETTINGS).model_copy(update={"augment": PLAIN})


def test_stored_keypoints_match_the_finder_and_can_be_trained_on(people, pose_bundle, tmp_path):
    finder, out = Finder(pose_bundle), tmp_path / "keypoints"
    dataset = load_dataset([people], TAXONOMY, "train", 0)
    recipe = make_plain_recipe()
    write_keypoints(finder, dataset, recipe, out, copies=1)
    stored = load_dataset([out], TAXONOMY, "train", 0)
    assert [item.name for item in stored.samples] == [f"{item.name}-0" for item in dataset.samples]
    for copy, original in zip(stored.samples, dataset.samples, strict=True):
        frames = np.array(read_frames(original, recipe.input, 1.0))
        keypoints = read_keypoints(copy, 5.0, len(frames))
        np.testing.assert_allclose(keypoints.places, finder.find(frames), atol=1e-5)
        assert keypoints.names == read_keypoints(original, 5.0, 1).names
        segments = original.segments.clip(0, (len(frames) - 1) / 5.0)
        long = np.ptp(segments, axis=1) >= 2 / 5.0  # shorter ones are dropped
        assert copy.labels.tolist() == original.labels[long].tolist()
        np.testing.assert_allclose(copy.segments, segments[long], atol=1e-3)
    run = make_run(out, tmp_path / "run")  # has sidecars only
    assert Examples(run, 1)[0].keypoints.shape[1:] == (25, 3)


def test_copies_differ_and_are_computed_once(people, pose_bundle, tmp_path, monkeypatch, capsys):
    out = tmp_path / "keypoints"
    paths = {"--bundle": pose_bundle, "--data": people, "--out": out}
    options = [str(part) for option in paths.items() for part in option]
    arguments = ["keypoint_cache", *options, "--looks", "2"]
    monkeypatch.setattr(sys, "argv", arguments)
    run_keypoint_cache()
    samples = load_dataset([out], TAXONOMY, "train", 0).samples
    assert f"{len(samples)} copies of {len(samples) // 2} videos" in capsys.readouterr().out
    first_copy, second_copy = (read_keypoints(item, 5.0, 10).places for item in samples[:2])
    assert np.abs(first_copy - second_copy).max() > 0.001
    before = {path: path.stat().st_mtime_ns for path in (out / "sidecars").iterdir()}
    arguments[-1] = "3"
    run_keypoint_cache()
    after = {path: path.stat().st_mtime_ns for path in (out / "sidecars").iterdir()}
    assert len(after) == len(before) * 3 // 2
    assert before.items() <= after.items()
    monkeypatch.setattr(sys, "argv", [*arguments, "--seed", "1"])
    with pytest.raises(DatasetError, match="holds copies of another bundle, recipe or data: take another --out"):
        run_keypoint_cache()
    monkeypatch.setattr(sys, "argv", [*arguments[:-1], "0"])
    with pytest.raises(SystemExit):
        run_keypoint_cache()
    assert "--looks 0: at least 1" in capsys.readouterr().err


def test_videos_without_sidecars_get_the_keypoint_names_of_rendered_people(people, pose_bundle, tmp_path, monkeypatch):
    dataset = load_dataset([people], TAXONOMY, "train", 0)
    names = read_keypoints(dataset.samples[0], 5.0, 1).names
    without_sidecars = VideoDataset(tuple(replace(item, sidecar=None) for item in dataset.samples), dataset.weights)
    finder = Finder(pose_bundle)
    write_keypoints(finder, without_sidecars, make_plain_recipe(), tmp_path / "keypoints", copies=1)
    stored = load_dataset([tmp_path / "keypoints"], TAXONOMY, "train", 0)
    assert read_keypoints(stored.samples[0], 5.0, 1).names == names
    monkeypatch.setattr(finder, "find", lambda frames: np.zeros((len(frames), 17, 3)))
    with pytest.raises(DatasetError, match="17 keypoints are found, and names of 25 are known: take a bundle"):
        write_keypoints(finder, without_sidecars, make_plain_recipe(), tmp_path / "others", copies=1)


def test_stored_keypoints_give_the_loss_and_scores_of_their_frames(people, pose_bundle, tmp_path):
    finder, recipe = Finder(pose_bundle), make_plain_recipe()
    dataset = load_dataset([people], TAXONOMY, "train", 0)
    dataset = VideoDataset(dataset.samples[:6], dataset.weights[:6])
    write_keypoints(finder, dataset, recipe, tmp_path, copies=0)
    stored = load_dataset([tmp_path], TAXONOMY, "val", 0)
    assert [item.name for item in stored.samples] == [item.name for item in dataset.samples]
    weights = finder.network.state_dict()
    for frames in (256, 32):  # videos shorter than a window, and videos of several windows
        windows = recipe.input.model_copy(update={"window_frames": frames, "overlap_frames": frames // 2})
        short_recipe = to_keypoint_recipe(recipe.model_copy(update={"input": windows}))
        manifest = make_manifest(short_recipe, TAXONOMY, "people")
        network = Network(manifest)
        network.load_state_dict(weights)
        losses = [
            ValidationLoss(manifest, videos, short_recipe, torch.device("cpu")).loss(weights)
            for videos in (dataset, stored)
        ]
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)
        scores = [
            evaluate_network(
                network, manifest, videos, short_recipe, "cpu", lambda done, count: None, source
            ).predictions.scores
            for videos, source in ((dataset, "pictures"), (stored, "keypoints"))
        ]
        assert np.median(np.abs(scores[0] - scores[1])) < 1e-5  # equal scores may be sorted differently


def test_augmentation_is_the_same_in_all_parts_of_a_long_video(people, pose_bundle, tmp_path, monkeypatch):
    dataset = load_dataset([people], TAXONOMY, "train", 0)
    without_sidecars = VideoDataset(
        tuple(replace(item, sidecar=None) for item in dataset.samples[:3]), dataset.weights[:3]
    )
    recipe = load_recipe("demo", SETTINGS)
    monkeypatch.setattr("training.augment._NOISE", 0)  # noise differs in every frame
    finder, samples = Finder(pose_bundle), []
    for out, frames in ((tmp_path / "whole", 1000), (tmp_path / "parts", 7)):
        monkeypatch.setattr(module, "_PART", frames)
        write_keypoints(finder, without_sidecars, recipe, out, copies=1)
        samples.append(load_dataset([out], TAXONOMY, "train", 0).samples)
    for whole, parts in zip(*samples, strict=True):
        expected, actual = (read_keypoints(item, 5.0, 20).places for item in (whole, parts))
        np.testing.assert_allclose(expected, actual, atol=1e-5)
        assert np.array_equal(whole.labels, parts.labels)


def test_fingerprint_depends_on_videos_and_input_settings(people, pose_bundle, tmp_path):
    data = shutil.copytree(people, tmp_path / "people")
    dataset, finder, recipe = (load_dataset([data], TAXONOMY, "train", 0.0), Finder(pose_bundle), make_plain_recipe())
    other_weights = load_dataset([data], TAXONOMY, "train", 1.0)
    fingerprint = compute_fingerprint(finder, dataset, recipe, 2)
    assert fingerprint == compute_fingerprint(finder, other_weights, recipe, 3)
    wider = recipe.model_copy(update={"data": recipe.data.model_copy(update={"margin": 1.5})})
    slower = recipe.model_copy(update={"input": recipe.input.model_copy(update={"fps": 2.5})})
    assert len({fingerprint, *(compute_fingerprint(finder, dataset, changed, 2) for changed in (wider, slower))}) == 3
    times = dataset.samples[0].path.stat()
    os.utime(dataset.samples[0].path, ns=(times.st_atime_ns, times.st_mtime_ns + 1))
    assert compute_fingerprint(finder, dataset, recipe, 2) != fingerprint


def test_stored_keypoints_have_the_frame_rate_of_the_recipe(people, pose_bundle, tmp_path):
    dataset, recipe = load_dataset([people], TAXONOMY, "train", 0.0), make_plain_recipe()
    slower = recipe.model_copy(update={"input": recipe.input.model_copy(update={"fps": 2.5})})
    write_keypoints(Finder(pose_bundle), dataset, slower, tmp_path, copies=0)
    for stored, original in zip(load_dataset([tmp_path], TAXONOMY, "val", 0.0).samples, dataset.samples, strict=True):
        assert stored.duration_s == pytest.approx(original.duration_s, abs=0.5)
        np.testing.assert_allclose(stored.segments, original.segments, atol=0.5)


def test_keypoints_are_fixed_if_no_stage_trains_the_finder():
    stage = "{{objective: {}, given: pictures, tuning: {}, steps: 1, batch: 1}}"
    for objective, tuning, fixed in (
        ("dense", "reader", True), ("dense", "all", False), ("keypoints", "reader", False), ("detection", "auto", True),
    ):  # fmt: skip
        stages = f"stages=[{stage.format(objective, tuning)}, {stage.format('detection', 'head')}]"
        assert has_fixed_keypoints(load_recipe("demo", [*SETTINGS, stages])) is fixed
    assert not has_fixed_keypoints(load_recipe("smoke", []))
    assert not has_fixed_keypoints(
        load_recipe("demo", [*SETTINGS, f"stages=[{stage.format('detection', 'head')}]", "finder=other"])
    )
    keypoint_recipe = to_keypoint_recipe(
        load_recipe("demo", [*SETTINGS, "augment.scale=[0.5, 0.9]", "augment.close=0.5"])
    )
    assert {(stage.given, stage.keypoint_noise) for stage in keypoint_recipe.stages} == {("keypoints", 0.0)}
    assert (keypoint_recipe.augment.scale, keypoint_recipe.augment.close) == ((1.0, 1.0), 0.0)


@pytest.mark.usefixtures("without_graphs")
def test_fine_tuning_stores_keypoints_and_averages_weights(pose_bundle, tmp_path):
    """The lowest validation loss in the history is that of the written bundle."""
    people = make_people(tmp_path / "people", Storage.MP4, 8)
    with (tmp_path / "marks.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("video", "start_s", "end_s", "action"))
        for item in load_dataset([people], TAXONOMY, "train", 0).samples[:5]:
            rows.writerows(
                (item.name, *span, int(label)) for span, label in zip(item.segments, item.labels, strict=True)
            )
    out = tmp_path / "run"
    arguments = ["fine-tune", "--bundle", pose_bundle, "--videos", people / "videos", "--annotations", tmp_path / "marks.csv",
                 "--out", out, "--held-out", "0.4", "--steps", "4", "--looks", "2", "--set", "stages.0.batch=2",
                 "--set", "stages.0.validate_every=2", "--set", "stages.0.warmup=0", "--set", "stages.0.head_rate=0.01",
                 "--set", "data.workers=0", "--set", "ema=0"]  # fmt: skip
    result = CliRunner().invoke(app, [str(part) for part in arguments])
    assert result.exit_code == 0, result.output
    assert len(list(out.glob("frames/keypoints-*/sidecars/*.npz"))) == 3 * 2 + 2
    initial, final = (load_file(folder / "weights.safetensors") for folder in (pose_bundle, out / "bundle"))
    changed = {name for name, value in final.items() if not value.equal(initial[name])}
    assert changed
    assert not any(name.startswith("backbone.finder.") for name in changed)
    rows = [json.loads(line) for line in (out / HISTORY).read_text().splitlines()]
    losses = [value for row in rows for name, value in row.items() if name.startswith("held_out")]
    manifest = Bundle.load(out / "bundle").manifest
    network = Network(manifest)
    start_network(network, out / "bundle")
    recipe = load_recipe(str(out / RECIPE), [])
    assert recipe.wise_ft_alpha == 0.5
    folder = next(out.glob("frames/keypoints-*/records/synth??????.json")).parents[1]
    held_out = load_dataset([folder], TAXONOMY, "val", 0)
    final_loss = ValidationLoss(manifest, held_out, recipe, torch.device("cpu")).loss(network.state_dict())
    assert final_loss == pytest.approx(min(losses), rel=1e-5)
    assert "keypoints found before in 2 changed copies of each" in manifest.trained_on.data
