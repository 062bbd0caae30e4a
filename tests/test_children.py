"""Processes of ours: started again when they end, and a Redis that begins anew where its file is broken."""

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
def child_of(code: str, **options: object) -> Iterator[Child]:
    child = Child("x", [sys.executable, "-S", "-c", code], {}, **options)  # type: ignore[arg-type]
    try:
        yield child
    finally:
        stop_all([child], 10)


def up_again(child: Child, before: int) -> bool:
    child.restart_if_ended()
    return child.process.pid != before and child.process.poll() is None


def test_what_ends_is_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children, "_FIRST_PAUSE_S", 0.01)
    with child_of("import time; time.sleep(60)") as child:
        child.restart_if_ended()
        for _ in range(3):
            before = child.process.pid
            os.kill(before, signal.SIGKILL)
            wait_for(lambda before=before: up_again(child, before), seconds=20)


_COUNTS_REQUESTS = """
import signal, sys, time
requests = []
signal.signal(signal.SIGTERM, lambda *_: requests.append(1))
open(sys.argv[1], "w").close()
while not requests:
    time.sleep(0.01)
time.sleep(float(sys.argv[2]))
open(sys.argv[1], "w").write(str(len(requests)))
"""


def test_a_stop_asks_each_once(tmp_path: Path) -> None:
    """A worker drops its job at a second request, and the API may take long to end."""
    files = [tmp_path / "api", tmp_path / "worker"]
    commands = [
        [sys.executable, "-S", "-c", _COUNTS_REQUESTS, str(file), seconds]
        for file, seconds in zip(files, ("0.5", "1"), strict=True)
    ]
    processes = [Child("x", command, {}) for command in commands]
    wait_for(lambda: all(file.exists() for file in files), seconds=20)
    stop_all(processes, grace_s=60)
    assert [file.read_text() for file in files] == ["1", "1"]


def test_what_ends_soon_waits_longer_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock of the test's own."""
    now, starts, repaired = [0.0], [], []
    monkeypatch.setattr(children.time, "monotonic", lambda: now[0])
    with child_of("raise SystemExit(3)", repair=repaired.append) as child:
        while len(starts) < 7:
            child.process.wait()
            before = child.process.pid
            child.restart_if_ended()  # sees that it has ended
            ended = now[0]
            while child.process.pid == before:
                now[0] += 0.25
                child.restart_if_ended()
            starts.append(now[0] - ended)
        assert starts == [1.0, 2.0, 4.0, 5.0, 5.0, 5.0, 5.0]
        assert repaired == [3] * 7
        child.process.wait()
        now[0] += 100  # it lived long: whatever was wrong is no more
        before = child.process.pid
        child.restart_if_ended()
        now[0] += 0.5
        child.restart_if_ended()
        assert child.process.pid != before
        assert len(repaired) == 7


def test_a_killed_process_needs_no_repair() -> None:
    repaired: list[int] = []
    with child_of("import time; time.sleep(60)", repair=repaired.append) as child:
        before = child.process.pid
        os.kill(before, signal.SIGKILL)
        child.process.wait()
        wait_for(lambda: up_again(child, before), seconds=20)
    assert repaired == []


@pytest.mark.parametrize("how", ["damaged", "unreadable"])
def test_a_redis_that_cannot_read_its_file_begins_anew(
    tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the start, and when it is started again."""
    monkeypatch.setattr(children, "_FIRST_PAUSE_S", 0.01)

    def spoil() -> None:
        for path in tmp_path.rglob("*.aof"):
            if path.parent.name != "broken":
                path.write_bytes(b"*3\r\n$3\r\nSET\r\nnonsense" * 50 if how == "damaged" else b"\xff" * 3000)

    once = Retry(NoBackoff(), 0)
    for turn in range(2):
        with private_redis(tmp_path) as server, redis.Redis.from_url(server.url, retry=once) as client:
            assert client.dbsize() == 0
            assert (tmp_path / "broken").exists() is bool(turn)
            client.set("kept", "x" * 2000)
            if turn:
                before = server.child.process.pid
                os.kill(before, signal.SIGKILL)
                server.child.process.wait()
                spoil()
                wait_for(lambda before=before: up_again(server.child, before) and _answers(client), seconds=30)
                assert client.dbsize() == 0
        spoil()


def _answers(client: "redis.Redis") -> bool:
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False


def test_a_redis_that_does_not_start_for_another_reason_says_so(tmp_path: Path) -> None:
    assert not move_data_aside(tmp_path)
    (tmp_path / "redis.log").mkdir()
    with (
        pytest.raises(StartError, match=r"ended at once with status 1; .*redis\.log says why"),
        private_redis(tmp_path),
    ):
        pass


def test_what_the_machine_refuses_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children, "_FIRST_PAUSE_S", 0.01)
    refused: list[int] = []
    with child_of("import time; time.sleep(60)") as child:
        start, before = child._start, child.process.pid

        def starting() -> object:
            if len(refused) < 3:
                refused.append(1)
                raise BlockingIOError(11, "Resource temporarily unavailable")
            return start()

        monkeypatch.setattr(child, "_start", starting)
        os.kill(before, signal.SIGKILL)
        child.process.wait()
        wait_for(lambda: up_again(child, before), seconds=20)
    assert len(refused) == 3
