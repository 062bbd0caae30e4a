"""Hostile files fail with a documented error code or yield a partial result, within a memory limit."""

import io
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from model.bundle import Bundle
from model.detector import Detector
from model.engines import load_engine
from model.errors import VideoError
from model.transforms import Region
from model.video import Limits, Media
from service.app_state import AppState
from service.results import make_result
from service.schemas import Options, View
from tests.fake_service import VIDEO, stored_files
from tests.hostile_videos import CASES, PARTIAL, SUCCEEDED, Case, mutations, run
from tests.measuring_forkserver import MeasuredSandbox, measured_sandbox
from workers.serialization import make_stored_proposals

# The decoder process takes 40 MiB, and 170 MiB more to decode an 8K frame in two threads.
MAX_PEAK_MIB = 400
# 5 of each kind of mutation and valid file; 25 in a campaign.
MUTATIONS, CAMPAIGN_MUTATIONS, SEED = 210, 1050, 2025
EXPECTED_OUTCOMES = {
    SUCCEEDED, PARTIAL, "damaged_video", "not_a_video", "no_video_stream", "unsupported_codec", "video_too_long",
    "picture_too_large", "frame_rate_too_high", "too_many_streams", "encrypted_video", "decoder_out_of_memory",
}  # fmt: skip
SECURITY_GUIDE = Path(__file__).parents[1] / "docs/security.md"


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MeasuredSandbox]:
    with measured_sandbox(tmp_path_factory.mktemp("peaks")) as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def detector(bundle: Bundle, sandbox: MeasuredSandbox) -> Detector:
    return Detector(bundle, load_engine(bundle), decoder=sandbox)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_hostile_file_has_its_expected_outcome(
    case: Case, tmp_path: Path, detector: Detector, sandbox: MeasuredSandbox
) -> None:
    [outcome] = run([case], tmp_path, detector, sandbox)
    assert outcome.actual == case.expected
    assert outcome.peak_mib < MAX_PEAK_MIB
    assert case.expected == SUCCEEDED or f"`{case.expected}`" in SECURITY_GUIDE.read_text()


def test_truncated_video_has_a_partial_result(tmp_path: Path, detector: Detector) -> None:
    [case] = [case for case in CASES if case.name == "truncated MP4"]
    detected = detector.detect(io.BytesIO(case.make(tmp_path)), region=Region())
    stored = make_stored_proposals(detected, detector, Options(), job_id="j", video_sha256="0")
    result = make_result(stored, View())
    assert result.partial
    assert [entry.status for entry in result.coverage] == ["analysed", "damaged"]
    assert result.coverage[-1].end_s == result.media.duration_s == pytest.approx(6, abs=0.01)
    assert "video_damaged" in [entry.code for entry in result.warnings]


def test_mutated_files_have_an_expected_outcome(tmp_path: Path, sandbox: MeasuredSandbox, campaign: bool) -> None:
    """The sandbox reports unexpected failures as decoder_crashed, which is not among the expected outcomes."""
    print(f"seed {SEED}")  # noqa: T201
    count = CAMPAIGN_MUTATIONS if campaign else MUTATIONS
    outcomes: Counter[str] = Counter()
    for number, (name, content) in enumerate(mutations(SEED, tmp_path, count)):
        outcome = _decode(sandbox, content, whole=number % 2 == 0)
        assert outcome in EXPECTED_OUTCOMES, f"{number}: {name}"
        outcomes[outcome] += 1
    print(dict(outcomes))  # noqa: T201
    assert outcomes[PARTIAL] > count // 10
    assert outcomes[SUCCEEDED] > count // 10
    assert outcomes["damaged_video"] > count // 100
    assert max(sandbox.peaks_mib()) < MAX_PEAK_MIB


def _decode(sandbox: MeasuredSandbox, content: bytes, whole: bool) -> str:
    try:
        with closing(sandbox.open(io.BytesIO(content), Limits())) as video:
            shapes = {frame.shape for frame in (video.frames(10, 48, 48, None) if whole else video.frames(10, 32, 24))}
            assert video.media is not None
    except VideoError as error:
        return error.code
    assert len(shapes) == 1  # even if the frame size changes within the video
    _assert_in_order(video.media)
    return PARTIAL if video.media.damaged else SUCCEEDED


def _assert_in_order(media: Media) -> None:
    edges = [edge for interval in media.damaged for edge in interval]
    assert edges == sorted(set(edges))
    assert all(0 <= edge <= media.duration_s for edge in edges)


NAMES = [
    "../../../etc/passwd",
    "..\\..\\windows\\system32\\secret-name.mp4",
    "/absolute/secret-name.mp4",
    "secret-name\0.mp4",
    "secret-name" * 400,
    "Тайное-secret-name-видео.mp4",
    "secret-name\n{\"level\": \"error\"}.mp4",
    "$(touch secret-name).mp4",
    "",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_file_name_appears_only_in_its_job(
    name: str, tmp_path: Path, app_state: AppState, api: TestClient, capfd: pytest.CaptureFixture[str]
) -> None:
    """The stored name has no folders or control characters; it is neither logged nor used as a file name."""
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    body = b'--e\r\nContent-Disposition: form-data; name="file"; filename="' + name.encode() + b'"\r\n\r\n'
    response = api.post(
        "/detect", content=body + VIDEO + b"\r\n--e--\r\n", headers={"content-type": "multipart/form-data; boundary=e"}
    )
    captured = capfd.readouterr()
    other_text = response.text + captured.out + captured.err + "".join(stored_files(app_state))
    other_text += "".join(
        app_state.store.get(key).decode("latin-1") for key in stored_files(app_state) if not key.endswith("job.json")
    )
    for part in ("secret-name", "passwd", "Тайное", "Тайное".encode().decode("latin-1"), ".."):
        assert part not in other_text
    stored_name = api.get(f"/jobs/{response.json()['id']}").json()["name"] if response.status_code == 202 else None
    assert stored_name is None or (0 < len(stored_name) <= 255 and not set(stored_name) & set("/\\\0\n"))
    assert (stored_name is None) == (name == "" or response.status_code != 202)
    new = {path for path in tmp_path.rglob("*") if path.is_file()} - before
    assert all(path.is_relative_to(app_state.settings.store_dir) and "secret" not in path.name for path in new)
    assert response.status_code in (202, 400), response.text
    # An upload without a name, or with a line break in it, is not a file part: nothing is stored.
    assert response.status_code == 202 or stored_files(app_state) == []


def test_mutations_are_reproducible(tmp_path: Path) -> None:
    first, again = ([content for _, content in mutations(7, tmp_path, 5)] for _ in range(2))
    assert first == again
    assert len(set(first)) == 5
