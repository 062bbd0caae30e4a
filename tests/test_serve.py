"""End-to-end tests of `mmad serve` with an embedded Redis, an API and a worker."""

import json
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
from mmad.models import Result as ClientResult
from mmad.private_redis import private_redis
from service.schemas import ModelCard, Result
from tests import clips
from tests.command import mmad_process
from tests.conftest import Service, descendants, free_port, start_service, wait_for
from tests.conftest import children as own_children


def detect_locally(video: Path) -> Json:
    """Run `mmad detect`, which needs no server."""
    document: Json = json.loads(mmad_process("detect", video, "--json").stdout)
    return document


def is_alive(process_id: int) -> bool:
    try:
        return Path(f"/proc/{process_id}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_submitted_video_yields_detections(client: Client, clip: Path) -> None:
    job = client.submit(clip)
    updates: list[Job] = []
    result = client.wait(job.id, updates.append).document
    Result.model_validate(result)
    assert result["job_id"] == job.id
    assert result["media"]["duration_s"] == pytest.approx(5, abs=0.01)
    assert result["coverage"] == [{"start_s": 0, "end_s": result["media"]["duration_s"], "status": "analysed"}]
    assert result["detections"]
    assert [warning["code"] for warning in result["warnings"]] == ["untrained_model"]
    assert result["model"]["trained_on"] is None
    progress = [update.progress for update in updates]
    assert progress == sorted(progress)
    assert updates[-1].state == "succeeded"
    stages = {update.stage for update in updates if update.state == "running"}
    assert stages <= {None, "decoding", "detecting", "publishing"}
    local = detect_locally(clip)
    assert local["detections"] == result["detections"]
    assert local["media"] == result["media"]


@pytest.mark.shared("data/clips")
@pytest.mark.parametrize(
    ("name", "seconds"), [("A2_turning_around_0078_01_0005", 2.0), ("B2_shaking_head_0035_02_0007", 1.5)]
)
def test_real_clips_yield_detections_within_their_duration(
    client: Client, shared: Path, name: str, seconds: float
) -> None:
    result = client.detect(shared / f"data/clips/{name}.mp4")
    assert (result.media.width, result.media.height) == (1080, 1296)
    assert result.media.duration_s == seconds
    unfiltered = client.result(str(result.job_id), min_score=0).detections
    assert len(unfiltered) > len(result.detections) > 0
    assert max(detection.end_s for detection in unfiltered) <= seconds


def test_errors_during_decoding_fail_the_job(client: Client, tmp_path: Path) -> None:
    long = client.submit(clips.pattern(tmp_path / "long.ts", size="64x64", seconds=25))
    with pytest.raises(ServiceError, match="limit is 20 s .MMAD_MAX_DURATION_S.") as caught:
        client.wait(long.id)
    assert caught.value.code == "video_too_long"
    # A duration declared in the header is checked at upload.
    with pytest.raises(ServiceError, match="limit is 20 s .MMAD_MAX_DURATION_S.") as caught:
        client.submit(clips.pattern(tmp_path / "long.mp4", size="64x64", seconds=25))
    assert (caught.value.code, caught.value.status) == ("video_too_long", 422)
    silent = client.submit(clips.silence(tmp_path / "silent.mp4"))
    with pytest.raises(ServiceError, match="no video stream"):
        client.wait(silent.id)
    with pytest.raises(ServiceError) as caught:
        client.result(silent.id)
    assert caught.value.code == "no_video_stream"


def test_video_is_deleted_after_its_job(service: Service, client: Client, clip: Path) -> None:
    job_id = client.submit(clip).id
    client.wait(job_id)
    folder = service.data_dir / "store/jobs" / job_id
    wait_for(lambda: sorted(path.name for path in folder.iterdir()) == ["1", "job.json"], seconds=20)
    assert client.result(job_id).detections


def test_concurrent_submissions_all_succeed(service: Service, clip: Path) -> None:
    def detect(_number: int) -> ClientResult:
        with Client(service.url) as client:
            return client.detect(clip)

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(detect, range(8)))
    assert len({result.job_id for result in results}) == 8
    assert all(result.detections == results[0].detections for result in results)


def test_aborted_upload_leaves_no_files(service: Service) -> None:
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


def test_upload_limit_follows_settings(service: Service) -> None:
    response = httpx.post(f"{service.url}/detect", content=b"\0\0\0\x18ftyp" + bytes(9_000_000))
    assert response.json()["code"] == "upload_too_large"
    assert "8000000" in response.json()["detail"]


def test_model_card_warns_of_untrained_model(service: Service) -> None:
    card = ModelCard.model_validate(httpx.get(f"{service.url}/model").json())
    assert card.engine == "openvino"
    assert card.trained_on is None
    assert [warning.code for warning in card.warnings] == ["untrained_model"]
    labels = httpx.get(f"{service.url}/labels").json()
    assert labels == card.labels.model_dump(mode="json")
    assert httpx.get(f"{service.url}/readyz").json()["ready"]


