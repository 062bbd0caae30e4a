"""Terminal output: documents and tables on standard output; notes, errors and progress on standard error."""

import io
import json
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import NoReturn

import typer
from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.measure import measure_renderables
from rich.progress import BarColumn, Progress, Task, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column, Table
from rich.text import Text

from mmad.files import replace_file
from mmad.models import Json

# No markup or emoji: file names may contain [red] or :smile:.
out = Console(markup=False, emoji=False, highlight=False)
notes = Console(stderr=True, markup=False, emoji=False, highlight=False)

# Without a terminal: seconds before the first line of progress, and between further lines.
_FIRST_LINE_S, _EACH_LINE_S = 3.0, 5.0
# Columns of a table without a terminal.
_PIPE_WIDTH = 120
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
    is_terminal = notes.is_interactive and sys.stderr.isatty()
    progress = Progress(
        TextColumn("{task.description}", markup=False), BarColumn(bar_width=_BAR_WIDTH),
        TextColumn("{task.percentage:>3.0f} %"), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
        console=notes, transient=True, disable=not is_terminal, speed_estimate_period=_ESTIMATE_S,
    )  # fmt: skip
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
    """Print "film.mp4: detecting, 40 %, 0:01:20 left" every few seconds, from a thread, as the work may pause."""
    ended = threading.Event()

    def print_lines() -> None:
        wait_s = _FIRST_LINE_S
        while not ended.wait(wait_s):
            left_s = task.time_remaining
            left = "" if left_s is None else f", {timedelta(seconds=round(left_s))} left"
            print_status(f"{task.description}, {task.percentage:.0f} %{left}")
            wait_s = _EACH_LINE_S

    printer = threading.Thread(target=print_lines, daemon=True)
    printer.start()
    try:
        yield
    finally:
        ended.set()
        printer.join()


def print_table(columns: Sequence[str | Column], rows: Iterable[Sequence[object]], title: str | None = None) -> None:
    """Print a table without cutting words; it may be wider than the terminal.

    Without columns, it has no header. An empty row is a line. Values that are no strings are printed as JSON.
    """
    table = Table(
        *columns, title=title, show_header=bool(columns), box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False,
        collapse_padding=True,
    )  # fmt: skip
    for row in rows:
        if row:
            table.add_row(*(one if isinstance(one, str) else json.dumps(one, ensure_ascii=False) for one in row))
        else:
            table.add_section()
    width = out.width if out.is_terminal or "COLUMNS" in os.environ else _PIPE_WIDTH
    console = Console(file=out.file, width=width, markup=False, emoji=False, highlight=False)
    for column in table.columns:
        column.min_width = measure_renderables(console, console.options, [column.header, *column.cells]).minimum
    console.print(table, crop=False)


def print_result(video: str, result: Json) -> None:
    """Print a result document as a table of its detections."""
    out.print(video, soft_wrap=True)
    rows = [
        (
            *(f"{one[name]:.2f}" for name in ("start_s", "end_s", "score")),
            one["action"]["code"], one["action"]["name"], one["body"]["name"],
        )
        for one in result["detections"]
    ]  # fmt: skip
    print_table(("start", "end", "score", "code", "action", "body part"), rows)
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


def write(text: str, path: Path | None = None) -> None:
    """Write a document to a file, or to standard output if `path` is None; always in UTF-8.

    Surrogates, which stand for bytes of file names that are not UTF-8, are escaped as in JSON (\\udcff).
    """
    write_bytes(f"{text}\n".encode("utf-8", "backslashreplace"), path)


def write_json(document: object, path: Path | None = None) -> None:
    """Write a JSON document as `write` does."""
    write(json.dumps(document, ensure_ascii=False, indent=1), path)


def write_bytes(content: bytes, path: Path | None = None) -> None:
    """Write a file whole or not at all, or to standard output if `path` is None."""
    if path is None:
        sys.stdout.flush()
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
        return
    with replace_file(path) as file:
        file.write(content)


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
