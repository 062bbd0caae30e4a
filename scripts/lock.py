"""Write and check the lock files, which pin every package with hashes for all supported Pythons.

`requirements/all.txt` is resolved for all extras and Pythons at once. The other files are subsets, one for each set of
extras that is installed by itself: `pip install --require-hashes --no-deps -r requirements/serve.txt`. They omit torch
and its CUDA packages, whose builds differ between machines; the release of torch is pinned in pyproject.toml.

    python scripts/lock.py              update the files after changes of pyproject.toml (make lock)
    python scripts/lock.py --upgrade    upgrade all packages to their newest releases
    python scripts/lock.py --check      check the files against pyproject.toml, and that every extra has wheels
"""

import argparse
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "requirements"
PROJECT = ROOT / "pyproject.toml"
# The sets that make and the Dockerfiles install.
SETS = ("api", "worker", "serve", "gpu", "dev")
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
# The base images, Debian and Ubuntu 24.04, have a newer glibc than this.
PLATFORM = "x86_64-manylinux_2_28"
_TORCH_PACKAGES = re.compile(r"^(torch|triton|(?:nvidia|cuda)-[a-z0-9-]+)==", re.MULTILINE)


class LockError(Exception):
    """The requirements cannot be resolved; the message is the resolver's."""


def compile_requirements(*options: str) -> None:
    """Run `uv pip compile` on pyproject.toml; raises LockError."""
    command = [_find_uv(), "pip", "compile", str(PROJECT), "--no-header", "--quiet", *options]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    if process.returncode:
        raise LockError(process.stderr.strip())


def write_lock(folder: Path, *options: str) -> None:
    """Write all.txt and its subsets into a folder; releases pinned in existing files are preferred."""
    universal = ("--universal", "--python-version", PYTHONS[0], "--generate-hashes", *options)
    all_file = folder / "all.txt"
    compile_requirements("--all-extras", *universal, "-o", str(all_file))
    torch = sorted(set(_TORCH_PACKAGES.findall(all_file.read_text())))
    without_torch = [word for name in torch for word in ("--no-emit-package", name)]
    for name in SETS:
        subset_file = folder / f"{name}.txt"
        compile_requirements(
            "--extra", name, *universal, "-c", str(all_file), *without_torch, "--no-annotate", "-o", str(subset_file)
        )


def find_stale(folder: Path) -> Iterator[str]:
    """Yield names of lock files that do not match pyproject.toml."""
    with TemporaryDirectory() as scratch:
        fresh = Path(shutil.copytree(folder, Path(scratch) / "requirements"))
        write_lock(fresh)
        for path in sorted(fresh.glob("*.txt")):
            committed = folder / path.name
            if not committed.exists() or _pins(committed) != _pins(path):
                yield path.name


def find_missing_wheels(extras: list[str]) -> Iterator[str]:
    """Yield a message for each extra that cannot be installed from wheels on a Python."""
    for python in PYTHONS:
        for extra in extras:
            options = (
                "--extra", extra, "--python-version", python, "--python-platform", PLATFORM,
                "--only-binary", ":all:", "-c", str(FOLDER / "all.txt"), "-o", "/dev/null",
            )  # fmt: skip
            try:
                with suppress(LockError):  # uv's cache lacks a package
                    compile_requirements("--offline", *options)
                    continue
                compile_requirements(*options)
            except LockError as error:
                yield f"{extra} on Python {python}: {error}"


def _pins(path: Path) -> list[str]:
    """Return the lines of a lock file without comments and empty lines."""
    return [line for line in path.read_text().splitlines() if line and not line.lstrip().startswith("#")]


def _find_uv() -> str:
    installed = Path(sys.executable).with_name("uv")
    uv = str(installed) if installed.exists() else shutil.which("uv")
    if uv is None:
        raise LockError("there is no uv: pip install uv, or make lock, which installs it")
    return uv


def main() -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--upgrade", action="store_true", help="upgrade all packages")
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit with status 1 if files are outdated or wheels missing"
    )
    arguments = parser.parse_args()
    extras = list(tomllib.loads(PROJECT.read_text())["project"]["optional-dependencies"])
    try:
        if not arguments.check:
            FOLDER.mkdir(exist_ok=True)
            write_lock(FOLDER, *(["--upgrade"] if arguments.upgrade else []))
            return 0
        problems = [f"requirements/{name} does not fit pyproject.toml: make lock" for name in find_stale(FOLDER)]
        problems += find_missing_wheels(extras)
    except LockError as error:
        print(error, file=sys.stderr)
        return 1
    print("\n".join(problems) or f"the lock fits: {len(extras)} extras on Python {', '.join(PYTHONS)}")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
