"""What people see: documents on standard output; notes, errors and progress on standard error."""

import io
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from errno import ENOENT
from pathlib import Path
from typing import NoReturn
from uuid import uuid4

import typer
from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.measure import Measurement, measure_renderables
from rich.progress import BarColumn, Progress, Task, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from mmad.client import Json

# Names of files and actions are printed as they are: [red] and :smile: in them mean nothing.
out = Console(markup=False, emoji=False, highlight=False)
notes = Console(stderr=True, markup=False, emoji=False, highlight=False)

# Where there is no terminal, progress is a line after the first of these times and then after each of the second.
_FIRST_LINE_S, _EACH_LINE_S = 3.0, 5.0
# Columns of a table where there is no terminal to fit; more than any table has.
_PIPE_WIDTH, _WIDEST = 120, 10_000
# Columns of the bar, and of the times beside it.
_BAR, _TIMES = 20, 35
# Progress is not steady: the time left is estimated from the last five minutes.
_ESTIMATE_S = 300.0

Show = Callable[[str, float], None]


@contextmanager
def bar(name: str) -> Iterator[Show]:
    """Progress on standard error: a bar in a terminal, a line every few seconds elsewhere.

    Yields a function that takes the stage and the fraction done, 0..1.
    """
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=_BAR),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    shown = notes.is_interactive and sys.stderr.isatty()
    progress = Progress(
        *columns, console=notes, transient=True, disable=not shown, speed_estimate_period=_ESTIMATE_S
    )
    number = progress.add_task(name, total=1.0)

    def show(stage: str, fraction: float) -> None:
        words = f"{name}: {stage}"
        if shown:
            words = _shortened(name, stage, max(notes.width - _BAR - _TIMES, _BAR))
        progress.update(number, description=words, completed=fraction)

    with progress if shown else _lines(progress.tasks[0]):
        yield show


