"""Run `mmad` commands in this process or in a separate one."""

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
    """Run a command in this process and return its exit status and output; unexpected exceptions are raised."""
    configuration = structlog.get_config()
    with patch("logging.basicConfig"):  # preserve pytest's handlers
        logs.configure("text", logging.WARNING)  # as mmad.cli.main does
    try:
        result = CliRunner().invoke(app, [str(argument) for argument in arguments], env=environment)
    finally:
        structlog.configure(**configuration)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return subprocess.CompletedProcess(arguments, result.exit_code, result.stdout, result.stderr)


def mmad_process(*arguments: str | Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run a command in a separate process, which takes a second or more to import its modules."""
    command = [sys.executable, "-m", "mmad", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=False, env=os.environ | environment
    )