def test_service_listens_on_loopback_only(service: Service) -> None:
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


def test_stop_ends_all_processes_and_preserves_results(tmp_path: Path, clip: Path) -> None:
    service = start_service(tmp_path / "data", tmp_path / "log")
    with Client(service.url) as client:
        result = client.detect(clip)
    _stop(service, signal.SIGINT)
    restarted = start_service(tmp_path / "data", tmp_path / "log")
    with Client(restarted.url) as client:
        assert client.result(str(result.job_id)) == result
    _stop(restarted, signal.SIGTERM)


def _stop(service: Service, stop_signal: signal.Signals) -> None:
    children = service.children()
    assert len(children) == 4  # Redis, API, worker and its decoder
    assert service.stop(stop_signal) == 0
    assert not any(is_alive(child) for child in children)


def read_command_line(child: int) -> bytes:
    """Read the command line of a process; empty if it has ended."""
    try:
        return Path(f"/proc/{child}/cmdline").read_bytes()
    except OSError:
        return b""


def find_process(service: Service, name: str) -> int:
    """Return the process id of `redis`, `api` or `worker`."""
    return next(
        child
        for child in service.children()
        if f"\0{name}\0".encode() in (command := read_command_line(child))
        or (name == "redis" and name.encode() in command.split(b"\0")[0])
    )


def find_worker(service: Service) -> int:
    return find_process(service, "worker")


