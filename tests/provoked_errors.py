"""Provoke every error of the catalogue through the API; tests/api_examples.py documents the responses."""

from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from rq.timeouts import JobTimeoutException
from starlette.testclient import TestClient

from model.bundle import Bundle
from model.detector import Detector
from model.engines import Engine, load_engine
from model.video import Limits
from service import submission
from service.admission import Admission
from service.app import build_app
from service.app_state import AppState
from service.auth import Auth
from service.keys import OwnLimits, create, read
from service.middleware import OVERLOADED
from service.queue import connect
from service.settings import Settings
from service.store import MODEL_CARD, FolderStore
from service.submission import Claim
from tests import clips
from tests.fake_service import VIDEO, RecordingQueue, make_finished_job, make_model_card
from tests.faulty_forkserver import faulty_sandbox, marked_bytes
from workers.run import WorkerContext

Response = Any


@cache
def _load_engine(folder: Path) -> Engine:
    return load_engine(Bundle.load(folder), "openvino")


class InProcessService:
    """The API and a worker in this process, with an HTTP client."""

    def __init__(self, folder: Path, bundle: Bundle, redis_url: str) -> None:
        self.folder, self.bundle = folder, bundle
        self.settings = Settings(
            data_dir=folder, max_upload_bytes=1_000_000, max_batch_files=3, max_duration_s=20, max_pixels=320 * 240,
            redis_url=redis_url,
        )  # fmt: skip
        store = FolderStore(self.settings.store_dir)
        store.put(MODEL_CARD, make_model_card().model_dump_json().encode())
        self.connection = connect(self.settings, retries=0)
        self.app_state = AppState(self.settings, store, RecordingQueue(store), Auth(self.settings, self.connection))
        # Problem documents contain the request id: a fixed one makes them reproducible.
        headers = {"x-request-id": "interview-17"}
        self.http = TestClient(
            build_app(self.app_state), "http://127.0.0.1", raise_server_exceptions=False, headers=headers
        )

    @cached_property
    def context(self) -> WorkerContext:
        """The worker's side, which few errors need."""
        detector = Detector(self.bundle, _load_engine(self.bundle.folder))
        return WorkerContext(detector, self.app_state.store, self.connection, self.settings)

    def send(self, content: bytes = VIDEO, **options: Any) -> Response:
        """POST /detect."""
        return self.http.post("/detect", content=content, **options)

    def job(self, content: bytes = VIDEO, **params: str) -> str:
        """Submit a video and return the id of the queued job."""
        return str(self.send(content, params=params).json()["id"])

    def run_job(self, path: Path) -> Response:
        """Submit a video, run its job and return the response of its result."""
        job_id = self.job(path.read_bytes())
        self.context.run(job_id)
        return self.http.get(f"/jobs/{job_id}/result")


def _call_with_key(api: InProcessService, limits: OwnLimits, *calls: Callable[[dict[str, str]], Response]) -> Response:
    """Make calls with an API key of these limits and return the last response."""
    path = api.folder / "keys.json"
    _, secret = create(path, "caller", limits)
    assert secret not in read(path).model_dump_json()
    keyed = api.settings.model_copy(update={"api_keys_file": path})
    api.app_state.auth = Auth(keyed, api.connection)
    response = None
    for call in calls:
        response = call({"authorization": f"Bearer {secret}"})
    return response


def _timeout(api: InProcessService) -> Response:
    job_id = api.job()

    def unfinished(*_: Any, **__: Any) -> None:
        raise JobTimeoutException

    api.context.detector.detect = unfinished  # type: ignore[assignment, method-assign]
    api.context.run(job_id)
    return api.http.get(f"/jobs/{job_id}/result")


def _fault(api: InProcessService) -> Response:
    def broken(*_: Any) -> None:
        raise RuntimeError("a secret path")

    api.app_state.jobs.get = broken  # type: ignore[method-assign]
    return api.http.get("/jobs/0123")


def _too_slow(api: InProcessService) -> Response:
    api.app_state.settings = api.settings.model_copy(update={"upload_timeout_s": 1e-6})
    return api.send()


