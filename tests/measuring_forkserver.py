"""A forkserver that records the peak memory of each decoder process; tests run it instead of model.sandbox.forkserver.

python -m tests.measuring_forkserver PEAKS_FILE CONTROL
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
    """Sandbox with a measuring forkserver."""

    peaks_file: Path

    def peaks_mib(self) -> list[int]:
        """Return the peak resident memory of each ended process, in MiB."""
        return [int(line) // 1024 for line in self.peaks_file.read_text().split()]


@contextmanager
def measured_sandbox(folder: Path) -> Iterator[MeasuredSandbox]:
    peaks_file, program = folder / "peaks", sandbox.PROGRAM
    peaks_file.touch()
    sandbox.PROGRAM = ("-P", "-m", "tests.measuring_forkserver", str(peaks_file))
    try:
        measured = MeasuredSandbox()
    finally:
        sandbox.PROGRAM = program
    measured.peaks_file = peaks_file
    try:
        yield measured
    finally:
        measured.close()


def main() -> None:
    peaks_file = Path(sys.argv.pop(1))

    def wait4(pid: int, options: int) -> Any:
        ended = _wait4(pid, options)
        with peaks_file.open("a") as file:
            file.write(f"{ended[2].ru_maxrss}\n")
        return ended

    forkserver.os.wait4 = wait4
    forkserver.main()


if __name__ == "__main__":
    main()
