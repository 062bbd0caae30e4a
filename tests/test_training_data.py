"""Recipes, training data sets, and the examples drawn from them."""

from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from tests.smoke_runs import PLAIN, TAXONOMY, make_run, render_people
from training.augment import make_example
from training.dataset import DatasetError, Keypoints, Sample, load_dataset, read_frames, read_keypoints
from training.files import write_aside
from training.people.film import Recipe as People
from training.people.options import Storage
from training.people.studio import DatasetSpec, produce
from training.recipe import RecipeError, list_shipped_recipes, load_recipe
from training.run import Examples, make_manifest


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return render_people(tmp_path_factory.mktemp("people"))


@pytest.mark.parametrize("name", list_shipped_recipes())
def test_shipped_recipe_loads(name):
    overrides = {"fine-tune": [f"start={files('bundles') / 'demo'}"]}  # the rest comes from the bundle
    recipe = load_recipe(name, overrides.get(name, []))
    assert recipe.stages[-1].objective == "detection"
    make_manifest(recipe, TAXONOMY, "data")


@pytest.mark.parametrize(
    ("override", "message"),
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
def test_invalid_recipe_error_names_setting(override, message):
    with pytest.raises(RecipeError, match=message):
        load_recipe("smoke", [override])


def test_unknown_recipe_error_lists_recipes():
    with pytest.raises(RecipeError, match="no recipe 'nowhere': give a file, or one of .*smoke"):
        load_recipe("nowhere", [])


def test_data_folders_are_mixed_by_weight(data):
    dataset = load_dataset([data, Path(f"{data}*3")], TAXONOMY, "train", 0.0)
    half = len(dataset.samples) // 2
    assert len(set(dataset.truth(range(2 * half)).videos)) == 2 * half  # although names are the same in both
    assert dataset.weights[half:].sum() == pytest.approx(0.75)
    balanced = load_dataset([data], TAXONOMY, "train", 1.0)
    counts = np.bincount(np.concatenate([sample.labels for sample in balanced.samples]), minlength=52)
    rarest = [min(counts[sample.labels], default=99) for sample in balanced.samples]
    assert balanced.weights[int(np.argmin(rarest))] > balanced.weights[int(np.argmax(rarest))]


def test_invalid_data_folders_are_refused(data, tmp_path):
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


def test_sidecar_of_an_older_synth_is_refused(tmp_path):
    np.savez(tmp_path / "old.npz", joints=np.zeros((1, 2, 2)), joint_names=np.array(["a", "b"]))
    sample = Sample("old", tmp_path / "old.mp4", tmp_path / "old.npz", 1.0, np.zeros((0, 2)), np.zeros(0, int))
    with pytest.raises(DatasetError, match="old.npz was made by an older mmad synth: make the data set again"):
        read_keypoints(sample, 10.0, 1)


def test_file_with_longest_possible_name_is_written_atomically(tmp_path):
    path = tmp_path / f"{'x' * 250}.npy"
    with write_aside(path) as temporary:
        temporary.write_bytes(b"content")
    assert path.read_bytes() == b"content"
    assert list(tmp_path.iterdir()) == [path]


def test_frame_cache_decodes_changed_video_again(tmp_path):
    folder = tmp_path / "mp4"
    produce(
        DatasetSpec(People(seed=2, fps=10.0, height=48, width=48), folder, Storage.MP4, 1), 1, lambda done, count: None
    )
    recipe = load_recipe("smoke", [])
    sample = load_dataset([folder], TAXONOMY, "train", 0).samples[0]
    first = read_frames(sample, recipe.input, 1.0, tmp_path / "cache")
    cached = list((tmp_path / "cache").iterdir())
    sample.path.write_bytes(sample.path.read_bytes())  # a new time stamp
    assert len(cached) == 1
    assert np.array_equal(first, read_frames(sample, recipe.input, 1.0, tmp_path / "cache"))
    assert first.shape[1:] == (48, 48, 3)
    assert abs(len(first) / recipe.input.fps - sample.duration_s) < 0.3


def test_example_segments_match_frames():
    """The grey level of a frame is its position in the video; the window's segments must agree."""
    recipe = load_recipe("smoke", [])
    count = 120
    frames = np.zeros((count, 48, 48, 3), np.uint8) + np.arange(count, dtype=np.uint8)[:, None, None, None] * 2
    segments_s = np.array([[4.0, 12.0]])  # frames 20 to 60 at 5 a second
    changing = PLAIN.model_copy(update={"speed": (0.7, 1.4), "truncate": 0.7, "freeze": 0.3})
    for seed in range(200):
        rng = np.random.default_rng(seed)
        example = make_example(rng, frames, segments_s, np.array([3]), None, recipe.input, changing)
        assert 1 <= len(example.frames) <= recipe.input.window_frames
        positions = example.frames[:, 0, 0, 0].astype(int) / 2
        inside = np.flatnonzero((positions >= 20) & (positions <= 60))
        if not len(example.labels):
            assert len(inside) <= max(0.35 * 40 / 0.7, 4)
            continue
        start, end = example.segments[0]
        assert abs(start - inside[0]) <= 1.5
        moving = inside[: int(np.argmax(positions[inside])) + 1]
        assert abs(end - moving[-1]) <= 1.5


def test_flip_mirrors_keypoints():
    recipe = load_recipe("smoke", [])
    frames = np.zeros((10, 48, 48, 3), np.uint8)
    frames[:, 12, 36] = 255
    left, right = (36.5 / 48, 12.5 / 48, 1.0), (20.5 / 48, 40.5 / 48, 0.0)
    keypoints = Keypoints(np.broadcast_to(np.array([left, right]), (10, 2, 3)), np.array([1, 0]))
    changing = PLAIN.model_copy(update={"flip": 1.0, "scale": (0.7, 0.9)})
    for seed in range(20):
        example = make_example(
            np.random.default_rng(seed), frames, np.zeros((0, 2)), np.zeros(0, int), keypoints, recipe.input, changing
        )
        assert not example.keypoints[0, 0, 2]  # the hidden right keypoint is the left one now
        x, y, visible = example.keypoints[0, 1]
        if visible:
            row, column = np.unravel_index(example.frames[0, ..., 0].argmax(), (48, 48))
            assert abs(x * 48 - column - 0.5) < 1.2
            assert abs(y * 48 - row - 0.5) < 1.2


def test_example_depends_on_stage_and_number_only(data, tmp_path):
    run = make_run(data, tmp_path)
    first, again, other = Examples(run, 0)[5], Examples(run, 0)[5], Examples(run, 1)[5]
    assert np.array_equal(first.frames, again.frames)
    assert first.frames.shape != other.frames.shape or not np.array_equal(first.frames, other.frames)