def _queue_full(api: InProcessService) -> Response:
    few = api.settings.model_copy(update={"max_queued_jobs": 1})
    api.app_state.admission = Admission(api.app_state.store, api.app_state.jobs, few)
    api.send()
    api.app_state.admission = Admission(api.app_state.store, api.app_state.jobs, few)
    return api.send()


def _disk_full(api: InProcessService) -> Response:
    api.app_state.store.free_bytes = lambda: 4096  # type: ignore[method-assign]
    return api.send()


def _overloaded(api: InProcessService) -> Response:
    """Respond as to a connection that service.server marked as overloaded."""
    api.http.app_state[OVERLOADED] = api.settings.max_connections
    return api.http.get("/labels")


def _two_lengths(api: InProcessService) -> Response:
    return api.send(headers={"content-length": str(len(VIDEO)), "transfer-encoding": "chunked"})


def _no_worker(api: InProcessService) -> Response:
    api.app_state.store.delete(MODEL_CARD)
    return api.http.get("/labels")


def _conflict(api: InProcessService) -> Response:
    key = {"idempotency-key": "interview-17"}
    api.send(headers=key)
    return api.send(VIDEO + b"x", headers=key)


def _in_progress(api: InProcessService) -> Response:
    """Send a request whose idempotency key is being processed by another process."""
    key = {"idempotency-key": "interview-17"}
    api.send(headers=key)
    [entry] = api.app_state.store.entries("idempotency")
    claim = Claim.model_validate_json(api.app_state.store.get(entry.key))
    unfinished = claim.model_copy(update={"queued": False, "at": datetime.now(UTC)})
    api.app_state.store.put(entry.key, unfinished.to_bytes())
    submission._WAIT_S = 0.1
    return api.send(headers=key)


def _range_beyond_end(api: InProcessService) -> Response:
    job_id = api.job(keep_video="true")
    return api.http.get(f"/jobs/{job_id}/video", headers={"range": "bytes=1000000-"})


def _deleted(api: InProcessService) -> Response:
    job_id = api.job()
    api.http.delete(f"/jobs/{job_id}")
    return api.http.get(f"/jobs/{job_id}")


def _expired(api: InProcessService) -> Response:
    record = api.app_state.jobs.get(make_finished_job(api.app_state))
    api.app_state.jobs.remove(record, "expired")
    return api.http.get(f"/jobs/{record.id}")


def _canceled(api: InProcessService) -> Response:
    job_id = api.job()
    api.http.post(f"/jobs/{job_id}/cancel")
    return api.http.get(f"/jobs/{job_id}/result")


def _damaged(api: InProcessService) -> Response:
    path = clips.pattern(api.folder / "whole.mp4", extra=("-movflags", "faststart"))
    content = bytearray(path.read_bytes())
    middle = content.index(b"mdat") + 8
    content[middle:] = bytes(len(content) - middle)
    path.write_bytes(content)
    return api.run_job(path)


def _unknown_codec(api: InProcessService) -> Response:
    path = clips.pattern(api.folder / "known.mp4", seconds=0.2)
    path.write_bytes(path.read_bytes().replace(b"avc1", b"zzz1"))
    return api.run_job(path)


def _many_streams(api: InProcessService) -> Response:
    streams = ("-map", "0:v") * (Limits().max_streams + 1)
    return api.run_job(clips.pattern(api.folder / "crowded.mkv", size="16x16", seconds=0.2, extra=streams))


def _encrypted(api: InProcessService) -> Response:
    key = ("-encryption_key", "00" * 16, "-encryption_kid", "11" * 16)
    encryption = ("-encryption_scheme", "cenc-aes-ctr", *key)
    return api.run_job(clips.pattern(api.folder / "secret.mp4", seconds=0.5, extra=encryption))


def _decoder_fault(fault: str, limits: Limits) -> Callable[[InProcessService], Response]:
    """Return a function that runs a job whose decoder process fails."""

    def provoke(api: InProcessService) -> Response:
        path = clips.pattern(api.folder / "plain.mp4", size="64x36", seconds=0.5)
        path.write_bytes(marked_bytes(path.read_bytes(), fault))
        api.context.limits = limits
        with closing(faulty_sandbox()) as api.context.detector.decoder:
            return api.run_job(path)

    return provoke


