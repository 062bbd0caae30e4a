"""Rendered data sets are reproducible and resumable, and their annotations, sidecars and videos agree."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from numba import cuda
from typer.testing import CliRunner

from mmad.cli import app
from tests.conftest import descendants, wait_for
from training.people.annotations import format_video_name
from training.people.body import load_anatomy
from training.people.film import Recipe
from training.people.options import Crop, Device, Mix, Storage, Subset
from training.people.person import draw_person
from training.people.studio import DatasetSpec, StudioError, produce
from training.people.timing import TEST_STYLES
from training.tables import read_annotations, standard_labels

RECIPE = Recipe(seed=3, fps=10.0, height=48, width=48, mix=Mix.BALANCED)
VIDEOS = 3


def digests(folder: Path) -> dict[str, str]:
    """Hash each file of a data set."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def make_spec(out: Path, **changes) -> DatasetSpec:
    recipe = replace(RECIPE, **{name: changes.pop(name) for name in ("seed", "crop") if name in changes})
    return DatasetSpec(recipe, out, **({"storage": Storage.MP4, "videos": VIDEOS} | changes))


@pytest.fixture(scope="module")
def dataset_dir(tmp_path_factory):
    out = tmp_path_factory.mktemp("set")
    progress = []
    frames = produce(make_spec(out), 1, lambda done, count: progress.append((done, count)))
    assert progress[0] == (0, 0)
    assert progress[-1] == (VIDEOS, frames)
    return out


def test_files_do_not_depend_on_the_number_of_processes(dataset_dir, tmp_path):
    produce(make_spec(tmp_path), 2, lambda done, count: None)
    assert digests(tmp_path) == digests(dataset_dir)


def test_interrupted_run_is_resumed(dataset_dir, tmp_path):
    shutil.copytree(dataset_dir, tmp_path, dirs_exist_ok=True)
    before = digests(tmp_path)
    (tmp_path / "records" / f"{format_video_name(1)}.json").unlink()
    (tmp_path / "videos" / f"{format_video_name(1)}.mp4").write_bytes(b"half")
    assert produce(make_spec(tmp_path), 1, lambda done, count: None) > 0
    assert digests(tmp_path) == before
    assert produce(make_spec(tmp_path), 1, lambda done, count: None) == 0  # already complete


def test_run_of_killed_processes_can_be_resumed(dataset_dir, tmp_path):
    command = [sys.executable, "-m", "mmad", "synth", "--out", str(tmp_path), "--videos", str(VIDEOS)]
    command += ["--seed", "3", "--size", "48x48", "--fps", "10", "--mix", "balanced", "--jobs", "2"]
    process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while process.poll() is None and not list(tmp_path.glob("records/*.json")) and time.monotonic() < deadline:
        time.sleep(0.05)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    produce(make_spec(tmp_path), 1, lambda done, count: None)
    assert {name: digest for name, digest in digests(tmp_path).items() if "/." not in name} == digests(dataset_dir)


def test_existing_data_set_refuses_other_settings(dataset_dir):
    with pytest.raises(StudioError, match="begun with seed 3, now it is 4"):
        produce(make_spec(dataset_dir, seed=4), 1, lambda done, count: None)
    with pytest.raises(StudioError, match="storage 'mp4', now it is 'npz'"):
        produce(make_spec(dataset_dir, storage=Storage.NPZ), 1, lambda done, count: None)


@pytest.mark.skipif(cuda.is_available(), reason="this machine has a GPU")
def test_missing_gpu_is_reported(tmp_path):
    with pytest.raises(StudioError, match="no CUDA card here: render with --device cpu"):
        produce(make_spec(tmp_path, device=Device.CUDA), 1, lambda done, count: None)
    assert not list(tmp_path.iterdir())


