"""Every error of the catalogue, provoked through the API as a caller would meet it. The
documentation's examples of errors are these answers: see tests/examples.py."""

from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rq.timeouts import JobTimeoutException
from starlette.testclient import TestClient

from model.bundle import Bundle
from model.detector import Detector
from model.engines import load_engine
from model.video import Limits
from service import submission
from service.admission import Admission
from service.app import app_of
from service.app_state import AppState
from service.auth import Auth
from service.keys import OwnLimits, create, read
from service.middleware import OVERLOADED
from service.queue import connect
from service.settings import Settings
from service.store import MODEL_CARD, FolderStore
from service.submission import Claim
from tests import clips
from tests.fake_service import VIDEO, RecordingQueue, card, finished_job
from tests.faulty_forkserver import faulty_sandbox, marked_bytes
from workers.run import WorkerContext

Answer = Any


class Counter:
    """A service in this process, with a caller in front of it: sends, works off, asks."""

    def __init__(self, folder: Path, bundle: Bundle, redis_url: str) -> None:
        self.folder = folder
        self.settings = Settings(
            data_dir=folder, max_upload_bytes=1_000_000, max_batch_files=3, max_duration_s=20, max_pixels=320 * 240,
            redis_url=redis_url,
        )  # fmt: skip
        store = FolderStore(self.settings.store_dir)
        store.put(MODEL_CARD, card().model_dump_json().encode())
        self.connection = connect(self.settings, retries=0)
        self.app_state = AppState(
            self.settings, store, RecordingQueue(store), Auth(self.settings, self.connection)
        )
        detector = Detector(bundle, load_engine(bundle, "openvino", "cpu", folder / "cache"))
        self.context = WorkerContext(detector, store, self.connection, self.settings)
        # A request's id is in every problem document: the same one in examples made today and tomorrow.
        named = {"x-request-id": "interview-17"}
        self.http = TestClient(
            app_of(self.app_state), "http://127.0.0.1", raise_server_exceptions=False, headers=named
        )

    def send(self, content: bytes = VIDEO, **options: Any) -> Answer:
        """POST /detect."""
        return self.http.post("/detect", content=content, **options)

    def job(self, content: bytes = VIDEO, **params: str) -> str:
        """The id of a job that waits."""
        return str(self.send(content, params=params).json()["id"])

    def result_of(self, path: Path) -> Answer:
        """What a video's result says when its job has been worked off."""
        job_id = self.job(path.read_bytes())
        self.context.run(job_id)
        return self.http.get(f"/jobs/{job_id}/result")


def _keyed(at: Counter, limits: OwnLimits, *calls: Callable[[dict[str, str]], Answer]) -> Answer:
    """The last answer to a caller with a key of these limits."""
    path = at.folder / "keys.json"
    _, secret = create(path, "caller", limits)
    assert secret not in read(path).model_dump_json()
    keyed = at.settings.model_copy(update={"api_keys_file": path})
    at.app_state.auth = Auth(keyed, at.connection)
    answer = None
    for call in calls:
        answer = call({"authorization": f"Bearer {secret}"})
    return answer


def _timeout(at: Counter) -> Answer:
    job_id = at.job()

    def slow(*_: Any, **__: Any) -> None:
        raise JobTimeoutException

    at.context.detector.detect = slow  # type: ignore[assignment, method-assign]
    at.context.run(job_id)
    return at.http.get(f"/jobs/{job_id}/result")


def _fault(at: Counter) -> Answer:
    def broken(*_: Any) -> None:
        raise RuntimeError("a secret path")

    at.app_state.jobs.get = broken  # type: ignore[method-assign]
    return at.http.get("/jobs/0123")


def _too_slow(at: Counter) -> Answer:
    at.app_state.settings = at.settings.model_copy(update={"upload_timeout_s": 1e-6})
    return at.send()


def _queue_full(at: Counter) -> Answer:
    few = at.settings.model_copy(update={"max_queued_jobs": 1})
    at.app_state.admission = Admission(at.app_state.store, at.app_state.jobs, few)
    at.send()
    at.app_state.admission = Admission(at.app_state.store, at.app_state.jobs, few)
    return at.send()


