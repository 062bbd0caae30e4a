"""The command line: commands of mmad.commands under one application, and its entry point."""

import logging
import os
import sys
from importlib.metadata import version
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from typer.core import TyperGroup

from mmad import logs
from mmad.commands import bench, bundle, detect, evaluate, jobs, keys, measure, serve, submit, synth, train
from mmad.terminal import escape_unencodable, tell, write

_KEEPS_VIDEOS = ("serve", "api", "worker", "jobs")


class _Commands(TyperGroup):
    """Commands whose errors name the value that was given."""

    def invoke(self, ctx: Any) -> Any:
        """See typer; raises BadParameter."""
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            if isinstance(error.__cause__, ValidationError):
                given = repr(error.__cause__.errors()[0]["input"])
                words = error.message.removeprefix("Value error, ")
                error.message = words if given in words else f"{given}: {words[:1].lower()}{words[1:]}"
            raise


app = typer.Typer(
    name="mmad",
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for commands in (serve, detect, submit, bundle, evaluate, measure, synth, train, bench):
    app.add_typer(commands.app)
app.add_typer(bundle.group, name="bundle")
app.add_typer(jobs.app, name="jobs")
app.add_typer(keys.app, name="keys")


def _print_version(asked: bool) -> None:
    if asked:
        write(f"mmad {version('mmad')}", None)
        raise typer.Exit


@app.callback()
def options(
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    """Finds every micro-action in a video of a person: what, when, several at once."""


def main() -> None:
    """Entry point of the `mmad` command."""
    if sys.argv[1:2] and sys.argv[1] in _KEEPS_VIDEOS:
        os.umask(0o077)  # people's videos are for the service's own eyes
    escape_unencodable()
    logs.configure("text", logging.WARNING)  # services log more, once they have read their settings
    try:
        app()
    except ImportError as error:
        tell(
            f"this command needs more than is installed ({error}): pip install 'mmad[serve]', [synth] for synth, "
            "[train] for training and export",
            "red",
        )
        sys.exit(1)
