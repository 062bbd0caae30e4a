"""Start environments: Kubernetes variables, missing home, file systems, Redis and terminals."""

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

C_LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def mmad(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[bytes]":
    command = [sys.executable, "-m", "mmad", *arguments]
    return subprocess.run(command, capture_output=True, env=os.environ | environment, check=False, timeout=60)


@pytest.mark.parametrize("link", ["tcp://10.43.0.12:8000", "udp://10.43.0.12:53", "tcp://[fd00::1]:80"])
def test_kubernetes_service_link_is_not_a_port(monkeypatch: pytest.MonkeyPatch, link: str) -> None:
    monkeypatch.setenv("MMAD_PORT", link)
    assert Settings().port == DEFAULT_PORT
    result = mmad("api", MMAD_REDIS_URL="nonsense")
    assert link in result.stderr.decode()
    assert "enableServiceLinks" in result.stderr.decode()


def test_settings_do_not_clash_with_kubernetes_variables() -> None:
    for name in Settings.model_fields.keys() - {"port"}:
        assert not name.endswith(("_port", "_service_host", "_tcp", "_addr", "_proto"))
        assert "port_" not in name


def test_unused_invalid_setting_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMAD_PORT", "abc")
    monkeypatch.setenv("MMAD_MAX_PIXELS", "12")
    settings = load_settings(DETECT_SETTINGS, engine="onnx")
    assert (settings.port, settings.max_pixels, settings.engine) == (DEFAULT_PORT, 12, "onnx")
    with pytest.raises(Exit):
        load_settings()
    with pytest.raises(Exit):
        load_settings(DETECT_SETTINGS, device="tpu")
    assert json.loads(mmad("labels", "--json", MMAD_PORT="abc").stdout)["actions"]


def test_invalid_list_setting_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    result = mmad("api", MMAD_ALLOWED_HOSTS="example.org")
    assert (result.returncode, result.stderr.count(b"\n")) == (2, 1)
    assert b"allowed_hosts" in result.stderr


def test_missing_home_requires_data_dir_setting(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def raise_no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("MMAD_DATA_DIR", raising=False)
    monkeypatch.setattr(Path, "home", raise_no_home)
    assert load_settings(DETECT_SETTINGS).data_dir.is_relative_to(NO_HOME)
    with pytest.raises(Exit):
        load_settings()
    assert "set MMAD_DATA_DIR" in capsys.readouterr().err
    monkeypatch.setenv("MMAD_DATA_DIR", "/somewhere")
    assert load_settings().data_dir == Path("/somewhere")
    with pytest.raises(OSError):  # noqa: PT011 - fails for every user, including root
        (NO_HOME / "mmad").mkdir(parents=True)


@pytest.mark.skipif(os.getuid() != 0 or not shutil.which("setpriv"), reason="only root can be another user")
def test_process_of_user_without_passwd_entry() -> None:
    user = ["--reuid=1000810000", "--regid=0", "--clear-groups"]
    capabilities = ["--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search"]
    start = ["setpriv", *user, *capabilities, "env", "-i", f"PATH={os.environ['PATH']}", sys.executable, "-m", "mmad"]
    labels, serve = (
        subprocess.run([*start, *words], capture_output=True, check=False, timeout=60)
        for words in (["labels", "--json"], ["serve"])
    )
    assert json.loads(labels.stdout)["actions"], labels.stderr
    assert (serve.returncode, serve.stderr.count(b"\n")) == (1, 1)
    assert b"set MMAD_DATA_DIR" in serve.stderr


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS])
def test_file_system_without_locks_uses_temporary_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    real_flock, local = fcntl.flock, tmp_path / "tmp"
    local.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(local))

    def flock(file: Any, operation: int) -> None:
        """Fail outside the temporary folder."""
        path = os.readlink(f"/proc/self/fd/{file if isinstance(file, int) else file.fileno()}")
        if not path.startswith(str(local)):
            raise OSError(number, os.strerror(number))
        real_flock(file, operation)

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
    assert FolderStore(tmp_path / "data/store")._locks == locks  # other processes use the same folder
    assert FolderStore(tmp_path / "other")._locks != locks


