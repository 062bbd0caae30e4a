"""The whole way through what a user starts: a real embedded Redis, API and worker."""

import os
import shutil
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from mmad.benchmark import write_clip
from mmad.children import stop_all
from mmad.client import Client, Json, ServiceError
from mmad.models import Job
from mmad.models import Result as Answered
from mmad.private_redis import private_redis
from service.schemas import ModelCard, Result
from tests import clips
from tests.conftest import Service, descendants, free_port, start_service, wait_for
from tests.conftest import children as own_children


def detect_here(video: Path) -> Json:
    """The same video through `mmad detect`, without a server."""
    import json

    command = [sys.executable, "-m", "mmad", "detect", str(video), "--json"]
    found = subprocess.run(command, check=True, capture_output=True)
    answer: Json = json.loads(found.stdout)
    return answer


def alive(process_id: int) -> bool:
    try:
        return Path(f"/proc/{process_id}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_a_video_in_micro_actions_out(client: Client, clip: Path) -> None:
    job = client.submit(clip)
    seen: list[Job] = []
    result = client.wait(job.id, seen.append).document
    Result.model_validate(result)
    assert result["job_id"] == job.id
    assert result["media"]["duration_s"] == pytest.approx(5, abs=0.01)
    assert result["coverage"] == [{"start_s": 0, "end_s": result["media"]["duration_s"], "status": "analysed"}]
    assert result["detections"]
    assert [warning["code"] for warning in result["warnings"]] == ["untrained_model"]
    assert result["model"]["trained_on"] is None
    progress = [one.progress for one in seen]
    assert progress == sorted(progress)
    assert seen[-1].state == "succeeded"
    assert {one.stage for one in seen if one.state == "running"} <= {None, "decoding", "detecting", "publishing"}
    alone = detect_here(clip)
    assert alone["detections"] == result["detections"]
    assert alone["media"] == result["media"]


@pytest.mark.shared("data/clips")
@pytest.mark.parametrize(
    ("name", "seconds"), [("A2_turning_around_0078_01_0005", 2.0), ("B2_shaking_head_0035_02_0007", 1.5)]
)
def test_real_clips(client: Client, shared: Path, name: str, seconds: float) -> None:
    result = client.detect(shared / f"data/clips/{name}.mp4")
    assert (result.media.width, result.media.height) == (1080, 1296)
    assert result.media.duration_s == seconds
    everything = client.result(str(result.job_id), min_score=0).detections
    assert len(everything) > len(result.detections) > 0
    assert max(one.end_s for one in everything) <= seconds


def test_what_only_decoding_shows_fails_the_job(client: Client, tmp_path: Path) -> None:
    long = client.submit(clips.pattern(tmp_path / "long.ts", size="64x64", seconds=25))
    with pytest.raises(ServiceError, match="limit is 20 s .MMAD_MAX_DURATION_S.") as caught:
        client.wait(long.id)
    assert caught.value.code == "video_too_long"
    with pytest.raises(ServiceError, match="limit is 20 s .MMAD_MAX_DURATION_S.") as caught:  # declared: at once
        client.submit(clips.pattern(tmp_path / "long.mp4", size="64x64", seconds=25))
    assert (caught.value.code, caught.value.status) == ("video_too_long", 422)
    silent = client.submit(clips.silence(tmp_path / "silent.mp4"))
    with pytest.raises(ServiceError, match="no video stream"):
        client.wait(silent.id)
    with pytest.raises(ServiceError) as caught:
        client.result(silent.id)
    assert caught.value.code == "no_video_stream"


def test_a_video_is_gone_when_its_job_has_ended(service: Service, client: Client, clip: Path) -> None:
    job_id = client.submit(clip).id
    client.wait(job_id)
    folder = service.data_dir / "store/jobs" / job_id
    wait_for(lambda: sorted(path.name for path in folder.iterdir()) == ["1", "job.json"], seconds=20)


def test_many_at_once_are_all_answered(service: Service, clip: Path) -> None:
    def ask(_number: int) -> Answered:
        with Client(service.url) as client:
            return client.detect(clip)

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(ask, range(8)))
    assert len({result.job_id for result in results}) == 8
    assert all(result.detections == results[0].detections for result in results)