def _fast(api: InProcessService) -> Response:
    return api.run_job(clips.pattern(api.folder / "fast.mp4", size="64x64", seconds=2, rate="1000"))


# Functions that provoke each error code and return the response.
PROVOKERS: dict[str, Callable[[InProcessService], Response]] = {
    "unknown_parameter": lambda api: api.send(params={"min_confidence": "0.5"}),
    "invalid_parameter": lambda api: api.send(params={"min_score": "50"}),
    "malformed_upload": lambda api: api.http.post("/detect", files={"video": ("interview.mp4", VIDEO)}),
    "empty_upload": lambda api: api.send(b""),
    "upload_too_large": lambda api: api.send(VIDEO + bytes(1_000_000)),
    "upload_too_slow": _too_slow,
    "unsupported_content_encoding": lambda api: api.send(headers={"content-encoding": "br"}),
    "too_many_files": lambda api: api.http.post("/detect", files=[("file", ("x.mp4", VIDEO))] * 4),
    "idempotency_conflict": _conflict,
    "request_in_progress": _in_progress,
    "range_not_satisfiable": _range_beyond_end,
    "callback_refused": lambda api: api.send(params={"callback_url": "http://192.168.1.7/hook"}),
    "malformed_request": _two_lengths,
    "not_found": lambda api: api.http.get("/results"),
    "method_not_allowed": lambda api: api.http.get("/detect"),
    "not_a_video": lambda api: api.send(b"%PDF-1.7 " * 100),
    "no_video_stream": lambda api: api.run_job(clips.silence(api.folder / "sound.mp4")),
    "unsupported_codec": _unknown_codec,
    "video_too_long": lambda api: api.send(
        clips.pattern(api.folder / "long.mp4", size="64x64", seconds=25).read_bytes()
    ),
    "picture_too_large": lambda api: api.run_job(clips.pattern(api.folder / "large.mp4", size="640x480", seconds=0.5)),
    "frame_rate_too_high": _fast,
    "too_many_streams": _many_streams,
    "encrypted_video": _encrypted,
    "damaged_video": _damaged,
    "decoder_crashed": _decoder_fault("crash after frame", Limits()),
    "decoder_timeout": _decoder_fault("hang", Limits(max_stall_s=0.5)),
    "decoder_out_of_memory": _decoder_fault("exhaust memory", Limits()),
    "job_not_found": lambda api: api.http.get("/jobs/0195c0de"),
    "job_not_finished": lambda api: api.http.get(f"/jobs/{api.job()}/result"),
    "job_already_ended": lambda api: api.http.post(f"/jobs/{make_finished_job(api.app_state)}/cancel"),
    "job_canceled": _canceled,
    "job_deleted": _deleted,
    "job_expired": _expired,
    "video_not_kept": lambda api: api.http.get(f"/jobs/{make_finished_job(api.app_state)}/video"),
    "no_callback": lambda api: api.http.get(f"/jobs/{api.job()}/webhook"),
    "job_timeout": _timeout,
    "key_missing": lambda api: _call_with_key(api, OwnLimits(), lambda _: api.http.get("/jobs")),
    "key_unknown": lambda api: _call_with_key(
        api, OwnLimits(), lambda key: api.http.get("/jobs", headers={"authorization": key["authorization"] + "x"})
    ),
    "host_refused": lambda api: api.http.get("/labels", headers={"host": "rebound.example:8000"}),
    "origin_refused": lambda api: api.send(headers={"origin": "https://page.example"}),
    "rate_limited": lambda api: _call_with_key(
        api, OwnLimits(requests_per_minute=2), *[lambda key: api.http.get("/labels", headers=key)] * 3
    ),
    "too_many_jobs": lambda api: _call_with_key(
        api, OwnLimits(max_jobs=1), lambda key: api.send(headers=key), lambda key: api.send(headers=key)
    ),
    "storage_full": lambda api: _call_with_key(
        api, OwnLimits(max_stored_bytes=5000), lambda key: api.send(headers=key), lambda key: api.send(headers=key)
    ),
    "no_worker_yet": _no_worker,
    "queue_full": _queue_full,
    "disk_full": _disk_full,
    "overloaded": _overloaded,
    "internal_error": _fault,
}  # fmt: skip