def _disk_full(at: Counter) -> Answer:
    at.app_state.store.free_bytes = lambda: 4096  # type: ignore[method-assign]
    return at.send()


def _overloaded(at: Counter) -> Answer:
    """As service.server marks a connection."""
    at.http.app_state[OVERLOADED] = at.settings.max_connections
    return at.http.get("/labels")


def _two_lengths(at: Counter) -> Answer:
    return at.send(headers={"content-length": str(len(VIDEO)), "transfer-encoding": "chunked"})


def _no_worker(at: Counter) -> Answer:
    at.app_state.store.delete(MODEL_CARD)
    return at.http.get("/labels")


def _conflict(at: Counter) -> Answer:
    key = {"idempotency-key": "interview-17"}
    at.send(headers=key)
    return at.send(VIDEO + b"x", headers=key)


def _in_progress(at: Counter) -> Answer:
    """Another process makes the jobs of this key, and is slow."""
    key = {"idempotency-key": "interview-17"}
    at.send(headers=key)
    [place] = at.app_state.store.entries("idempotency")
    claim = Claim.model_validate_json(at.app_state.store.get(place.key))
    slow = claim.model_copy(update={"queued": False, "at": datetime.now(UTC)})
    at.app_state.store.put(place.key, slow.dump())
    submission._WAIT_S = 0.1
    return at.send(headers=key)


def _beyond(at: Counter) -> Answer:
    job_id = at.job(keep_video="true")
    return at.http.get(f"/jobs/{job_id}/video", headers={"range": "bytes=1000000-"})


def _deleted(at: Counter) -> Answer:
    job_id = at.job()
    at.http.delete(f"/jobs/{job_id}")
    return at.http.get(f"/jobs/{job_id}")


def _expired(at: Counter) -> Answer:
    record = at.app_state.jobs.get(finished_job(at.app_state))
    at.app_state.jobs.remove(record, "expired")
    return at.http.get(f"/jobs/{record.id}")


def _canceled(at: Counter) -> Answer:
    job_id = at.job()
    at.http.post(f"/jobs/{job_id}/cancel")
    return at.http.get(f"/jobs/{job_id}/result")


def _garbled(at: Counter) -> Answer:
    path = clips.pattern(at.folder / "whole.mp4", extra=("-movflags", "faststart"))
    content = bytearray(path.read_bytes())
    middle = content.index(b"mdat") + 8
    content[middle:] = bytes(len(content) - middle)
    path.write_bytes(content)
    return at.result_of(path)


def _unknown_codec(at: Counter) -> Answer:
    path = clips.pattern(at.folder / "known.mp4", seconds=0.2)
    path.write_bytes(path.read_bytes().replace(b"avc1", b"zzz1"))
    return at.result_of(path)


def _crowded(at: Counter) -> Answer:
    streams = ("-map", "0:v") * (Limits().max_streams + 1)
    return at.result_of(clips.pattern(at.folder / "crowded.mkv", size="16x16", seconds=0.2, extra=streams))


def _encrypted(at: Counter) -> Answer:
    key = ("-encryption_key", "00" * 16, "-encryption_kid", "11" * 16)
    coded = ("-encryption_scheme", "cenc-aes-ctr", *key)
    return at.result_of(clips.pattern(at.folder / "secret.mp4", seconds=0.5, extra=coded))


def _decoder_fault(fault: str, limits: Limits) -> Callable[[Counter], Answer]:
    """The process that decodes goes wrong."""

    def provoke(at: Counter) -> Answer:
        path = clips.pattern(at.folder / "plain.mp4", size="64x36", seconds=0.5)
        path.write_bytes(marked_bytes(path.read_bytes(), fault))
        at.context.limits = limits
        with closing(faulty_sandbox()) as at.context.detector.decoder:
            return at.result_of(path)

    return provoke


def _fast(at: Counter) -> Answer:
    return at.result_of(clips.pattern(at.folder / "fast.mp4", size="64x64", seconds=2, rate="1000"))


