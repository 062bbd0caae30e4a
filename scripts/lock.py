"""Writes and checks the lock: which release of every package is installed, with its hashes, on every supported Python.

`requirements/all.txt` is resolved for all extras and Pythons at once. The other files are its parts, one for each set
that is installed by itself: `pip install --require-hashes --no-deps -r requirements/serve.txt`. They leave out torch
and its CUDA packages, whose builds differ between machines: torch's release is pinned in pyproject.toml.

    python scripts/lock.py              resolve anew what pyproject.toml has changed (make lock)
    python scripts/lock.py --upgrade    take the newest releases
    python scripts/lock.py --check      do the files fit pyproject.toml, and has every extra wheels for every Python?
"""

import argparse
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "requirements"
PROJECT = ROOT / "pyproject.toml"
# What make and the Docker files install.
SETS = ("api", "worker", "serve", "gpu", "dev")
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
# Debian 12 and Ubuntu 24.04, the images' systems, have a newer glibc than this.
PLATFORM = "x86_64-manylinux_2_28"
_OF_TORCH = re.compile(r"^(torch|triton|(?:nvidia|cuda)-[a-z0-9-]+)==", re.MULTILINE)


class LockError(Exception):
    """The requirements cannot be resolved; the text is the resolver's."""


def compile_requirements(*options: str) -> None:
    """Run `uv pip compile` on pyproject.toml; raises LockError."""
    command = [_uv(), "pip", "compile", str(PROJECT), "--no-header", "--quiet", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LockError(done.stderr.strip())


def write_lock(folder: Path, *options: str) -> None:
    """Write all.txt and its parts into a folder; releases in files that are there already are kept where they fit."""
    universal = ("--universal", "--python-version", PYTHONS[0], "--generate-hashes", *options)
    whole = folder / "all.txt"
    compile_requirements("--all-extras", *universal, "-o", str(whole))
    torch = sorted(set(_OF_TORCH.findall(whole.read_text())))
    without = [word for name in torch for word in ("--no-emit-package", name)]
    for name in SETS:
        part = folder / f"{name}.txt"
        compile_requirements(
            "--extra", name, *universal, "-c", str(whole), *without, "--no-annotate", "-o", str(part)
        )


def find_stale(folder: Path) -> Iterator[str]:
    """Names of the files that pyproject.toml would make otherwise."""
    with TemporaryDirectory() as made:
        fresh = Path(shutil.copytree(folder, Path(made) / "requirements"))
        write_lock(fresh)
        for path in sorted(fresh.glob("*.txt")):
            committed = folder / path.name
            if not committed.exists() or _pins(committed) != _pins(path):
                yield path.name


def find_missing_wheels(extras: list[str]) -> Iterator[str]:
    """Extras that cannot be installed from wheels on a Python, as sentences."""
    for python in PYTHONS:
        for extra in extras:
            options = (
                "--extra", extra, "--python-version", python, "--python-platform", PLATFORM,
                "--only-binary", ":all:", "-c", str(FOLDER / "all.txt"), "-o", "/dev/null",
            )  # fmt: skip
            try:
                _compile_from_cache(*options)
            except LockError as error:
                yield f"{extra} on Python {python}: {error}"


def _compile_from_cache(*options: str) -> None:
    """As compile_requirements, from uv's cache if it holds everything."""
    try:
        compile_requirements("--offline", *options)
    except LockError:
        compile_requirements(*options)


def _pins(path: Path) -> list[str]:
    """The lines of a lock file that pip reads."""
    return [line for line in path.read_text().splitlines() if line and not line.lstrip().startswith("#")]


def _uv() -> str:
    beside = Path(sys.executable).with_name("uv")
    found = str(beside) if beside.exists() else shutil.which("uv")
    if found is None:
        raise LockError("there is no uv: pip install uv, or make lock, which installs it")
    return found


def main() -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--upgrade", action="store_true", help="take the newest releases")
    parser.add_argument(
        "--check", action="store_true", help="write nothing; status 1 where something does not fit"
    )
    given = parser.parse_args()
    extras = list(tomllib.loads(PROJECT.read_text())["project"]["optional-dependencies"])
    try:
        if not given.check:
            FOLDER.mkdir(exist_ok=True)
            write_lock(FOLDER, *(["--upgrade"] if given.upgrade else []))
            return 0
        faults = [
            f"requirements/{name} does not fit pyproject.toml: make lock" for name in find_stale(FOLDER)
        ]
        faults += find_missing_wheels(extras)
    except LockError as error:
        print(error, file=sys.stderr)
        return 1
    print("\n".join(faults) or f"the lock fits: {len(extras)} extras on Python {', '.join(PYTHONS)}")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