def test_folder_of_a_running_command_is_refused(dataset_dir):
    import fcntl

    with (dataset_dir / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(StudioError, match="another run is writing"):
            produce(make_spec(dataset_dir), 1, lambda done, count: None)


def test_workers_end_when_their_command_is_killed(tmp_path):
    command = [sys.executable, "-m", "mmad", "synth", "--out", str(tmp_path), "--videos", "40", "--size", "48x48"]
    process = subprocess.Popen([*command, "--jobs", "2"], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    wait_for(lambda: list(tmp_path.glob("records/*.json")), seconds=120)
    workers = [Path(f"/proc/{pid}") for pid in descendants(process.pid)]
    assert len(workers) >= 2
    process.kill()
    process.wait()
    wait_for(lambda: not any(worker.exists() for worker in workers), seconds=30)
    assert len(list(tmp_path.glob("records/*.json"))) < 40


def test_json_and_csv_annotations_agree(dataset_dir):
    taxonomy = standard_labels()
    annotations = read_annotations(dataset_dir / "mmad.json", taxonomy, strict=True).instances
    assert len(annotations.videos) == VIDEOS
    for subset in ("train", "val"):
        from_json = read_annotations(dataset_dir / "mmad.json", taxonomy, subset=subset, strict=True).instances
        from_csv = read_annotations(dataset_dir / f"{subset}.csv", taxonomy, strict=True).instances
        assert sorted(from_csv.labels) == sorted(from_json.labels)
        np.testing.assert_allclose(np.sort(from_csv.segments, axis=0), np.sort(from_json.segments, axis=0), atol=0.11)
    from training.tables import read_labels

    assert [action.code for action in read_labels(dataset_dir / "labels.json").actions] == [
        action.code for action in taxonomy.actions
    ]


def test_each_person_is_in_one_subset():
    from training.people.film import get_person, get_subset

    subsets = {}
    for number in range(200):
        subsets.setdefault(get_person(number), set()).add(get_subset(Recipe(), get_person(number)))
    assert all(len(names) == 1 for names in subsets.values())
    assert {subset for names in subsets.values() for subset in names} == {"train", "val"}
    assert {get_subset(Recipe(test=True), person) for person in range(20)} == {"test"}


def test_subsets_share_no_body():
    rng, anatomy = np.random.default_rng(0), load_anatomy()
    bodies = [{draw_person(rng, anatomy, subset).body for _ in range(400)} for subset in Subset]
    assert all(len(shapes) > 100 for shapes in bodies)
    assert len(set.union(*bodies)) == sum(len(shapes) for shapes in bodies)


def test_test_set_has_its_own_styles(tmp_path):
    result = CliRunner().invoke(app, ["synth", "--test", "--videos", "2", "--size", "48x48", "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    records = json.loads((tmp_path / "mmad.json").read_text()).values()
    assert {record["subset"] for record in records} == {"test"}
    assert {record["style"] for record in records} <= set(TEST_STYLES)
    assert [path.name for path in tmp_path.glob("*.csv")] == ["test.csv"]
    assert not set(TEST_STYLES) & set(Recipe().styles)


def test_sidecars_match_the_decoded_videos(dataset_dir):
    document = json.loads((dataset_dir / "mmad.json").read_text())
    for name, record in document.items():
        with av.open(str(dataset_dir / "videos" / f"{name}.mp4")) as container:
            stream = container.streams.video[0]
            assert (stream.width, stream.height, stream.pix_fmt) == (48, 48, "yuv420p")
            assert float(stream.average_rate) == 10
            frames = sum(1 for _ in container.decode(video=0))
        with np.load(dataset_dir / "sidecars" / f"{name}.npz") as sidecar:
            assert len(sidecar["person_box"]) == len(sidecar["keypoints"]) == record["frames"] == frames
            assert sidecar["keypoints"].shape[1] == len(sidecar["keypoint_names"])
            assert sidecar["parts_visible"].shape[1] == len(sidecar["part_names"])
        assert abs(frames / 10 - record["duration"]) < 1e-6


def test_npz_storage_holds_frames_of_the_requested_size(tmp_path):
    from training.people.camera.footage import read_frames

    produce(make_spec(tmp_path, storage=Storage.NPZ, videos=1, crop=Crop.HEAD), 1, lambda done, count: None)
    footage = read_frames(tmp_path / "frames" / f"{format_video_name(0)}.npz")
    assert footage.frames.shape[1:] == (48, 48, 3)
    assert footage.fps == 10


def test_pictures_are_shown_on_walls(tmp_path):
    from PIL import Image

    folder = tmp_path / "pictures"
    folder.mkdir()
    with pytest.raises(StudioError, match="holds no picture"):
        produce(make_spec(tmp_path / "a", videos=1, pictures=folder), 1, lambda done, count: None)
    Image.new("RGB", (600, 300), (250, 0, 0)).save(folder / "red.png")
    produce(make_spec(tmp_path / "b", storage=Storage.NPZ, videos=4, pictures=folder), 1, lambda done, count: None)
    from training.people.camera.footage import read_frames

    frames = [
        read_frames(path).frames[0].reshape(-1, 3).astype(int) for path in sorted((tmp_path / "b/frames").iterdir())
    ]
    assert any(((red[:, 0] > 2 * red[:, 1]) & (red[:, 0] > 60)).mean() > 0.2 for red in frames)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--videos", "2"], "a folder for the data set is needed"),
        (["--out", "x", "--size", "160"], "HxW"),
        (["--out", "x", "--size", "161x160"], "161 pixels: a side must be even"),
        (["--out", "x", "--size", "16x160"], "16 pixels"),
        (["--out", "x", "--fps", "0"], "--fps"),
        (["--out", "x", "--style", "wild"], "'wild' is none of calm"),
        (["--out", "x", "--mix", "odd"], "--mix"),
        (["--out", "x", "--pictures", "nowhere"], "nowhere"),
    ],
)
def test_wrong_usage_error_names_the_value(arguments, message):
    result = CliRunner().invoke(app, ["synth", *arguments], env={"COLUMNS": "200", "NO_COLOR": "1"})
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())
