"""mmad detect: folders, labels, lengths, failures of some videos, what is written and where."""

import csv
import io
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import structlog
from typer.testing import CliRunner

from mmad.cli import app
from mmad.videos import find_videos


def detect(*arguments: str | Path) -> Any:
    with structlog.testing.capture_logs():  # which tests print to standard output
        return CliRunner().invoke(app, ["detect", *map(str, arguments)])


def names(*arguments: Path) -> list[str]:
    return [video.name for video in find_videos(arguments)]


def touch(folder: Path, *paths: str) -> None:
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).touch()


def test_a_folder_stands_for_its_videos_at_any_depth(tmp_path: Path) -> None:
    touch(tmp_path, "b.MP4", "a.mov", "P1/c.mkv", "._b.mp4", ".hidden/d.mp4", "P1/.e.mp4", "notes.txt", "no_suffix")
    assert names(tmp_path) == ["c", "a", "b"]
    assert names(tmp_path, tmp_path / "a.mov", tmp_path / "notes.txt") == ["c", "b", "a", "notes"]


def test_names_tell_videos_of_folders_apart(tmp_path: Path) -> None:
    touch(tmp_path, "day1/P1/x.mp4", "day1/P2/x.mp4", "day2/P1/X.mp4")
    assert names(tmp_path / "day1") == ["P1/x", "P2/x"]
    assert names(tmp_path / "day1", tmp_path / "day2") == ["day1/P1/x.mp4", "day1/P2/x.mp4", "day2/P1/X.mp4"]
    touch(tmp_path, "one/x.mp4", "one/x.mov")
    assert names(tmp_path / "one") == ["x.mov", "x.mp4"]


def test_a_folder_without_videos_is_told(clip: Path, tmp_path: Path) -> None:
    touch(tmp_path, "empty/notes.txt")
    alone = detect(tmp_path / "empty", "--json")
    assert (alone.exit_code, alone.stdout) == (1, "")
    assert "empty: no video in this folder; videos end in .mp4 " in alone.stderr
    beside = detect(tmp_path / "empty", clip, "--json")
    assert beside.exit_code == 0
    assert len(json.loads(beside.stdout)) == 1


def test_a_folder_is_written_as_a_list_or_a_folder_of_files(clip: Path, tmp_path: Path) -> None:
    for place in ("P1/x.mp4", "P2/x.mp4"):
        touch(tmp_path, f"in/{place}")
        shutil.copy(clip, tmp_path / "in" / place)
    ended = detect(tmp_path / "in", "--format", "csv", "--top-k", "1", "--min-score", "0")
    rows = list(csv.DictReader(io.StringIO(ended.stdout)))
    assert [row["video"] for row in rows] == ["P1/x", "P2/x"]
    assert detect(tmp_path / "in", "--format", "vtt", "--out", tmp_path / "out").exit_code == 0
    written = sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.*"))
    assert written == ["P1/x.vtt", "P2/x.vtt"]
    shutil.rmtree(tmp_path / "in" / "P2")
    assert len(json.loads(detect(tmp_path / "in", "--json").stdout)) == 1  # a list, however many there are


def test_labels_are_codes_or_names_of_both_levels(clip: Path) -> None:
    def found(*arguments: str) -> set[str]:
        ended = detect(clip, "--json", "--min-score", "0", *arguments)
        assert ended.exit_code == 0, ended.stderr
        return {one["action"]["code"] for one in json.loads(ended.stdout)["detections"]}

    head = found("--labels", "B")
    assert head == found("--labels", "HEAD") == {code for code in found() if code[0] == "B"}
    assert found("--labels", "b1, Shrugging") == {"B1", "A4"} == found("--labels", "nodding", "--labels", "A4")
    refused = detect(clip, "--labels", "noding")
    assert refused.exit_code == 2
    assert "'noding' is neither an action nor a body part; near it are 'nodding'" in refused.stderr


def test_one_failure_stops_no_other_video_and_is_told_at_the_end(clip: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.mp4").write_text("hello")
    ended = detect(tmp_path / "broken.mp4", tmp_path / "missing.mp4", clip)
    assert ended.exit_code == 1
    assert "body part" in ended.stdout
    _, told = ended.stderr.split("2 of 3 videos failed:\n")
    assert re.search(r"broken\.mp4: the file is no video", told)
    assert re.search(r"missing\.mp4: No such file or directory$", told, re.MULTILINE)


def test_an_unforeseen_error_stops_no_other_video(clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from service import results

    other = tmp_path / "other.mp4"
    shutil.copy(clip, other)
    make, calls = results.make_result, []

    def fail_once(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 1:
            raise ValueError("an unforeseen one")
        return make(*arguments)

    monkeypatch.setattr(results, "make_result", fail_once)
    ended = detect(clip, other, "--format", "json", "--out", tmp_path / "x.json")
    assert ended.exit_code == 1
    assert "1 of 2 videos failed" in ended.stderr
    assert "an unforeseen one" in ended.stderr
    assert [one["video"] for one in json.loads((tmp_path / "x.json").read_text())] == [str(other)]


def test_length_has_a_limit_where_one_is_given(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    ("arguments", "said"),
    [
        (["{clip}", "--out", "{clip}"], "it would be lost"),
        (["{clip}", "--format", "csv", "--out", "{folder}"], "csv holds all videos in one file"),
        (["{clip}", "x.mp4", "--format", "vtt", "--out", "{file}"], "give a folder"),
        (["{clip}", "--min-score", "2"], "'2': input should be less than or equal to 1"),
        (["{clip}", "--engine", "coal"], "'coal' is not one of 'auto'"),
        (["{clip}", "--region", "1,2"], "region=1,2: it takes four fractions"),
    ],
)
def test_what_cannot_be_is_told_before_the_work(arguments: list[str], said: str, clip: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    before = clip.read_bytes()
    values = {"clip": clip, "folder": tmp_path, "file": tmp_path / "file"}
    ended = detect(*(argument.format(**values) for argument in arguments))
    assert ended.exit_code == 2
    assert said in " ".join(re.sub("[│╭╮╰╯─]", " ", ended.stderr).split())
    assert clip.read_bytes() == before
    assert (tmp_path / "file").read_text() == "kept"


def test_a_format_of_one_video_goes_into_a_folder_that_is_there(clip: Path, tmp_path: Path) -> None:
    assert detect(clip, "--format", "vtt", "--out", tmp_path).exit_code == 0
    assert [path.name for path in tmp_path.iterdir()] == [f"{clip.stem}.vtt"]


def test_no_line_of_the_log_is_among_what_is_printed(clip: Path) -> None:
    command = [sys.executable, "-m", "mmad", "detect", str(clip)]
    ended = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert "engine_loaded" not in ended.stdout + ended.stderr
    assert "[info" not in ended.stderr


def test_an_interrupt_ends_quietly_and_leaves_no_file(clip: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    videos = [str(clip)] * 40
    command = [sys.executable, "-m", "mmad", "detect", *videos, "--format", "jsonl", "--out", str(out)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    time_left = time.monotonic() + 60
    while not _has_child(process.pid):  # the decoder's process
        assert process.poll() is None
        assert time.monotonic() < time_left
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in told
    assert list(tmp_path.iterdir()) == []


def _has_child(pid: int) -> bool:
    return bool(Path(f"/proc/{pid}/task/{pid}/children").read_text())
