"""What people see: documents on standard output; notes, errors and progress on standard error."""

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
    tell_hidden(result)
    for warning in result["warnings"]:
        tell(f"{warning['code']}: {warning['detail']}", "yellow")


def tell_hidden(result: Json) -> None:
    """On standard error: what a result document leaves out, the best of it, and how to see it."""
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
    """A document to a file, or alone to standard output."""
    if path is None:
        sys.stdout.write(text + "\n")
    else:
        path.write_text(text + "\n", encoding="utf-8")


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
