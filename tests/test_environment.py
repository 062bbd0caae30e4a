"""Where mmad is started: variables of Kubernetes, users without a home, disks, terminals. It works or says why not."""

import errno
import fcntl
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import structlog
from typer import Exit

from mmad.local import StartError, _lock
from mmad.options import DETECT_SETTINGS, load_settings
from mmad.private_redis import find_redis_server
from service.files import lock
from service.queue import QueueError, check_redis
from service.settings import DEFAULT_PORT, NO_HOME, Settings
from service.store import FolderStore, StoreError
from tests.conftest import free_port, wait_for

PLAIN_C = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def mmad(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[bytes]":
    command = [sys.executable, "-m", "mmad", *arguments]
    return subprocess.run(command, capture_output=True, env=os.environ | environment, check=False, timeout=60)


@pytest.mark.parametrize("link", ["tcp://10.43.0.12:8000", "udp://10.43.0.12:53", "tcp://[fd00::1]:80"])
def test_kubernetes_port_is_no_port(monkeypatch: pytest.MonkeyPatch, link: str) -> None:
    monkeypatch.setenv("MMAD_PORT", link)
    assert Settings().port == DEFAULT_PORT
    told = mmad("api", MMAD_REDIS_URL="nonsense")
    assert link in told.stderr.decode()
    assert "enableServiceLinks" in told.stderr.decode()


def test_no_other_setting_is_named_as_kubernetes_names_services() -> None:
    for name in Settings.model_fields.keys() - {"port"}:
        assert not name.endswith(("_port", "_service_host", "_tcp", "_addr", "_proto"))
        assert "port_" not in name


def test_a_setting_that_is_not_read_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMAD_PORT", "abc")
    monkeypatch.setenv("MMAD_MAX_PIXELS", "12")
    settings = load_settings(DETECT_SETTINGS, engine="onnx")
    assert (settings.port, settings.max_pixels, settings.engine) == (DEFAULT_PORT, 12, "onnx")
    with pytest.raises(Exit):
        load_settings()
    with pytest.raises(Exit):
        load_settings(DETECT_SETTINGS, device="tpu")
    assert json.loads(mmad("labels", "--json", MMAD_PORT="abc").stdout)["actions"]


def test_a_list_that_is_no_json_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    found = mmad("api", MMAD_ALLOWED_HOSTS="example.org")
    assert (found.returncode, found.stderr.count(b"\n")) == (2, 1)
    assert b"allowed_hosts" in found.stderr


def test_a_user_without_a_home_detects_and_is_told_where_data_go(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("MMAD_DATA_DIR", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    assert load_settings(DETECT_SETTINGS).data_dir.is_relative_to(NO_HOME)
    with pytest.raises(Exit):
        load_settings()
    assert "set MMAD_DATA_DIR" in capsys.readouterr().err
    monkeypatch.setenv("MMAD_DATA_DIR", "/somewhere")
    assert load_settings().data_dir == Path("/somewhere")
    with pytest.raises(OSError):  # noqa: PT011 - whoever is asked, also root
        (NO_HOME / "mmad").mkdir(parents=True)


@pytest.mark.skipif(os.getuid() != 0 or not shutil.which("setpriv"), reason="only root can be another user")
def test_a_process_of_an_unknown_user() -> None:
    alone = ["--reuid=1000810000", "--regid=0", "--clear-groups"]
    reading = ["--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search"]
    start = ["setpriv", *alone, *reading, "env", "-i", f"PATH={os.environ['PATH']}", sys.executable, "-m", "mmad"]
    labels, serve = (
        subprocess.run([*start, *words], capture_output=True, check=False, timeout=60)
        for words in (["labels", "--json"], ["serve"])
    )
    assert json.loads(labels.stdout)["actions"], labels.stderr
    assert (serve.returncode, serve.stderr.count(b"\n")) == (1, 1)
    assert b"set MMAD_DATA_DIR" in serve.stderr


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_locks_is_not_another_mmad(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    real, local = fcntl.flock, tmp_path / "tmp"
    local.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(local))

    def flock(file: Any, how: int) -> None:
        """Only on the other file system."""
        where = os.readlink(f"/proc/self/fd/{file if isinstance(file, int) else file.fileno()}")
        if not where.startswith(str(local)):
            raise OSError(number, os.strerror(number))
        real(file, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    with structlog.testing.capture_logs() as lines, _lock(tmp_path / "data"):
        store = FolderStore(tmp_path / "data/store")
    assert [line["event"] for line in lines] == ["data_dir_without_locks", "store_without_locks"]
    [locks] = local.iterdir()
    assert locks.stat().st_mode & 0o777 == 0o700
    with (locks / "00").open("w") as file:
        assert lock(file)
    assert store.compare_and_swap("a", None, b"1")
    assert not store.compare_and_swap("a", None, b"2")
    assert FolderStore(tmp_path / "data/store")._locks == locks  # another process finds the same
    assert FolderStore(tmp_path / "other")._locks != locks


def test_another_mmad_is_told_from_other_faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with _lock(tmp_path), pytest.raises(StartError, match="another mmad serve"), _lock(tmp_path):
        pass

    def broken(*_: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(fcntl, "flock", broken)
    with pytest.raises(StartError, match="cannot lock .*Input/output error"), _lock(tmp_path):
        pass


@pytest.mark.parametrize("number", [errno.EROFS, errno.ENOSPC, errno.EACCES])
def test_a_store_that_cannot_be_written_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(StoreError, match=rf"{os.strerror(number)}.*MMAD_DATA_DIR"):
        FolderStore(tmp_path / "store")


@pytest.mark.parametrize("command", ["api", "worker"])
def test_a_data_dir_that_is_a_file_is_told(tmp_path: Path, redis_url: str, command: str) -> None:
    (tmp_path / "file").touch()
    found = mmad(command, MMAD_DATA_DIR=str(tmp_path / "file"), MMAD_REDIS_URL=redis_url)
    assert found.returncode == 1
    assert b"Traceback" not in found.stderr
    assert b"Not a directory" in found.stderr


@pytest.fixture
def locked_redis(tmp_path: Path) -> Any:
    """The port of one that wants a password, and of a replica of it."""
    ports = free_port(), free_port()
    options = [["--requirepass", "geheim"], ["--replicaof", "127.0.0.1", str(ports[0])]]
    servers = [
        subprocess.Popen(
            [find_redis_server(tmp_path), "--bind", "127.0.0.1", "--port", str(port), "--dir", str(tmp_path), "--save", "", *more],
            stdout=subprocess.DEVNULL,
        )
        for port, more in zip(ports, options, strict=True)
    ]  # fmt: skip
    try:
        yield ports
    finally:
        for server in servers:
            server.kill()
            server.wait()


def test_a_redis_that_cannot_be_used_is_told_without_the_password(locked_redis: tuple[int, int]) -> None:
    closed, replica = locked_redis

    def refused(url: str) -> str:
        with pytest.raises(QueueError) as caught:
            check_redis(Settings(redis_url=url))
        assert "geheim" not in str(caught.value)
        return str(caught.value)

    good = Settings(redis_url=f"redis://:geheim@127.0.0.1:{closed}")
    wait_for(lambda: check_redis(good) is None, seconds=20)
    for user in ("", ":geheim2@", "anna:geheim@"):
        assert "another user name or password" in refused(f"redis://{user}127.0.0.1:{closed}")
    assert "no database" in refused(f"redis://:geheim@127.0.0.1:{closed}/99")
    assert "a replica" in refused(f"redis://127.0.0.1:{replica}")
    assert "not an address" in refused("redis://:ge#heim@x:geheim")
    assert "not an address" in refused("http://geheim@x")
    for command in ("api", "worker"):
        found = mmad(command, MMAD_REDIS_URL=f"redis://:geheim2@127.0.0.1:{closed}")
        assert (found.returncode, found.stdout) == (1, b"")
        assert f"127.0.0.1:{closed} wants another" in found.stderr.decode()
        assert b"geheim2" not in found.stderr


def test_a_redis_that_is_away_may_come_back(tmp_path: Path) -> None:
    nobody, nowhere = (
        check_redis(Settings(redis_url=url))
        for url in (f"redis://:geheim@127.0.0.1:{free_port()}", "redis://:geheim@nowhere.invalid")
    )
    assert nobody is not None
    assert "Connection refused" in nobody
    assert nowhere == "Redis at nowhere.invalid:6379 cannot be found: its name leads to no address"
    assert "geheim" not in nobody


@pytest.mark.parametrize(
    "terminal",
    [PLAIN_C, {"LC_ALL": "POSIX"}, {"PYTHONIOENCODING": "ascii"}, {"PYTHONIOENCODING": "latin-1"}],
    ids=["plain", "posix", "ascii", "latin-1"],
)
def test_every_terminal_can_show_every_name(tmp_path: Path, terminal: dict[str, str]) -> None:
    for name in ("Zoë 面.mp4".encode(), b"\xff\xe9.mp4"):
        missing = mmad("submit", os.fsdecode(os.fsencode(tmp_path) + b"/" + name), **terminal)
        assert missing.returncode == 1
        assert b"No such file" in missing.stderr
        assert b"Traceback" not in missing.stderr
    shown = mmad("labels", **terminal)
    assert shown.returncode == 0, shown.stderr
    assert json.loads(mmad("labels", "--json", **terminal).stdout.decode())["actions"]


def test_a_document_is_utf8_whatever_the_terminal_is() -> None:
    code = "from mmad.terminal import write; import json; write(json.dumps('Zoë \\udcff', ensure_ascii=False), None)"
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True, env=os.environ | {"PYTHONIOENCODING": "ascii"}
    )  # fmt: skip
    assert json.loads(found.stdout) == "Zoë \udcff"
