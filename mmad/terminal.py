"""Terminal output: documents and tables on standard output; notes, errors and progress on standard error."""

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

# No markup or emoji: file names may contain [red] or :smile:.
out = Console(markup=False, emoji=False, highlight=False)
notes = Console(stderr=True, markup=False, emoji=False, highlight=False)

# Without a terminal: seconds before the first line of progress, and between further lines.
_FIRST_LINE_S, _EACH_LINE_S = 3.0, 5.0
# Columns of a table without a terminal; an upper bound for measuring.
_PIPE_WIDTH, _UNLIMITED_WIDTH = 120, 10_000
# Columns of the progress bar and of the times beside it.
_BAR_WIDTH, _TIMES_WIDTH = 20, 35
# The remaining time is estimated from the last five minutes, as progress is uneven.
_ESTIMATE_S = 300.0

Show = Callable[[str, float], None]


@contextmanager
def progress_bar(name: str) -> Iterator[Show]:
    """Show progress on standard error: a bar in a terminal, otherwise a line every few seconds.

    Yields a function to call with the current stage and the fraction done, 0..1.
    """
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=_BAR_WIDTH),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    is_terminal = notes.is_interactive and sys.stderr.isatty()
    progress = Progress(
        *columns, console=notes, transient=True, disable=not is_terminal, speed_estimate_period=_ESTIMATE_S
    )
    task_id = progress.add_task(name, total=1.0)

    def show(stage: str, fraction: float) -> None:
        description = f"{name}: {stage}"
        if is_terminal:
            description = _shorten(name, stage, max(notes.width - _BAR_WIDTH - _TIMES_WIDTH, _BAR_WIDTH))
        progress.update(task_id, description=description, completed=fraction)

    with progress if is_terminal else _print_periodically(progress.tasks[0]):
        yield show


