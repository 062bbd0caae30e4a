"""Keypoints found once and kept as a data set: what reads them learns from these, in recipes and in fine-tuning."""

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
from training.keypoint_cache import main as find_all
from training.keypoints import Finder
from training.people.options import Storage
from training.recipe import load_recipe
from training.run import HISTORY, RECIPE, Examples, make_manifest
from training.start import start_network


@pytest.fixture(scope="module")
def data(people):
    return people


def plain_recipe():
    return load_recipe("demo", SETTINGS).model_copy(update={"augment": PLAIN})


def test_found_keypoints_are_a_data_set_that_readers_learn_from(data, pose_bundle, tmp_path):
    finder, out = Finder(pose_bundle), tmp_path / "found"
    dataset = load_dataset([data], TAXONOMY, "train", 0)
    recipe = plain_recipe()
    write_keypoints(finder, dataset, recipe, out, copies=1)
    kept = load_dataset([out], TAXONOMY, "train", 0)
    assert [item.name for item in kept.samples] == [f"{item.name}-0" for item in dataset.samples]
    for ours, theirs in zip(kept.samples, dataset.samples, strict=True):
        frames = np.array(read_frames(theirs, recipe.input, 1.0))
        keypoints = read_keypoints(ours, 5.0, len(frames))
        np.testing.assert_allclose(keypoints.places, finder.find(frames), atol=1e-5)
        assert keypoints.names == read_keypoints(theirs, 5.0, 1).names
        segments = theirs.segments.clip(0, (len(frames) - 1) / 5.0)
        long = np.ptp(segments, axis=1) >= 2 / 5.0  # two frames: less is no example of an action
        assert ours.labels.tolist() == theirs.labels[long].tolist()
        np.testing.assert_allclose(ours.segments, segments[long], atol=1e-3)
    run = make_run(out, tmp_path / "run")  # nothing but sidecars
    assert Examples(run, 1)[0].keypoints.shape[1:] == (25, 3)


def test_every_look_is_another_and_taken_once(data, pose_bundle, tmp_path, monkeypatch, capsys):
    out = tmp_path / "found"
    arguments = ["found", "--bundle", str(pose_bundle), "--data", str(data), "--out", str(out), "--looks", "2"]
    monkeypatch.setattr(sys, "argv", arguments)
    find_all()
    first = load_dataset([out], TAXONOMY, "train", 0).samples
    assert f"{len(first)} looks at {len(first) // 2} videos" in capsys.readouterr().out
    one, other = (read_keypoints(item, 5.0, 10).places for item in first[:2])
    assert np.abs(one - other).max() > 0.001
    times = {path: path.stat().st_mtime_ns for path in (out / "sidecars").iterdir()}
    arguments[-1] = "3"
    find_all()
    again = {path: path.stat().st_mtime_ns for path in (out / "sidecars").iterdir()}
    assert len(again) == len(times) * 3 // 2
    assert times.items() <= again.items()
    monkeypatch.setattr(sys, "argv", [*arguments, "--seed", "1"])
    with pytest.raises(DatasetError, match="holds looks of another bundle, recipe or data: take another --out"):
        find_all()
    monkeypatch.setattr(sys, "argv", [*arguments[:-1], "0"])
    with pytest.raises(SystemExit):
        find_all()
    assert "--looks 0: at least 1" in capsys.readouterr().err


def test_videos_without_sidecars_have_keypoints_of_those_who_are_rendered(data, pose_bundle, tmp_path, monkeypatch):
    dataset = load_dataset([data], TAXONOMY, "train", 0)
    names = read_keypoints(dataset.samples[0], 5.0, 1).names
    bare = VideoDataset(tuple(replace(item, sidecar=None) for item in dataset.samples), dataset.weights)
    finder = Finder(pose_bundle)
    write_keypoints(finder, bare, plain_recipe(), tmp_path / "found", copies=1)
    assert read_keypoints(load_dataset([tmp_path / "found"], TAXONOMY, "train", 0).samples[0], 5.0, 1).names == names
    monkeypatch.setattr(finder, "find", lambda frames: np.zeros((len(frames), 17, 3)))
    with pytest.raises(DatasetError, match="17 keypoints are found, and names of 25 are known: take a bundle"):
        write_keypoints(finder, bare, plain_recipe(), tmp_path / "others", copies=1)


