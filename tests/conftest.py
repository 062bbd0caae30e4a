"""Shared fixtures: bundles, clips, reference values of public code, and a running service."""

import fcntl
import hashlib
import os
import pickle
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any, TextIO, cast

import fastapi
import pytest
import structlog

# Small networks run fastest in one thread, and two test processes share two cores. Torch reads this when imported.
os.environ["OMP_NUM_THREADS"] = "1"

import torch
import yaml
from redis import Redis
from starlette.testclient import TestClient

from mmad.benchmark import write_clip
from mmad.client import Client
from mmad.private_redis import private_redis
from model.architecture import HeadConfig
from model.bundle import Bundle
from model.head import ActionFormer
from service.app import build_app, openapi_yaml
from service.app_state import AppState
from service.auth import Auth
from service.queue import connect
from service.settings import Settings
from service.store import FolderStore
from tests.fake_service import RecordingQueue
from tests.untrained_bundle import make_bundle, make_small_bundle, no_graph_export


class _Stdout:
    """Writes to the current sys.stdout, which pytest's capture may close while another thread prints."""

    def write(self, text: str) -> int:
        return sys.stdout.write(text)

    def flush(self) -> None:
        sys.stdout.flush()


# Tracebacks without local variables, as in production: formatting those is slow.
structlog.configure(
    processors=[
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback),
    ],
    logger_factory=structlog.PrintLoggerFactory(cast(TextIO, _Stdout())),
)

# Tests and the processes that they start connect to this machine only: no proxies.
for _name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
    os.environ.pop(_name, None)
    os.environ.pop(_name.upper(), None)

HERE = Path(__file__).parent
SHARED = Path(__file__).resolve().parents[2] / "shared"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--campaign", action="store_true", help="run the long form of the tests of `make campaigns`")


@pytest.fixture(scope="session")
def campaign(request: pytest.FixtureRequest) -> bool:
    """True if pytest was called with --campaign: randomized tests then run more cases."""
    return bool(request.config.getoption("--campaign"))


@pytest.fixture(scope="session", autouse=True)
def openapi_generated_once() -> Iterator[None]:
    """Cache the OpenAPI document of each set of routes: generating it takes most of the time of creating an app."""
    generate, documents = fastapi.applications.get_openapi, dict[str, bytes]()

    def generate_once(**arguments: Any) -> dict[str, Any]:
        key = repr([getattr(route, "path", "included router") for route in arguments["routes"]])
        if key not in documents:
            documents[key] = pickle.dumps(generate(**arguments))
        document: dict[str, Any] = pickle.loads(documents[key])
        return document

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fastapi.applications, "get_openapi", generate_once)
        yield


@pytest.fixture(scope="session")
def api_description() -> dict[str, Any]:
    """The content of openapi.yaml, which takes seconds to parse."""
    description: dict[str, Any] = yaml.safe_load(openapi_yaml())
    return description


# Slow files run first, so that both test processes end at about the same time. Files that mostly wait for a service
# alternate with files that compute: the two processes take tests from this list in turn.
SLOWEST_FILES = [
    "test_faults",
    "test_export",
    "test_serve",
    "test_train",
    "test_sandbox",
    "test_sandbox_faults",
    "test_weights",
    "test_times",
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = {name: index for index, name in enumerate(SLOWEST_FILES)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))
    for item in items:
        if (marker := item.get_closest_marker("shared")) and not (SHARED / marker.args[0]).exists():
            item.add_marker(pytest.mark.skip(reason=f"shared/{marker.args[0]} is not beside this checkout"))


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Seed torch: networks do not depend on the order of tests."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def shared() -> Path:
    return SHARED


@pytest.fixture(scope="session", autouse=True)
def bundle(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Bundle]:
    """A small untrained bundle, the default of commands and services in tests."""
    if hasattr(request.config, "cache"):  # exporting takes as long as the tests of a whole file
        folder = request.config.cache.mkdir("mmad-bundles") / _hash_exporter()
        _make_locked(folder, make_bundle)
    else:
        folder = _make_once(tmp_path_factory, "untrained", make_bundle)
    bundle = Bundle.load(folder)
    os.environ["MMAD_BUNDLE"] = str(bundle.folder)
    yield bundle
    del os.environ["MMAD_BUNDLE"]


@pytest.fixture(scope="session")
def small_bundle(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Bundle]:
    """Return the small bundle with an adapter of a given kind; see small_manifest."""

    def load(kind: str) -> Bundle:
        name = f"small-{kind}"
        return Bundle.load(_make_once(tmp_path_factory, name, lambda folder: make_small_bundle(folder, kind)))

    return load


@pytest.fixture(scope="session")
def pose_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a small untrained bundle with a pose backbone, that runs in torch only."""
    from tests.pose_runs import make_pose_bundle  # a slow import that few tests need

    return _make_once(tmp_path_factory, "pose", make_pose_bundle)


@pytest.fixture(scope="session")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of rendered people with frames, shared by all tests: do not change it."""
    from tests.pose_runs import make_people  # a slow import that few tests need

    return _make_once(tmp_path_factory, "people", make_people)