def _shorten(name: str, stage: str, width: int) -> str:
    """Join name and stage, shortened to `width` columns."""
    short = Text(name)
    short.truncate(max(width - cell_len(stage) - 2, width // 2), overflow="ellipsis")
    both = Text(f"{short.plain}: {stage}")
    both.truncate(width, overflow="ellipsis")
    return both.plain


@contextmanager
def _print_periodically(task: Task) -> Iterator[None]:
    """Print a task's progress every few seconds, from a thread, as the work may not report progress for a while."""
    ended = threading.Event()

    def print_lines() -> None:
        wait_s = _FIRST_LINE_S
        while not ended.wait(wait_s):
            print_status(_format_progress(task))
            wait_s = _EACH_LINE_S

    printer = threading.Thread(target=print_lines, daemon=True)
    printer.start()
    try:
        yield
    finally:
        ended.set()
        printer.join()


def _format_progress(task: Task) -> str:
    """Format progress like "film.mp4: detecting, 40 %, 1:20 left"."""
    left_s = task.time_remaining
    left = "" if left_s is None else f", {_format_clock(left_s)} left"
    return f"{task.description}, {task.percentage:.0f} %{left}"


def _format_clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def print_table(table: Table) -> None:
    """Print a table without cutting words; it may be wider than the terminal."""
    table.box, table.show_edge, table.pad_edge, table.collapse_padding = box.SIMPLE_HEAD, False, False, True
    wide = out.options.update(max_width=_UNLIMITED_WIDTH, width=_UNLIMITED_WIDTH)
    sizes = [measure_renderables(out, wide, [one.header, *one.cells]) for one in table.columns]
    widths = [size.maximum for size in sizes]
    padding = Measurement.get(out, wide, table).maximum - sum(widths)
    minima = [size.minimum for size in sizes]
    limit = out.width if out.is_terminal or "COLUMNS" in os.environ else _PIPE_WIDTH
    while sum(widths) + padding > limit and widths != minima:
        _, widest = max((width, index) for index, width in enumerate(widths) if width > minima[index])
        widths[widest] -= 1
    for column, width in zip(table.columns, widths, strict=True):
        column.width = width
    table.width = sum(widths) + padding
    out.print(table, crop=False)


def print_result(video: str, result: Json) -> None:
    """Print a result document as a table of its detections."""
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
    print_hidden(result)
    for warning in result["warnings"]:
        print_status(f"{warning['code']}: {warning['detail']}", "yellow")


def print_hidden(result: Json) -> None:
    """Print to standard error how many detections a result hides, the best one, and how to show them."""
    hidden = result["hidden"]
    if hidden["cut_by_top_k"]:
        print_status(f"Left out by top_k={result['settings']['top_k']}: {_count_detections(hidden['cut_by_top_k'])}.")
    if not hidden["count"]:
        return
    best, job_id, min_score = hidden["best"][0], result["job_id"], f"{hidden['from_score']:g}"
    remedy = f"/jobs/{job_id}/result?min_score={min_score}" if job_id else f"--min-score {min_score}"
    print_status(
        f"Hidden: {_count_detections(hidden['count'])} with scores from {min_score} up to their thresholds. The best: "
        f"{best['action']['name']} ({best['action']['code']}) {best['score']:.2f} at {best['start_s']:.1f}-"
        f"{best['end_s']:.1f} s, shown from {best['threshold']:.2f} on. To see them: {remedy}"
    )


def _count_detections(count: int) -> str:
    return f"{count} detection{'s' * (count != 1)}"


def write(text: str, path: Path | None) -> None:
    """Write a document to a file, or to standard output if `path` is None; always in UTF-8.

    Surrogates, which stand for bytes of file names that are not UTF-8, are escaped as in JSON (\\udcff).
    """
    content = f"{text}\n".encode("utf-8", "backslashreplace")
    if path is None:
        sys.stdout.flush()
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
    else:
        write_file(path, content)


def write_file(path: Path, content: bytes) -> None:
    """Write a file atomically: under a temporary name first, then renamed.

    A path that is not a regular file, such as a pipe or /dev/null, is written to directly.
    """
    if path.exists() and not path.is_file():
        path.write_bytes(content)
        return
    with _temporary_name(path) as (temporary, target):
        temporary.write_bytes(content)
        if target.exists():
            temporary.chmod(target.stat().st_mode & 0o777)
        temporary.replace(target)


def check_writable(path: Path) -> None:
    """Raise OSError if write_file could not write this file."""
    if path.exists() and not path.is_file():
        path.open("ab").close()
        return
    with _temporary_name(path) as (temporary, _):
        temporary.touch()


@contextmanager
def _temporary_name(path: Path) -> Iterator[tuple[Path, Path]]:
    """Yield a temporary path in the folder of a file, and the file with links resolved; errors name the file."""
    target = path.resolve()
    temporary = target.with_name(f".mmad-{uuid4().hex[:12]}")  # short: file systems limit names
    try:
        if not target.parent.is_dir():
            raise FileNotFoundError(ENOENT, f"there is no folder {target.parent}")
        yield temporary, target
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def escape_unencodable() -> None:
    """Make standard output and error escape characters that the terminal's encoding lacks."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


@contextmanager
def exit_on(*error_types: type[Exception]) -> Iterator[None]:
    """Exit with status 1 and the error's message when an error of these error_types is raised."""
    try:
        yield
    except error_types as error:
        fail(format_error(error))


def format_error(error: Exception, about: Path | None = None) -> str:
    """Return the message of an error. That of an OSError lacks the number, and the file name if it is `about`."""
    if isinstance(error, OSError) and error.strerror:
        named = error.filename is not None and str(error.filename) != str(about)
        return f"{error.filename}: {error.strerror}" if named else error.strerror
    return str(error) or type(error).__name__


def print_status(message: str, style: str = "") -> None:
    """Print a message to standard error."""
    notes.print(message, style=style, soft_wrap=True)


def fail(message: str, status: int = 1) -> NoReturn:
    """Print a message in red and exit."""
    print_status(message, "red")
    raise typer.Exit(status)
