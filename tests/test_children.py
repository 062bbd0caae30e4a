"""Child processes are restarted when they end; Redis starts empty if its file is damaged."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from mmad import children
from mmad.children import Child, StartError, stop_all
from mmad.private_redis import move_data_aside, private_redis
from tests.conftest import wait_for


@contextmanager
def running_child(code: str, **options: object) -> Iterator[Child]:
    child = Child("x", [sys.executable, "-S", "-c", code], {}, **options)  # type: ignore[arg-type]
    try:
        yield child
    finally:
        stop_all([child], 10)


def kill_and_wait_for_restart(child: Child) -> None:
    before = child.process.pid
    os.kill(before, signal.SIGKILL)
    child.process.wait()
    wait_for(lambda: has_restarted(child, before), seconds=20)


def has_restarted(child: Child, before: int) -> bool:
    child.restart_if_ended()
    return child.process.pid != before and child.process.poll() is None


def test_killed_child_is_restarted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children, "_FIRST_PAUSE_S", 0.01)
    with running_child("import time; time.sleep(60)") as child:
        child.restart_if_ended()
        pids = [child.process.pid]
        for _ in range(3):
            kill_and_wait_for_restart(child)
            pids.append(child.process.pid)
    assert len(set(pids)) == 4


_COUNT_SIGNALS = """
import signal, sys, time
signals = []
signal.signal(signal.SIGTERM, lambda *_: signals.append(1))
open(sys.argv[1], "w").close()
while not signals:
    time.sleep(0.01)
time.sleep(float(sys.argv[2]))
open(sys.argv[1], "w").write(str(len(signals)))
"""


def test_stop_signals_each_child_once(tmp_path: Path) -> None:
    """A second signal would make a worker abort its job."""
    files = [tmp_path / "api", tmp_path / "worker"]
    commands = [
        [sys.executable, "-S", "-c", _COUNT_SIGNALS, str(file), seconds]
        for file, seconds in zip(files, ("0.5", "1"), strict=True)
    ]
    processes = [Child("x", command, {}) for command in commands]
    wait_for(lambda: all(file.exists() for file in files), seconds=20)
    stop_all(processes, grace_s=60)
    assert [file.read_text() for file in files] == ["1", "1"]


def test_restart_delay_grows_while_the_child_ends_early(monkeypatch: pytest.MonkeyPatch) -> None:
    now, starts, exit_codes = [0.0], [], []
    monkeypatch.setattr(children.time, "monotonic", lambda: now[0])
    with running_child("raise SystemExit(3)", repair=exit_codes.append) as child:
        while len(starts) < 7:
            child.process.wait()
            before = child.process.pid
            child.restart_if_ended()  # notices the end
            ended = now[0]
            while child.process.pid == before:
                now[0] += 0.25
                child.restart_if_ended()
            starts.append(now[0] - ended)
        assert starts == [1.0, 2.0, 4.0, 5.0, 5.0, 5.0, 5.0]
        assert exit_codes == [3] * 7
        child.process.wait()
        now[0] += 100  # it ran long enough to reset the delay
        before = child.process.pid
        child.restart_if_ended()
        now[0] += 0.5
        child.restart_if_ended()
        assert child.process.pid != before
        assert len(exit_codes) == 7


def test_killed_child_is_not_repaired() -> None:
    exit_codes: list[int] = []
    with running_child("import time; time.sleep(60)", repair=exit_codes.append) as child:
        kill_and_wait_for_restart(child)
    assert exit_codes == []


@pytest.mark.parametrize("damage", ["damaged", "unreadable"])
def test_redis_with_a_damaged_file_starts_empty(tmp_path: Path, damage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the server is started, and when it is restarted after a crash."""
    monkeypatch.setattr(children, "_FIRST_PAUSE_S", 0.01)

    def damage_file() -> None:
        for path in tmp_path.rglob("*.aof"):
            if path.parent.name != "broken":
                path.write_bytes(b"*3\r\n$3\r\nSET\r\nnonsense" * 50 if damage == "damaged" else b"\xff" * 3000)

    no_retries = Retry(NoBackoff(), 0)
    for run in range(2):
        with private_redis(tmp_path) as server, redis.Redis.from_url(server.url, retry=no_retries) as client:
            assert client.dbsize() == 0
            assert (tmp_path / "broken").exists() is bool(run)
            client.set("key", "x" * 2000)
            if run:
                before = server.child.process.pid
                os.kill(before, signal.SIGKILL)
                server.child.process.wait()
                damage_file()
                wait_for(lambda before=before: has_restarted(server.child, before) and _answers(client), seconds=30)
                assert client.dbsize() == 0
        damage_file()


def _answers(client: "redis.Redis") -> bool:
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False


def test_redis_start_error_refers_to_the_log(tmp_path: Path) -> None:
    assert not move_data_aside(tmp_path)
    (tmp_path / "redis.log").mkdir()
    with (
        pytest.raises(StartError, match=r"ended at once with status 1; .*redis\.log says why"),
        private_redis(tmp_path),
    ):
        pass


def test_refused_fork_is_retried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children, "_FIRST_PAUSE_S", 0.01)
    failures: list[int] = []
    with running_child("import time; time.sleep(60)") as child:
        start = child._start

        def fail_three_times() -> object:
            if len(failures) < 3:
                failures.append(1)
                raise BlockingIOError(11, "Resource temporarily unavailable")
            return start()

        monkeypatch.setattr(child, "_start", fail_three_times)
        kill_and_wait_for_restart(child)
    assert len(failures) == 3
