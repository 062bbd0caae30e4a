"""`mmad detect`: input folders, filters, limits, failures and output files."""

import csv
import hashlib
import io
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import structlog
from typer.testing import CliRunner

from mmad.cli import app
from mmad.videos import find_videos
from model.bundle import Bundle


def detect(*arguments: str | Path) -> Any:
    with structlog.testing.capture_logs():  # otherwise printed to stdout
        return CliRunner().invoke(app, ["detect", *map(str, arguments)])


def find_names(*arguments: Path) -> list[str]:
    return [video.name for video in find_videos(arguments)]


def create_files(folder: Path, *paths: str) -> None:
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).touch()


def test_folder_is_searched_recursively(tmp_path: Path) -> None:
    create_files(
        tmp_path, "b.MP4", "a.mov", "P1/c.mkv", "._b.mp4", ".hidden/d.mp4", "P1/.e.mp4", "notes.txt", "no_suffix"
    )
    assert find_names(tmp_path) == ["c", "a", "b"]
    assert find_names(tmp_path, tmp_path / "a.mov", tmp_path / "notes.txt") == ["c", "b", "a", "notes"]


def test_video_names_are_unique_across_folders(tmp_path: Path) -> None:
    create_files(tmp_path, "day1/P1/x.mp4", "day1/P2/x.mp4", "day2/P1/X.mp4")
    assert find_names(tmp_path / "day1") == ["P1/x", "P2/x"]
    assert find_names(tmp_path / "day1", tmp_path / "day2") == ["day1/P1/x.mp4", "day1/P2/x.mp4", "day2/P1/X.mp4"]
    create_files(tmp_path, "one/x.mp4", "one/x.mov")
    assert find_names(tmp_path / "one") == ["x.mov", "x.mp4"]


def test_folder_without_videos_is_reported(clip: Path, tmp_path: Path) -> None:
    create_files(tmp_path, "empty/notes.txt")
    only_empty = detect(tmp_path / "empty", "--json")
    assert (only_empty.exit_code, only_empty.stdout) == (1, "")
    assert "empty: no video in this folder; videos end in .mp4 " in only_empty.stderr
    with_video = detect(tmp_path / "empty", clip, "--json")
    assert with_video.exit_code == 0
    assert len(json.loads(with_video.stdout)) == 1


def test_folder_output_is_one_table_or_file_per_video(clip: Path, tmp_path: Path) -> None:
    for path in ("P1/x.mp4", "P2/x.mp4"):
        create_files(tmp_path, f"in/{path}")
        shutil.copy(clip, tmp_path / "in" / path)
    ended = detect(tmp_path / "in", "--format", "csv", "--top-k", "1", "--min-score", "0")
    rows = list(csv.DictReader(io.StringIO(ended.stdout)))
    assert [row["video"] for row in rows] == ["P1/x", "P2/x"]
    assert detect(tmp_path / "in", "--format", "vtt", "--out", tmp_path / "out").exit_code == 0
    written = sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.*"))
    assert written == ["P1/x.vtt", "P2/x.vtt"]
    shutil.rmtree(tmp_path / "in" / "P2")
    assert len(json.loads(detect(tmp_path / "in", "--json").stdout)) == 1  # a list even for one video


def test_labels_option_accepts_codes_and_names(clip: Path) -> None:
    def detected_codes(*arguments: str) -> set[str]:
        ended = detect(clip, "--json", "--min-score", "0", *arguments)
        assert ended.exit_code == 0, ended.stderr
        return {detection["action"]["code"] for detection in json.loads(ended.stdout)["detections"]}

    head = detected_codes("--labels", "B")
    assert head == detected_codes("--labels", "HEAD") == {code for code in detected_codes() if code[0] == "B"}
    assert (
        detected_codes("--labels", "b1, Shrugging")
        == {"B1", "A4"}
        == detected_codes("--labels", "nodding", "--labels", "A4")
    )
    refused = detect(clip, "--labels", "noding")
    assert refused.exit_code == 2
    assert "'noding' is neither an action nor a body part; near it are 'nodding'" in refused.stderr