def _shortened(name: str, stage: str, width: int) -> str:
    """Name and stage, shortened to a number of columns."""
    short = Text(name)
    short.truncate(max(width - cell_len(stage) - 2, width // 2), overflow="ellipsis")
    both = Text(f"{short.plain}: {stage}")
    both.truncate(width, overflow="ellipsis")
    return both.plain


@contextmanager
def _lines(task: Task) -> Iterator[None]:
    """Print a task's progress now and then, from a thread: the work may be silent for long."""
    ended = threading.Event()

    def print_lines() -> None:
        wait_s = _FIRST_LINE_S
        while not ended.wait(wait_s):
            tell(_line(task))
            wait_s = _EACH_LINE_S

    printer = threading.Thread(target=print_lines, daemon=True)
    printer.start()
    try:
        yield
    finally:
        ended.set()
        printer.join()


def _line(task: Task) -> str:
    """For example "film.mp4: detecting, 40 %, 1:20 left"."""
    left_s = task.time_remaining
    left = "" if left_s is None else f", {_clock(left_s)} left"
    return f"{task.description}, {task.percentage:.0f} %{left}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def print_table(table: Table) -> None:
    """Print a table without cutting words, wider than the terminal if necessary."""
    table.box, table.show_edge, table.pad_edge, table.collapse_padding = box.SIMPLE_HEAD, False, False, True
    wide = out.options.update(max_width=_WIDEST, width=_WIDEST)
    sizes = [measure_renderables(out, wide, [one.header, *one.cells]) for one in table.columns]
    widths = [size.maximum for size in sizes]
    beside = Measurement.get(out, wide, table).maximum - sum(widths)
    least = [size.minimum for size in sizes]
    most = out.width if out.is_terminal or "COLUMNS" in os.environ else _PIPE_WIDTH
    while sum(widths) + beside > most and widths != least:
        _, widest = max((width, place) for place, width in enumerate(widths) if width > least[place])
        widths[widest] -= 1
    for column, width in zip(table.columns, widths, strict=True):
        column.width = width
    table.width = sum(widths) + beside
    out.print(table, crop=False)


def print_result(video: str, result: Json) -> None:
    """A result document as a table of its detections."""
    out.print(video, soft_wrap=True)
    table = Table("start", "end", "score", "code", "action", "body part")
    for one in result["detections"]:
        table.add_row(
            f"{one['start_s']:.2f}", f"{one['end_s']:.2f}", f"{one['score']:.2f}",
            one["action"]["code"], one["action"]["name"], one["body"]["name"],
        )  # fmt: skip
    print_table(table)
    model, media = result["model"], result["media"]
    out.print(
        f"{media['duration_s']:.1f} s of {media['width']} x {media['height']}; "
        f"{model['bundle']} {model['version']} on {model['engine']}",
        soft_wrap=True,
    )
    tell_hidden(result)
    for warning in result["warnings"]:
        tell(f"{warning['code']}: {warning['detail']}", "yellow")


def tell_hidden(result: Json) -> None:
    """Print to standard error how many detections a result hides, the best of them, and how to show them."""
    hidden = result["hidden"]
    if hidden["cut_by_top_k"]:
        tell(f"Left out by top_k={result['settings']['top_k']}: {_detections(hidden['cut_by_top_k'])}.")
    if not hidden["count"]:
        return
    best, job_id, least = hidden["best"][0], result["job_id"], f"{hidden['from_score']:g}"
    remedy = f"/jobs/{job_id}/result?min_score={least}" if job_id else f"--min-score {least}"
    tell(
        f"Hidden: {_detections(hidden['count'])} with scores from {least} up to their thresholds. The best: "
        f"{best['action']['name']} ({best['action']['code']}) {best['score']:.2f} at {best['start_s']:.1f}-"
        f"{best['end_s']:.1f} s, shown from {best['threshold']:.2f} on. To see them: {remedy}"
    )


def _detections(count: int) -> str:
    return f"{count} detection{'s' * (count != 1)}"


def write(text: str, path: Path | None) -> None:
    """A document to a file, or alone to standard output: UTF-8, whatever the terminal's encoding is.

    What stands for bytes of a file name that are not UTF-8 is escaped as in JSON (\\udcff).
    """
    content = f"{text}\n".encode("utf-8", "backslashreplace")
    if path is None:
        sys.stdout.flush()
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
    else:
        write_file(path, content)


def write_file(path: Path, content: bytes) -> None:
    """Write a file as a whole or not at all: under another name first, then renamed.

    What is no file, such as a pipe or /dev/null, is written to as it is.
    """
    if path.exists() and not path.is_file():
        path.write_bytes(content)
        return
    with _aside(path) as (aside, target):
        aside.write_bytes(content)
        if target.exists():
            aside.chmod(target.stat().st_mode & 0o777)
        aside.replace(target)


def check_writable(path: Path) -> None:
    """Whether write_file could write there; raises OSError if not."""
    if path.exists() and not path.is_file():
        path.open("ab").close()
        return
    with _aside(path) as (aside, _):
        aside.touch()


@contextmanager
def _aside(path: Path) -> Iterator[tuple[Path, Path]]:
    """A temporary name in the folder of a file, and the file with links resolved; errors name the file."""
    target = path.resolve()
    aside = target.with_name(f".mmad-{uuid4().hex[:12]}")  # short, as the length of names is limited
    try:
        if not target.parent.is_dir():
            raise FileNotFoundError(ENOENT, f"there is no folder {target.parent}")
        yield aside, target
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        with suppress(OSError):
            aside.unlink(missing_ok=True)


def escape_unencodable() -> None:
    """Make both standard streams escape characters that the terminal's encoding lacks."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


@contextmanager
def failing_on(*kinds: type[Exception]) -> Iterator[None]:
    """Expected errors end the command with status 1 and their own sentence."""
    try:
        yield
    except kinds as error:
        fail(reason(error))


def reason(error: Exception, about: Path | None = None) -> str:
    """An error as a sentence: without the error number and file name of an OSError."""
    if isinstance(error, OSError) and error.strerror:
        named = error.filename is not None and str(error.filename) != str(about)
        return f"{error.filename}: {error.strerror}" if named else error.strerror
    return str(error) or type(error).__name__


def tell(message: str, style: str = "") -> None:
    """A note to standard error."""
    notes.print(message, style=style, soft_wrap=True)


def fail(message: str, status: int = 1) -> NoReturn:
    """End the command."""
    tell(message, "red")
    raise typer.Exit(status)