def test_found_keypoints_are_measured_like_their_pictures(data, pose_bundle, tmp_path):
    """A bundle's own loss on held-out videos is the same, whether it finds keypoints then or has found them before."""
    finder, recipe = Finder(pose_bundle), plain_recipe()
    dataset = load_dataset([data], TAXONOMY, "train", 0)
    dataset = VideoDataset(dataset.samples[:6], dataset.weights[:6])
    write_keypoints(finder, dataset, recipe, tmp_path, copies=0)
    found = load_dataset([tmp_path], TAXONOMY, "val", 0)
    assert [item.name for item in found.samples] == [item.name for item in dataset.samples]
    weights = finder.network.state_dict()
    for frames in (256, 32):  # no video fills a window, and most have several
        seen = recipe.input.model_copy(update={"window_frames": frames, "overlap_frames": frames // 2})
        short = to_keypoint_recipe(recipe.model_copy(update={"input": seen}))
        manifest = make_manifest(short, TAXONOMY, "people")
        network = Network(manifest)
        network.load_state_dict(weights)
        losses = [
            ValidationLoss(manifest, videos, short, torch.device("cpu")).loss(weights) for videos in (dataset, found)
        ]
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)
        scores = [
            evaluate_network(
                network, manifest, videos, short, "cpu", lambda done, count: None, given
            ).predictions.scores
            for videos, given in ((dataset, "pictures"), (found, "keypoints"))
        ]
        assert np.median(np.abs(scores[0] - scores[1])) < 1e-5  # equal ones may change places


def test_long_videos_are_changed_alike_part_by_part(data, pose_bundle, tmp_path, monkeypatch):
    dataset = load_dataset([data], TAXONOMY, "train", 0)
    bare = VideoDataset(tuple(replace(item, sidecar=None) for item in dataset.samples[:3]), dataset.weights[:3])
    recipe = load_recipe("demo", SETTINGS)
    monkeypatch.setattr("training.augment._NOISE", 0)  # which is new in every frame
    finder, found = Finder(pose_bundle), []
    for out, frames in ((tmp_path / "whole", 1000), (tmp_path / "parts", 7)):
        monkeypatch.setattr(module, "_PART", frames)
        write_keypoints(finder, bare, recipe, out, copies=1)
        found.append(load_dataset([out], TAXONOMY, "train", 0).samples)
    for whole, parts in zip(*found, strict=True):
        one, other = (read_keypoints(item, 5.0, 20).places for item in (whole, parts))
        np.testing.assert_allclose(one, other, atol=1e-5)
        assert np.array_equal(whole.labels, parts.labels)


def test_videos_that_are_not_the_same_are_looked_at_again(people, pose_bundle, tmp_path):
    data = shutil.copytree(people, tmp_path / "people")
    dataset, finder, recipe = (load_dataset([data], TAXONOMY, "train", 0.0), Finder(pose_bundle), plain_recipe())
    drawn_otherwise = load_dataset([data], TAXONOMY, "train", 1.0)
    claim = compute_fingerprint(finder, dataset, recipe, 2)
    assert claim == compute_fingerprint(finder, drawn_otherwise, recipe, 3)
    wider = recipe.model_copy(update={"data": recipe.data.model_copy(update={"margin": 1.5})})
    slower = recipe.model_copy(update={"input": recipe.input.model_copy(update={"fps": 2.5})})
    assert len({claim, *(compute_fingerprint(finder, dataset, one, 2) for one in (wider, slower))}) == 3
    times = dataset.samples[0].path.stat()
    os.utime(dataset.samples[0].path, ns=(times.st_atime_ns, times.st_mtime_ns + 1))
    assert compute_fingerprint(finder, dataset, recipe, 2) != claim


def test_looks_have_the_rate_of_their_recipe(data, pose_bundle, tmp_path):
    dataset, recipe = load_dataset([data], TAXONOMY, "train", 0.0), plain_recipe()
    slower = recipe.model_copy(update={"input": recipe.input.model_copy(update={"fps": 2.5})})
    write_keypoints(Finder(pose_bundle), dataset, slower, tmp_path, copies=0)
    for ours, theirs in zip(load_dataset([tmp_path], TAXONOMY, "val", 0.0).samples, dataset.samples, strict=True):
        assert ours.duration_s == pytest.approx(theirs.duration_s, abs=0.5)
        np.testing.assert_allclose(ours.segments, theirs.segments, atol=0.5)


def test_what_does_not_leave_the_finder_alone_looks_at_pictures():
    one = "{{objective: {}, given: pictures, tuning: {}, steps: 1, batch: 1}}"
    for objective, tuning, alone in (
        ("dense", "reader", True), ("dense", "all", False), ("keypoints", "reader", False), ("detection", "auto", True),
    ):  # fmt: skip
        stages = f"stages=[{one.format(objective, tuning)}, {one.format('detection', 'head')}]"
        assert has_fixed_keypoints(load_recipe("demo", [*SETTINGS, stages])) is alone
    assert not has_fixed_keypoints(load_recipe("smoke", []))
    assert not has_fixed_keypoints(
        load_recipe("demo", [*SETTINGS, f"stages=[{one.format('detection', 'head')}]", "finder=other"])
    )
    read = to_keypoint_recipe(load_recipe("demo", [*SETTINGS, "augment.scale=[0.5, 0.9]", "augment.close=0.5"]))
    assert {(stage.given, stage.keypoint_noise) for stage in read.stages} == {("keypoints", 0.0)}
    assert (read.augment.scale, read.augment.close) == ((1.0, 1.0), 0.0)


@pytest.mark.usefixtures("without_graphs")
def test_fine_tuning_finds_keypoints_once_and_leaves_a_mixture(pose_bundle, tmp_path):
    """The loss that stops a run is that of the bundle it leaves."""
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
    begun, tuned = (load_file(folder / "weights.safetensors") for folder in (pose_bundle, out / "bundle"))
    moved = {name for name, value in tuned.items() if not value.equal(begun[name])}
    assert moved
    assert not any(name.startswith("backbone.finder.") for name in moved)
    rows = [json.loads(line) for line in (out / HISTORY).read_text().splitlines()]
    losses = [value for row in rows for name, value in row.items() if name.startswith("held_out")]
    manifest = Bundle.load(out / "bundle").manifest
    network = Network(manifest)
    start_network(network, out / "bundle")
    recipe = load_recipe(str(out / RECIPE), [])
    assert recipe.wise_ft_alpha == 0.5
    folder = next(out.glob("frames/keypoints-*/records/synth??????.json")).parents[1]
    held_out = load_dataset([folder], TAXONOMY, "val", 0)
    left = ValidationLoss(manifest, held_out, recipe, torch.device("cpu")).loss(network.state_dict())
    assert left == pytest.approx(min(losses), rel=1e-5)
    assert "keypoints found before in 2 changed copies of each" in manifest.trained_on.data