def test_lock_error_differs_from_running_instance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with _lock(tmp_path), pytest.raises(StartError, match="another mmad serve"), _lock(tmp_path):
        pass

    def broken(*_: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(fcntl, "flock", broken)
    with pytest.raises(StartError, match="cannot lock .*Input/output error"), _lock(tmp_path):
        pass


@pytest.mark.parametrize("number", [errno.EROFS, errno.ENOSPC, errno.EACCES])
def test_unwritable_store_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(StoreError, match=rf"{os.strerror(number)}.*MMAD_DATA_DIR"):
        FolderStore(tmp_path / "store")


@pytest.mark.parametrize("command", ["api", "worker"])
def test_data_dir_that_is_a_file_is_reported(tmp_path: Path, redis_url: str, command: str) -> None:
    (tmp_path / "file").touch()
    result = mmad(command, MMAD_DATA_DIR=str(tmp_path / "file"), MMAD_REDIS_URL=redis_url)
    assert result.returncode == 1
    assert b"Traceback" not in result.stderr
    assert b"Not a directory" in result.stderr


@pytest.fixture
def locked_redis(tmp_path: Path) -> Any:
    """Return the ports of a Redis with a password and of its replica."""
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


def test_unusable_redis_is_reported_without_the_password(locked_redis: tuple[int, int]) -> None:
    with_password, replica = locked_redis

    def get_error(url: str) -> str:
        with pytest.raises(QueueError) as caught:
            check_redis(Settings(redis_url=url))
        assert "geheim" not in str(caught.value)
        return str(caught.value)

    valid = Settings(redis_url=f"redis://:geheim@127.0.0.1:{with_password}")
    wait_for(lambda: check_redis(valid) is None, seconds=20)
    for user in ("", ":geheim2@", "anna:geheim@"):
        assert "another user name or password" in get_error(f"redis://{user}127.0.0.1:{with_password}")
    assert "no database" in get_error(f"redis://:geheim@127.0.0.1:{with_password}/99")
    assert "a replica" in get_error(f"redis://127.0.0.1:{replica}")
    assert "not an address" in get_error("redis://:ge#heim@x:geheim")
    assert "not an address" in get_error("http://geheim@x")
    for command in ("api", "worker"):
        result = mmad(command, MMAD_REDIS_URL=f"redis://:geheim2@127.0.0.1:{with_password}")
        assert (result.returncode, result.stdout) == (1, b"")
        assert f"127.0.0.1:{with_password} wants another" in result.stderr.decode()
        assert b"geheim2" not in result.stderr


def test_unreachable_redis_is_reported(tmp_path: Path) -> None:
    refused, unresolved = (
        check_redis(Settings(redis_url=url))
        for url in (f"redis://:geheim@127.0.0.1:{free_port()}", "redis://:geheim@nowhere.invalid")
    )
    assert refused is not None
    assert "Connection refused" in refused
    assert unresolved == "Redis at nowhere.invalid:6379 cannot be found: its name leads to no address"
    assert "geheim" not in refused


@pytest.mark.parametrize(
    "environment",
    [C_LOCALE, {"LC_ALL": "POSIX"}, {"PYTHONIOENCODING": "ascii"}, {"PYTHONIOENCODING": "latin-1"}],
    ids=["c", "posix", "ascii", "latin-1"],
)
def test_output_works_in_every_terminal_encoding(tmp_path: Path, environment: dict[str, str]) -> None:
    for name in ("Zoë 面.mp4".encode(), b"\xff\xe9.mp4"):
        missing = mmad("submit", os.fsdecode(os.fsencode(tmp_path) + b"/" + name), **environment)
        assert missing.returncode == 1
        assert b"No such file" in missing.stderr
        assert b"Traceback" not in missing.stderr
    labels = mmad("labels", **environment)
    assert labels.returncode == 0, labels.stderr
    assert json.loads(mmad("labels", "--json", **environment).stdout.decode())["actions"]


def test_documents_are_utf8_in_every_terminal() -> None:
    code = "from mmad.terminal import write; import json; write(json.dumps('Zoë \\udcff', ensure_ascii=False), None)"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True, env=os.environ | {"PYTHONIOENCODING": "ascii"}
    )  # fmt: skip
    assert json.loads(result.stdout) == "Zoë \udcff"