# Each as (counter) -> response.
PROVOKED: dict[str, Callable[[Counter], Answer]] = {
    "unknown_parameter": lambda at: at.send(params={"min_confidence": "0.5"}),
    "invalid_parameter": lambda at: at.send(params={"min_score": "50"}),
    "malformed_upload": lambda at: at.http.post("/detect", files={"video": ("interview.mp4", VIDEO)}),
    "empty_upload": lambda at: at.send(b""),
    "upload_too_large": lambda at: at.send(VIDEO + bytes(1_000_000)),
    "upload_too_slow": _too_slow,
    "unsupported_content_encoding": lambda at: at.send(headers={"content-encoding": "br"}),
    "too_many_files": lambda at: at.http.post("/detect", files=[("file", ("x.mp4", VIDEO))] * 4),
    "idempotency_conflict": _conflict,
    "request_in_progress": _in_progress,
    "range_not_satisfiable": _beyond,
    "callback_refused": lambda at: at.send(params={"callback_url": "http://192.168.1.7/hook"}),
    "malformed_request": _two_lengths,
    "not_found": lambda at: at.http.get("/results"),
    "method_not_allowed": lambda at: at.http.get("/detect"),
    "not_a_video": lambda at: at.send(b"%PDF-1.7 " * 100),
    "no_video_stream": lambda at: at.result_of(clips.silence(at.folder / "sound.mp4")),
    "unsupported_codec": _unknown_codec,
    "video_too_long": lambda at: at.send(
        clips.pattern(at.folder / "long.mp4", size="64x64", seconds=25).read_bytes()
    ),
    "picture_too_large": lambda at: at.result_of(clips.pattern(at.folder / "large.mp4", size="640x480", seconds=0.5)),
    "frame_rate_too_high": _fast,
    "too_many_streams": _crowded,
    "encrypted_video": _encrypted,
    "damaged_video": _garbled,
    "decoder_crashed": _decoder_fault("crash amid", Limits()),
    "decoder_timeout": _decoder_fault("hang", Limits(max_stall_s=0.5)),
    "decoder_out_of_memory": _decoder_fault("hog", Limits()),
    "job_not_found": lambda at: at.http.get("/jobs/0195c0de"),
    "job_not_finished": lambda at: at.http.get(f"/jobs/{at.job()}/result"),
    "job_already_ended": lambda at: at.http.post(f"/jobs/{finished_job(at.app_state)}/cancel"),
    "job_canceled": _canceled,
    "job_deleted": _deleted,
    "job_expired": _expired,
    "video_not_kept": lambda at: at.http.get(f"/jobs/{finished_job(at.app_state)}/video"),
    "no_callback": lambda at: at.http.get(f"/jobs/{at.job()}/webhook"),
    "job_timeout": _timeout,
    "key_missing": lambda at: _keyed(at, OwnLimits(), lambda _: at.http.get("/jobs")),
    "key_unknown": lambda at: _keyed(
        at, OwnLimits(), lambda key: at.http.get("/jobs", headers={"authorization": key["authorization"] + "x"})
    ),
    "host_refused": lambda at: at.http.get("/labels", headers={"host": "rebound.example:8000"}),
    "origin_refused": lambda at: at.send(headers={"origin": "https://page.example"}),
    "rate_limited": lambda at: _keyed(
        at, OwnLimits(requests_per_minute=2), *[lambda key: at.http.get("/labels", headers=key)] * 3
    ),
    "too_many_jobs": lambda at: _keyed(
        at, OwnLimits(max_jobs=1), lambda key: at.send(headers=key), lambda key: at.send(headers=key)
    ),
    "storage_full": lambda at: _keyed(
        at, OwnLimits(max_stored_bytes=5000), lambda key: at.send(headers=key), lambda key: at.send(headers=key)
    ),
    "no_worker_yet": _no_worker,
    "queue_full": _queue_full,
    "disk_full": _disk_full,
    "overloaded": _overloaded,
    "internal_error": _fault,
}  # fmt: skip
