"""Terminal output: tables, progress lines and atomic files."""

import io
import time
from pathlib import Path

import pytest
from rich.console import Console

from mmad import terminal
from mmad.files import check_writable, replace_file
from mmad.terminal import print_result, print_table, progress_bar, write_bytes

RESULT = {
    "detections": [
        {
            "start_s": 7100.25, "end_s": 7199.5, "score": 0.5,
            "action": {"code": "F4", "name": "scratching or touching hindbrain"}, "body": {"name": "Upper limb"},
        }
    ],
    "media": {"duration_s": 7200.0, "width": 200, "height": 240},
    "model": {"bundle": "demo", "version": "7", "engine": "openvino"},
    "hidden": {"count": 0, "from_score": 0.02, "best": [], "cut_by_top_k": 0},
    "warnings": [],
}  # fmt: skip


@pytest.fixture
def stdout(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """Captured standard output, not a terminal."""
    text = io.StringIO()
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setattr(terminal, "out", Console(file=text, markup=False, emoji=False, highlight=False))
    return text


def test_pipe_output_has_one_line_per_detection(stdout: io.StringIO) -> None:
    name = "a [red]name[/red] :smile: that is longer than a terminal is wide, 😀, and goes on for quite a while.mp4"
    print_result(name, RESULT)
    lines = stdout.getvalue().splitlines()
    assert lines[0] == name
    assert " ".join(lines[3].split()) == "7100.25 7199.50 0.50 F4 scratching or touching hindbrain Upper limb"


@pytest.mark.parametrize("width", [20, 40, 60, 79])
def test_words_are_not_cut_at_any_width(width: int, stdout: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    print_result("x", RESULT)
    words = stdout.getvalue().split()
    assert {"scratching", "touching", "hindbrain", "Upper", "limb", "7100.25", "7199.50", "F4"} <= set(words)
    if width >= 60:
        assert max(map(len, stdout.getvalue().splitlines())) <= width


def test_long_cells_are_wrapped_without_terminal(stdout: io.StringIO) -> None:
    print_table([], [("notes", "word " * 500)])
    assert 100 < max(map(len, stdout.getvalue().splitlines())) <= 120
    assert stdout.getvalue().count("word") == 500


@pytest.fixture
def stderr(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """Captured standard error, not a terminal, with short progress intervals."""
    text = io.StringIO()
    monkeypatch.setattr(terminal, "notes", Console(file=text, width=80))
    monkeypatch.setattr(terminal, "_FIRST_LINE_S", 0.01)
    monkeypatch.setattr(terminal, "_EACH_LINE_S", 0.05)
    return text


def wait_for_line(text: io.StringIO, part: str) -> None:
    deadline = time.monotonic() + 20
    while part not in text.getvalue():
        assert time.monotonic() < deadline, text.getvalue()
        time.sleep(0.01)


def test_progress_is_printed_as_lines_without_terminal(stderr: io.StringIO) -> None:
    with progress_bar("1 of 2: film.mp4") as show:
        show("detecting", 0.1)
        wait_for_line(stderr, "1 of 2: film.mp4: detecting, 10 %\n")
        show("detecting", 0.4)
        wait_for_line(stderr, "1 of 2: film.mp4: detecting, 40 %")
        show("detecting", 0.5)
        wait_for_line(stderr, " left\n")
    ended = stderr.getvalue()
    time.sleep(0.2)
    assert stderr.getvalue() == ended  # nothing is printed after the end
    assert "━" not in ended


def test_short_work_prints_no_progress(stderr: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal, "_FIRST_LINE_S", 60.0)
    with progress_bar("film.mp4") as show:
        show("detecting", 0.5)
    assert stderr.getvalue() == ""


def test_files_are_replaced_atomically(tmp_path: Path) -> None:
    path = tmp_path / ("a" * 250)
    write_bytes(b"first", path)
    path.chmod(0o640)
    link = tmp_path / "link"
    link.symlink_to(path.name)
    write_bytes(b"second", link)
    assert link.is_symlink()
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"second", 0o640)
    with pytest.raises(OSError, match="No space left on device") as caught, replace_file(path) as file:
        file.write(b"t")  # the disk is full after a byte
        raise OSError(28, "No space left on device", file.name)
    assert caught.value.filename == str(path)
    assert path.read_bytes() == b"second"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == sorted([path.name, "link"])


def test_devices_are_written_in_place() -> None:
    write_bytes(b"nothing", Path("/dev/null"))
    check_writable(Path("/dev/null"))
    assert Path("/dev/null").is_char_device()


def test_missing_folder_is_named_in_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="there is no folder") as caught:
        check_writable(tmp_path / "no" / "x.csv")
    assert caught.value.filename == str(tmp_path / "no" / "x.csv")
    check_writable(tmp_path / "x.csv")
    assert list(tmp_path.iterdir()) == []