@pytest.fixture
def without_graphs() -> Iterator[None]:
    """Write bundles without a graph; see no_graph_export."""
    with no_graph_export():
        yield


def _make_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """Create a folder once for all pytest-xdist processes."""
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    _make_locked(folder, make)
    return folder


def _make_locked(folder: Path, make: Callable[[Path], object]) -> None:
    """Create a folder atomically unless it exists."""
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
                make(Path(temporary) / folder.name)
                (Path(temporary) / folder.name).rename(folder)


def _hash_exporter() -> str:
    """Hash what an exported bundle depends on."""
    root = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in (
        *sorted((root / "model").rglob("*.py")),
        root / "training/labels/mma52.json",
        HERE / "untrained_bundle.py",
    ):
        digest.update(path.read_bytes())
    for package in ("torch", "onnx", "onnxscript", "onnx-ir", "onnxruntime", "openvino", "safetensors", "numpy"):
        digest.update(f"{package} {version(package)}".encode())
    return digest.hexdigest()[:16]


@pytest.fixture(scope="session")
def shipped() -> Bundle:
    return Bundle.load(Path(str(files("bundles") / "demo")))


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A five-second video with motion."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    write_clip(path, seconds=5, width=320, height=240)
    return path


@dataclass
class Service:
    process: "subprocess.Popen[bytes]"
    url: str
    data_dir: Path
    log: Path

    def stop(self, stop_signal: signal.Signals = signal.SIGINT) -> int:
        self.process.send_signal(stop_signal)
        return self.process.wait(120)

    def children(self) -> list[int]:
        """Return the process ids of all descendants of the service."""
        return descendants(self.process.pid)


def children(pid: int) -> list[int]:
    """Return the process ids of a process's children."""
    pids = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rsplit(")", 1)[1].split()[1])
        except OSError:  # the process has ended
            continue
        if parent == pid:
            pids.append(int(path.parent.name))
    return pids


def descendants(pid: int) -> list[int]:
    return [process_id for child in children(pid) for process_id in (child, *descendants(child))]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start_service(data_dir: Path, log: Path, **environment: str) -> Service:
    """Start `mmad serve` and wait until it is ready."""
    port = free_port()
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MMAD_", "REDIS_"))}
    clean["MMAD_BUNDLE"] = os.environ["MMAD_BUNDLE"]
    command = [sys.executable, "-m", "mmad", "serve", "--port", str(port), "--data-dir", str(data_dir)]
    with log.open("wb") as file:
        process = subprocess.Popen(command, stderr=file, stdout=file, env=clean | environment)
    service = Service(process, f"http://127.0.0.1:{port}", data_dir, log)
    wait_for(lambda: "mmad is ready" in log.read_text() or process.poll() is not None, seconds=90)
    assert process.poll() is None, log.read_text()
    return service


def wait_for(condition: Callable[[], object], seconds: float) -> None:
    """Wait until a condition is true; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"timed out after {seconds} s"
        time.sleep(0.05)


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("service")
    running = start_service(folder / "data", folder / "log", MMAD_MAX_DURATION_S="20", MMAD_MAX_UPLOAD_BYTES="8000000")
    yield running
    running.stop()


@pytest.fixture
def client(service: Service) -> Iterator[Client]:
    with Client(service.url) as client:
        yield client


@pytest.fixture(scope="module")
def reference(shared: Path) -> dict[str, Any]:
    """Inputs, intermediate values, targets, losses and results of a small ActionFormer, computed by public code."""
    if not (shared / "reference/actionformer.pt").exists():
        pytest.skip("shared/reference/actionformer.pt is not beside this checkout")
    values: dict[str, Any] = torch.load(shared / "reference/actionformer.pt", weights_only=True)
    return values


@pytest.fixture(scope="module")
def detector(reference: dict[str, Any]) -> ActionFormer:
    config = HeadConfig(channels=32, heads=4, embed_convs=3, stem_blocks=0, branch_blocks=5, path_dropout=0)
    detector = ActionFormer(config, features=384, actions=52).eval()
    weights = {name: value for name, value in reference["state_dict"].items() if name != "rpn_head.loss_normalizer"}
    detector.load_state_dict(weights)  # with the published names and shapes
    return detector


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with private_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server.url


@pytest.fixture
def connection(redis_url: str) -> Iterator[Redis]:
    """A connection to a real, empty Redis."""
    with connect(Settings(redis_url=redis_url), retries=0) as connection:
        connection.flushall()
        yield connection


@pytest.fixture
def app_state(tmp_path: Path) -> AppState:
    settings = Settings(
        data_dir=tmp_path, max_upload_bytes=10_000, max_batch_files=3, redis_url=f"unix://{tmp_path}/nothing"
    )
    store = FolderStore(settings.store_dir)
    return AppState(settings, store, RecordingQueue(store), Auth(settings, connect(settings, retries=0)))


@pytest.fixture
def api(app_state: AppState) -> Iterator[TestClient]:
    with TestClient(build_app(app_state), "http://127.0.0.1", raise_server_exceptions=False) as client:
        yield client