def test_an_upload_that_breaks_off_leaves_nothing(service: Service) -> None:
    root = service.data_dir / "store"

    def files() -> set[Path]:
        return {path for path in root.rglob("*") if path.is_file() and path.parent.name != "locks"}

    before = files()
    host, port = service.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(b"POST /detect HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5000000\r\n\r\n")
        connection.sendall(b"\0\0\0\x18ftypisom" + bytes(2_000_000))
        wait_for(lambda: files() != before, seconds=10)
    wait_for(lambda: files() == before, seconds=10)
    wait_for(lambda: "status=499" in service.log.read_text(), seconds=10)
    assert "Traceback" not in service.log.read_text()


def test_limits_are_the_settings(service: Service) -> None:
    response = httpx.post(f"{service.url}/detect", content=b"\0\0\0\x18ftyp" + bytes(9_000_000))
    assert response.json()["code"] == "upload_too_large"
    assert "8000000" in response.json()["detail"]


def test_the_model_says_that_it_is_untrained(service: Service) -> None:
    card = ModelCard.model_validate(httpx.get(f"{service.url}/model").json())
    assert card.engine == "openvino"
    assert card.trained_on is None
    assert [warning.code for warning in card.warnings] == ["untrained_model"]
    labels = httpx.get(f"{service.url}/labels").json()
    assert labels == card.labels.model_dump(mode="json")
    assert httpx.get(f"{service.url}/readyz").json()["ready"]


def test_it_listens_on_this_machine_alone(service: Service) -> None:
    port = service.url.rsplit(":", 1)[1]
    listening = set()
    for child in service.children():
        for line in Path(f"/proc/{child}/net/tcp").read_text().splitlines()[1:]:
            address, state = line.split()[1], line.split()[3]
            if state == "0A" and address.endswith(f":{int(port):04X}"):
                listening.add(address.split(":")[0])
    assert listening == {"0100007F"}
    redis = next(child for child in service.children() if "redis" in Path(f"/proc/{child}/comm").read_text())
    assert (
        "--port 0" in Path(f"/proc/{redis}/cmdline").read_text().replace("\0", " ")
        or "unixsocket" in Path(f"/proc/{redis}/cmdline").read_text()
    )


def test_a_stop_leaves_no_process_and_keeps_the_results(tmp_path: Path, clip: Path) -> None:
    service = start_service(tmp_path / "data", tmp_path / "log")
    with Client(service.url) as client:
        result = client.detect(clip)
    _stop(service, signal.SIGINT)
    again = start_service(tmp_path / "data", tmp_path / "log")
    with Client(again.url) as client:
        assert client.result(str(result.job_id)) == result
    _stop(again, signal.SIGTERM)


def _stop(service: Service, how: signal.Signals) -> None:
    children = service.children()
    assert len(children) == 4  # Redis, API, worker and what decodes for it
    assert service.stop(how) == 0
    assert not any(alive(child) for child in children)


def command_of(child: int) -> bytes:
    """Its command line; nothing where it has ended meanwhile."""
    try:
        return Path(f"/proc/{child}/cmdline").read_bytes()
    except OSError:
        return b""


def part_of(service: Service, name: str) -> int:
    """The process id of `redis`, `api` or the `worker`."""
    return next(
        child
        for child in service.children()
        if f"\0{name}\0".encode() in (command := command_of(child))
        or (name == "redis" and name.encode() in command.split(b"\0")[0])
    )


def worker_of(service: Service) -> int:
    return part_of(service, "worker")


