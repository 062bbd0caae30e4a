"""A sandbox that notes how much memory each of its processes took at most; tests start it in the place of model.sandbox.forkserver.

python -m tests.measured NOTES CONTROL
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from model.sandbox import forkserver, sandbox
from model.sandbox.sandbox import Sandbox

_wait4 = os.wait4


class MeasuredSandbox(Sandbox):
    """Decodes as a worker's does."""

    notes: Path

    def peaks_mib(self) -> list[int]:
        """Resident memory at most, of each process that has ended."""
        return [int(line) // 1024 for line in self.notes.read_text().split()]


@contextmanager
def measured_sandbox(folder: Path) -> Iterator[MeasuredSandbox]:
    notes, program = folder / "peaks", sandbox.PROGRAM
    notes.touch()
    sandbox.PROGRAM = ("-P", "-m", "tests.measured", str(notes))
    try:
        made = MeasuredSandbox()
    finally:
        sandbox.PROGRAM = program
    made.notes = notes
    try:
        yield made
    finally:
        made.close()


def main() -> None:
    notes = Path(sys.argv.pop(1))

    def wait4(pid: int, options: int) -> Any:
        ended = _wait4(pid, options)
        with notes.open("a") as file:
            file.write(f"{ended[2].ru_maxrss}\n")
        return ended

    forkserver.os.wait4 = wait4
    forkserver.main()


if __name__ == "__main__":
    main()