@pytest.fixture(scope="module")
def long_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video that takes the worker several seconds."""
    path = tmp_path_factory.mktemp("long") / "long.mp4"
    write_clip(path, seconds=30, width=640, height=480)
    return path


def test_stop_waits_for_the_running_job(tmp_path: Path, long_clip: Path) -> None:
    service = start_service(tmp_path / "data", tmp_path / "log", MMAD_STOP_GRACE_S="100")
    with Client(service.url) as client:
        job_id = client.submit(long_clip).id
        wait_for(lambda: 0 < client.job(job_id).progress < 1, seconds=20)
        worker, children = find_worker(service), service.children()
        assert len(own_children(worker)) == 1  # the decoder: the worker runs the job itself
    assert service.stop() == 0
    assert not any(is_alive(child) for child in children)
    record = (service.data_dir / "store/jobs" / job_id / "job.json").read_text()
    assert '"state": "succeeded"' in record
    assert service.log.read_text().count("engine_loaded") == 1
    assert "killed" not in service.log.read_text()


def test_start_removes_leftovers_and_kill_ends_all_children(tmp_path: Path) -> None:
    store = tmp_path / "data/store"
    (store / "incoming").mkdir(parents=True)
    (store / "incoming/half").write_bytes(b"half")
    (store / "model.json").write_text("{}")
    service = start_service(tmp_path / "data", tmp_path / "log")
    assert list((store / "incoming").iterdir()) == []
    assert httpx.get(f"{service.url}/model").is_success
    children = service.children()
    assert service.stop(signal.SIGKILL) == -9
    wait_for(lambda: not any(is_alive(child) for child in children), seconds=15)


def test_killed_processes_are_restarted_without_losing_the_job(tmp_path: Path, clip: Path) -> None:
    """The data of Redis is deleted too: the queued job is in the store."""
    service = start_service(tmp_path / "data", tmp_path / "log")
    try:
        with Client(service.url) as client:
            os.kill(find_worker(service), signal.SIGSTOP)  # the job stays queued
            job_id = client.submit(clip).id
            for name in ("redis", "api", "worker"):
                if name == "redis":
                    shutil.rmtree(service.data_dir / "redis/appendonlydir", ignore_errors=True)
                    (service.data_dir / "redis/appendonly.aof").unlink(missing_ok=True)
                os.kill(find_process(service, name), signal.SIGKILL)
            wait_for(lambda: _is_ready(service.url), seconds=60)
            assert client.wait(job_id, timeout_s=60).detections
    finally:
        assert service.stop() == 0
    log = service.log.read_text()
    assert all(f"process={name}" in log for name in ("redis", "api", "worker-1"))


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz").is_success
    except httpx.TransportError:
        return False


def test_job_of_a_killed_worker_is_retried(tmp_path: Path, long_clip: Path) -> None:
    """The first job loses its worker to repeated SIGTERM, the second to SIGKILL."""
    service = start_service(tmp_path / "data", tmp_path / "log", MMAD_STOP_GRACE_S="100")
    try:
        with Client(service.url) as client:
            first, second = (client.submit(long_clip).id for _ in range(2))
            wait_for(lambda: 0 < client.job(first).progress < 1, seconds=20)
            worker = find_worker(service)

            def terminate_again() -> bool:
                if is_alive(worker):
                    os.kill(worker, signal.SIGTERM)
                return not is_alive(worker)

            wait_for(terminate_again, seconds=20)
            assert client.job(first).state == "running"
            wait_for(lambda: client.job(second).stage == "detecting", seconds=60)
            os.kill(find_worker(service), signal.SIGKILL)
            for job_id in (first, second):
                result = client.wait(job_id, timeout_s=90)
                assert result.media.duration_s == pytest.approx(30, abs=0.1)
                job = client.job(job_id)
                assert (job.attempt, [change.why for change in job.changes if change.why]) == (2, ["worker_lost"])
    finally:
        service.process.kill()
        service.process.wait()


def run_serve(tmp_path: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return mmad_process("serve", "--data-dir", tmp_path / "data", *arguments)


def test_serve_reports_why_it_cannot_start(tmp_path: Path, service: Service) -> None:
    before = {*descendants(os.getpid())}
    port_in_use = run_serve(tmp_path, "--port", service.url.rsplit(":", 1)[1])
    assert port_in_use.returncode == 1
    assert "choose another with --port" in port_in_use.stderr
    assert "mmad is ready" not in port_in_use.stderr
    folder_in_use = run_serve(tmp_path, "--data-dir", str(service.data_dir))
    assert folder_in_use.returncode == 1
    assert "another mmad serve uses" in folder_in_use.stderr
    assert run_serve(tmp_path, "--bundle", str(tmp_path)).returncode == 1
    assert run_serve(tmp_path, "--port", "99999").returncode == 2
    unwritable_folder = run_serve(tmp_path, "--data-dir", "/proc/nothing")
    assert unwritable_folder.returncode == 1
    assert "choose another with --data-dir" in unwritable_folder.stderr
    assert {*descendants(os.getpid())} <= before


def test_redis_outage_neither_stops_jobs_nor_refuses_uploads(tmp_path: Path, clip: Path, long_clip: Path) -> None:
    """Redis, API and worker run separately, as in docker-compose. During the outage the running job is completed, a new
    job is accepted and queued until Redis is back, and no process ends."""
    port = free_port()
    with private_redis(tmp_path / "redis") as server:
        environment = os.environ | {
            "REDIS_URL": server.url,
            "MMAD_DATA_DIR": str(tmp_path / "data"),
            "MMAD_PORT": str(port),
        }
        processes = [
            subprocess.Popen([sys.executable, "-m", "mmad", name], env=environment, stderr=subprocess.DEVNULL)
            for name in ("api", "worker")
        ]
        try:
            with Client(f"http://127.0.0.1:{port}") as client:
                wait_for(lambda: _is_ready(f"http://127.0.0.1:{port}"), seconds=60)
                running = client.submit(long_clip).id
                wait_for(lambda: 0 < client.job(running).progress < 1, seconds=20)
                stop_all([server.child], 10)
                accepted = client.submit(clip).id
                wait_for(lambda: client.job(running).state == "succeeded", seconds=60)
                assert client.job(running).attempt == 1
                assert client.job(accepted).state == "queued"
                server.child.restart()
                assert client.wait(accepted, timeout_s=60).detections
            assert [process.poll() for process in processes] == [None, None]
            for process in processes:
                process.terminate()
            api, worker = (process.wait(20) for process in processes)
            assert (api, worker) == (-signal.SIGTERM, 0)  # uvicorn ends by the signal, after its last response
        finally:
            for process in processes:
                process.kill()
                process.wait()


def test_api_and_worker_require_a_valid_redis_url(tmp_path: Path) -> None:
    environment = {variable: value for variable, value in os.environ.items() if "REDIS_URL" not in variable}
    for name in ("api", "worker"):
        command = [sys.executable, "-m", "mmad", name]
        environment["MMAD_DATA_DIR"] = str(tmp_path)
        without_url = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
        assert without_url.returncode == 1
        assert "MMAD_REDIS_URL" in without_url.stderr
        assert list(tmp_path.iterdir()) == []
        invalid_url = subprocess.run(
            command,
            env=environment | {"REDIS_URL": "nonsense"},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert invalid_url.returncode == 1
        assert "MMAD_REDIS_URL is not an address of Redis" in invalid_url.stderr


def test_serve_uses_an_external_redis_and_paths_with_special_characters(tmp_path: Path, clip: Path) -> None:
    with private_redis(tmp_path / "redis #1 100%") as server:
        service = start_service(tmp_path / "data", tmp_path / "log", REDIS_URL=server.url)
        assert len(service.children()) == 3
        with Client(service.url) as client:
            assert client.detect(clip, wait_timeout_s=60).detections
        assert service.stop() == 0
