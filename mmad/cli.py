"""The command line application: the commands of mmad.commands and the entry point."""

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
from mmad.terminal import escape_unencodable, print_status, write

# Commands that write videos to the store.
_STORING_COMMANDS = ("serve", "api", "worker", "jobs")


class _Commands(TyperGroup):
    """Command group whose usage errors name the invalid value."""

    def invoke(self, ctx: Any) -> Any:
        """Invoke a command; raises BadParameter with the invalid value in its message."""
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            if isinstance(error.__cause__, ValidationError):
                given = repr(error.__cause__.errors()[0]["input"])
                message = error.message.removeprefix("Value error, ")
                error.message = message if given in message else f"{given}: {message[:1].lower()}{message[1:]}"
            raise


app = typer.Typer(
    name="mmad", cls=_Commands, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
)
for commands in (serve, detect, submit, bundle, evaluate, measure, synth, train, bench):
    app.add_typer(commands.app)
app.add_typer(bundle.group, name="bundle")
app.add_typer(jobs.app, name="jobs")
app.add_typer(keys.app, name="keys")


def _print_version(value: bool) -> None:
    if value:
        write(f"mmad {version('mmad')}")
        raise typer.Exit


@app.callback()
def options(
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Find every micro-action in a video of a person: its class, start and end, several at once."""


def main() -> None:
    """Entry point of the `mmad` command."""
    if sys.argv[1:2] and sys.argv[1] in _STORING_COMMANDS:
        os.umask(0o077)  # only this user may read the videos
    escape_unencodable()
    logs.configure("text", logging.WARNING)  # commands that run services set their own level
    try:
        app()
    except ImportError as error:
        print_status(
            f"this command needs more than is installed ({error}): pip install 'mmad[serve]', [synth] for synth, "
            "[train] for training and export",
            "red",
        )
        sys.exit(1)
