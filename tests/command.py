"""Runs commands of `mmad`, in this process or, where the test is about that, in one of their own."""

import logging
import os
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import structlog
from typer.testing import CliRunner

from mmad import logs
from mmad.cli import app


def mmad(*arguments: str | Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run a command in this process; returns its exit status and output as subprocess.run does.

    Raises whatever would end the command with a traceback.
    """
    configuration = structlog.get_config()
    with patch("logging.basicConfig"):  # pytest's handlers stay
        logs.configure("text", logging.WARNING)  # as mmad.cli.main does
    try:
        ended = CliRunner().invoke(app, [str(argument) for argument in arguments], env=environment)
    finally:
        structlog.configure(**configuration)
    if ended.exception is not None and not isinstance(ended.exception, SystemExit):
        raise ended.exception
    return subprocess.CompletedProcess(arguments, ended.exit_code, ended.stdout, ended.stderr)


def mmad_process(*arguments: str | Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run a command in a process of its own, which takes a second or more to import its modules."""
    command = [sys.executable, "-m", "mmad", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=False, env=os.environ | environment
    )
