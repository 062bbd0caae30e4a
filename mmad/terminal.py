"""What people see: documents on standard output; notes, errors and progress on standard error."""

import io
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from mmad.client import Json

out = Console()
notes = Console(stderr=True)


@contextmanager
def bar(name: str) -> Iterator[Callable[[str, float], None]]:
    """A progress bar on standard error; yields what to call with stage and fraction."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=notes, transient=True) as progress:
        task = progress.add_task(name, total=1.0)
        yield lambda stage, fraction: progress.update(
            task, description=f"{name}: {stage}", completed=fraction
        )


def print_result(video: str, result: Json) -> None:
    """A result document as a table of its detections."""
    table = Table("start", "end", "score", "code", "action", "body part", title=video)
    for one in result["detections"]:
        table.add_row(
            f"{one['start_s']:.2f}", f"{one['end_s']:.2f}", f"{one['score']:.2f}",
            one["action"]["code"], one["action"]["name"], one["body"]["name"],
        )  # fmt: skip
    out.print(table)
    model, media = result["model"], result["media"]
    out.print(
        f"{media['duration_s']:.1f} s of {media['width']} x {media['height']}; "
        f"{model['bundle']} {model['version']} on {model['engine']}",
        highlight=False,
    )
    for warning in result["warnings"]:
        tell(f"{warning['code']}: {warning['detail']}", "yellow")


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
        path.write_bytes(content)


def escape_unencodable() -> None:
    """Let both streams show characters that the terminal's encoding lacks as escapes, and not fail."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


@contextmanager
def failing_on(*kinds: type[Exception]) -> Iterator[None]:
    """Expected errors end the command with status 1 and their own sentence."""
    try:
        yield
    except kinds as error:
        fail(str(error))


def tell(message: str, style: str = "") -> None:
    """To standard error, as it is: square brackets are no markup."""
    notes.print(message, style=style, markup=False, highlight=False, soft_wrap=True)


def fail(message: str, status: int = 1) -> NoReturn:
    """End the command."""
    tell(message, "red")
    raise typer.Exit(status)