def test_failed_videos_are_skipped_and_summarised(clip: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.mp4").write_text("hello")
    ended = detect(tmp_path / "broken.mp4", tmp_path / "missing.mp4", clip)
    assert ended.exit_code == 1
    assert "body part" in ended.stdout
    _, summary = ended.stderr.split("2 of 3 videos failed:\n")
    assert re.search(r"broken\.mp4: the file is no video", summary)
    assert re.search(r"missing\.mp4: No such file or directory$", summary, re.MULTILINE)


def test_unexpected_error_does_not_stop_other_videos(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from service import results

    other = tmp_path / "other.mp4"
    shutil.copy(clip, other)
    make, calls = results.make_result, []

    def fail_once(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 1:
            raise ValueError("unexpected")
        return make(*arguments)

    monkeypatch.setattr(results, "make_result", fail_once)
    ended = detect(clip, other, "--format", "json", "--out", tmp_path / "x.json")
    assert ended.exit_code == 1
    assert "1 of 2 videos failed" in ended.stderr
    assert "unexpected" in ended.stderr
    assert [video["video"] for video in json.loads((tmp_path / "x.json").read_text())] == [str(other)]


def test_duration_limit_applies_only_if_set(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from model.video import UNLIMITED
    from service.settings import Settings

    too_long = detect(clip, "--max-duration", "2")
    assert too_long.exit_code == 1
    assert "the limit is 2 s" in too_long.stderr
    assert detect(clip, "--max-duration", "6").exit_code == 0
    from mmad.commands.detect import _make_limits

    assert _make_limits(Settings()).max_duration_s == UNLIMITED.max_duration_s
    assert _make_limits(Settings()).max_cpu_s == UNLIMITED.max_cpu_s
    monkeypatch.setenv("MMAD_MAX_DURATION_S", "600")
    assert _make_limits(Settings()).max_duration_s == 600


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{clip}", "--out", "{clip}"], "it would be lost"),
        (["{clip}", "--format", "csv", "--out", "{folder}"], "csv holds all videos in one file"),
        (["{clip}", "x.mp4", "--format", "vtt", "--out", "{file}"], "give a folder"),
        (["{clip}", "--min-score", "2"], "'2': input should be less than or equal to 1"),
        (["{clip}", "--engine", "coal"], "'coal' is not one of 'auto'"),
        (["{clip}", "--region", "1,2"], "region=1,2: it takes four fractions"),
        (["a.mp4", "--format", "png"], "cannot be printed to a terminal: give a file"),
        (["a.mp4", "--format", "mac-csv"], "cannot be printed to a terminal: give a file"),
        (["a.mp4", "b.mp4", "--format", "vtt"], "give a folder for 2 files"),
        (["a.mp4", "c/a.mp4", "--format", "csv"], "2 videos are named 'a'"),
        (["a.mp4", "a.mov", "--format", "eaf", "--out", "x"], "2 videos are named 'a'"),
        (["a.mp4", "A.mp4", "--format", "eaf", "--out", "x"], "'a' and 'A' are one name"),
        (["a.mp4", "--json", "--format", "csv"], "cannot both be had"),
        (["a.mp4", "--format", "xml"], "xml"),
    ],
)
def test_invalid_arguments_are_rejected_before_detection(
    arguments: list[str], message: str, clip: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("content")
    before = clip.read_bytes()
    values = {"clip": clip, "folder": tmp_path, "file": tmp_path / "file"}
    ended = detect(*(argument.format(**values) for argument in arguments))
    assert ended.exit_code == 2
    assert message in " ".join(re.sub("[│╭╮╰╯─]", " ", ended.stderr).split())
    assert clip.read_bytes() == before
    assert (tmp_path / "file").read_text() == "content"


def test_single_video_format_is_written_to_existing_folder(clip: Path, tmp_path: Path) -> None:
    assert detect(clip, "--format", "vtt", "--out", tmp_path).exit_code == 0
    assert [path.name for path in tmp_path.iterdir()] == [f"{clip.stem}.vtt"]


def test_log_lines_are_not_printed(clip: Path) -> None:
    command = [sys.executable, "-m", "mmad", "detect", str(clip)]
    ended = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert "engine_loaded" not in ended.stdout + ended.stderr
    assert "[info" not in ended.stderr


def test_interrupt_exits_130_and_leaves_no_file(clip: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    videos = [str(clip)] * 40
    command = [sys.executable, "-m", "mmad", "detect", *videos, "--format", "jsonl", "--out", str(out)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not _has_child(process.pid):  # the decoder process
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in stderr
    assert list(tmp_path.iterdir()) == []


def _has_child(pid: int) -> bool:
    return bool(Path(f"/proc/{pid}/task/{pid}/children").read_text())


def test_out_option_writes_file_per_video_or_one_table(clip: Path, tmp_path: Path) -> None:
    other, broken = tmp_path / "other.mp4", tmp_path / "broken.mp4"
    other.write_bytes(clip.read_bytes())
    broken.write_text("hello")
    ended = detect(clip, other, broken, "--format", "eaf", "--out", tmp_path / "new" / "folder")
    assert ended.exit_code == 1
    assert {path.name for path in (tmp_path / "new" / "folder").iterdir()} == {f"{clip.stem}.eaf", "other.eaf"}
    table = tmp_path / "all.csv"
    assert detect(clip, other, "--format", "csv", "--min-score", "0", "--out", table).exit_code == 0
    assert {row["video"] for row in csv.DictReader(io.StringIO(table.read_text()))} == {clip.stem, "other"}
    arrays = tmp_path / "scores.npz"
    assert detect(clip, "--format", "frames-npz", "--rate", "10", "--out", arrays).exit_code == 0
    with np.load(arrays) as scores:
        assert scores["action_scores"].shape == (50, 52)
    image = tmp_path / "nothing.png"
    assert detect(broken, "--format", "png", "--out", image).exit_code == 1
    assert not image.exists()
    document = tmp_path / "x.json"
    assert detect(clip, broken, "--out", document).exit_code == 1
    assert [video["video"] for video in json.loads(document.read_text())] == [str(clip)]


def test_result_contains_versions_and_settings(clip: Path, bundle: Bundle, tmp_path: Path) -> None:
    assert detect(clip, "--out", tmp_path / "x.json").exit_code == 0
    reproduction = json.loads((tmp_path / "x.json").read_text())["reproduction"]
    assert reproduction["bundle_sha256"] == hashlib.sha256((bundle.folder / "bundle.json").read_bytes()).hexdigest()
    assert {"av", "numpy", "openvino"} <= set(reproduction["packages"])
    assert reproduction["mmad"] == version("mmad")
    shape = bundle.manifest.input
    assert (reproduction["decode_fps"], reproduction["window_frames"], reproduction["overlap_frames"]) == (
        shape.fps,
        shape.window_frames,
        shape.overlap_frames,
    )
    assert reproduction["postprocessing"] == bundle.manifest.postprocessing.model_dump()