@pytest.fixture(scope="module")
def long_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Takes a worker some seconds."""
    path = tmp_path_factory.mktemp("long") / "long.mp4"
    write_clip(path, seconds=30, width=640, height=480)
    return path


def test_a_stop_lets_the_job_at_hand_end(tmp_path: Path, long_clip: Path) -> None:
    service = start_service(tmp_path / "data", tmp_path / "log", MMAD_STOP_GRACE_S="100")
    with Client(service.url) as client:
        job_id = client.submit(long_clip).id
        wait_for(lambda: 0 < client.job(job_id).progress < 1, seconds=20)
        worker, children = worker_of(service), service.children()
        assert len(own_children(worker)) == 1  # it runs the job itself; what decodes is another
    assert service.stop() == 0
    assert not any(alive(child) for child in children)
    record = (service.data_dir / "store/jobs" / job_id / "job.json").read_text()
    assert '"state": "succeeded"' in record
    assert service.log.read_text().count("engine_loaded") == 1
    assert "killed" not in service.log.read_text()


def test_what_the_last_run_left_is_tidied_away_and_its_children_die_with_it(tmp_path: Path) -> None:
    store = tmp_path / "data/store"
    (store / "incoming").mkdir(parents=True)
    (store / "incoming/half").write_bytes(b"half")
    (store / "model.json").write_text("{}")
    service = start_service(tmp_path / "data", tmp_path / "log")
    assert list((store / "incoming").iterdir()) == []
    assert httpx.get(f"{service.url}/model").is_success
    children = service.children()
    assert service.stop(signal.SIGKILL) == -9
    wait_for(lambda: not any(alive(child) for child in children), seconds=15)


def test_whatever_dies_is_started_again(tmp_path: Path, clip: Path) -> None:
    """Also all that Redis knew may be gone: the job that waits is in the store."""
    service = start_service(tmp_path / "data", tmp_path / "log")
    try:
        with Client(service.url) as client:
            os.kill(worker_of(service), signal.SIGSTOP)  # so that the job waits
            job_id = client.submit(clip).id
            for victim in ("redis", "api", "worker"):
                if victim == "redis":
                    shutil.rmtree(service.data_dir / "redis/appendonlydir", ignore_errors=True)
                    (service.data_dir / "redis/appendonly.aof").unlink(missing_ok=True)
                os.kill(part_of(service, victim), signal.SIGKILL)
            wait_for(lambda: _is_ready(service.url), seconds=60)
            assert client.wait(job_id, timeout_s=60).detections
    finally:
        assert service.stop() == 0
    told = service.log.read_text()
    assert all(f"process={victim}" in told for victim in ("redis", "api", "worker-1"))


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz").is_success
    except httpx.TransportError:
        return False


def test_a_killed_workers_job_is_run_again(tmp_path: Path, long_clip: Path) -> None:
    """A worker that is told twice to stop is as good as dead, too."""
    service = start_service(tmp_path / "data", tmp_path / "log", MMAD_STOP_GRACE_S="100")
    try:
        with Client(service.url) as client:
            first, second = (client.submit(long_clip).id for _ in range(2))
            wait_for(lambda: 0 < client.job(first).progress < 1, seconds=20)
            stopped = worker_of(service)

            def gone() -> bool:
                if alive(stopped):
                    os.kill(stopped, signal.SIGTERM)
                return not alive(stopped)

            wait_for(gone, seconds=20)
            assert client.job(first).state == "running"
            wait_for(lambda: client.job(second).stage == "detecting", seconds=60)
            os.kill(worker_of(service), signal.SIGKILL)
            for job_id in (first, second):
                result = client.wait(job_id, timeout_s=90)
                assert result.media.duration_s == pytest.approx(30, abs=0.1)
                job = client.job(job_id)
                assert (job.attempt, [change.why for change in job.changes if change.why]) == (2, ["worker_lost"])
    finally:
        service.process.kill()
        service.process.wait()


def serve(tmp_path: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "mmad", "serve", "--data-dir", str(tmp_path / "data"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_what_keeps_it_from_starting_is_told(tmp_path: Path, service: Service) -> None:
    there = {*descendants(os.getpid())}
    taken = serve(tmp_path, "--port", service.url.rsplit(":", 1)[1])
    assert taken.returncode == 1
    assert "choose another with --port" in taken.stderr
    assert "mmad is ready" not in taken.stderr
    command = [sys.executable, "-m", "mmad", "serve", "--data-dir", str(service.data_dir)]
    second = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert second.returncode == 1
    assert "another mmad serve uses" in second.stderr
    assert serve(tmp_path, "--bundle", str(tmp_path)).returncode == 1
    assert serve(tmp_path, "--port", "99999").returncode == 2
    unwritable = serve(tmp_path, "--data-dir", "/proc/nothing")
    assert unwritable.returncode == 1
    assert "choose another with --data-dir" in unwritable.stderr
    assert {*descendants(os.getpid())} <= there


def test_work_goes_on_without_redis(tmp_path: Path, clip: Path, long_clip: Path) -> None:
    """Redis, API and worker each started by itself, as in docker-compose: what runs is published, what comes is accepted
    and queued when Redis is back, and no process ends."""
    port = free_port()
    with private_redis(tmp_path / "redis") as server:
        environment = os.environ | {
            "REDIS_URL": server.url,
            "MMAD_DATA_DIR": str(tmp_path / "data"),
            "MMAD_PORT": str(port),
        }
        parts = [
            subprocess.Popen([sys.executable, "-m", "mmad", part], env=environment, stderr=subprocess.DEVNULL)
            for part in ("api", "worker")
        ]
        try:
            with Client(f"http://127.0.0.1:{port}") as client:
                wait_for(lambda: _is_ready(f"http://127.0.0.1:{port}"), seconds=60)
                running = client.submit(long_clip).id
                wait_for(lambda: 0 < client.job(running).progress < 1, seconds=20)
                stop_all([server.child], 10)
                came = client.submit(clip).id
                wait_for(lambda: client.job(running).state == "succeeded", seconds=60)
                assert client.job(running).attempt == 1
                assert client.job(came).state == "queued"
                server.child.restart()
                assert client.wait(came, timeout_s=60).detections
            assert [part.poll() for part in parts] == [None, None]
            for part in parts:
                part.terminate()
            api, worker = (part.wait(20) for part in parts)
            assert (api, worker) == (-signal.SIGTERM, 0)  # uvicorn ends by the signal, after its last answer
        finally:
            for part in parts:
                part.kill()
                part.wait()


def test_parts_without_redis_say_what_to_set(tmp_path: Path) -> None:
    clean = {name: value for name, value in os.environ.items() if "REDIS_URL" not in name}
    for part in ("api", "worker"):
        command = [sys.executable, "-m", "mmad", part]
        clean["MMAD_DATA_DIR"] = str(tmp_path)
        ended = subprocess.run(command, env=clean, capture_output=True, text=True, timeout=60, check=False)
        assert ended.returncode == 1
        assert "MMAD_REDIS_URL" in ended.stderr
        assert list(tmp_path.iterdir()) == []
        nonsense = subprocess.run(
            command, env=clean | {"REDIS_URL": "nonsense"}, capture_output=True, text=True, timeout=60, check=False
        )
        assert nonsense.returncode == 1
        assert "MMAD_REDIS_URL is not an address of Redis" in nonsense.stderr


def test_serve_takes_the_users_redis_and_odd_folders(tmp_path: Path, clip: Path) -> None:
    with private_redis(tmp_path / "redis #1 100%") as server:
        service = start_service(tmp_path / "data", tmp_path / "log", REDIS_URL=server.url)
        assert len(service.children()) == 3
        with Client(service.url) as client:
            assert client.detect(clip, wait_timeout_s=60).detections
        assert service.stop() == 0
