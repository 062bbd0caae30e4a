"""What is no ordinary video gets its code, or a result that says what is missing; within bounds, and nothing unknown."""

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

# The process itself takes 40 MiB, a picture of 8K decoded by two threads some 170 more.
MOST_MIB = 400
# Of each kind of mutation and good file 5 or, in a campaign, 25.
MUTATIONS, CAMPAIGN_MUTATIONS, SEED = 210, 1050, 2025
ANSWERS = {
    SUCCEEDED, PARTIAL, "damaged_video", "not_a_video", "no_video_stream", "unsupported_codec", "video_too_long",
    "picture_too_large", "frame_rate_too_high", "too_many_streams", "encrypted_video", "decoder_out_of_memory",
}  # fmt: skip
DOCUMENT = Path(__file__).parents[1] / "docs/security.md"


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MeasuredSandbox]:
    with measured_sandbox(tmp_path_factory.mktemp("peaks")) as made:
        yield made


@pytest.fixture(scope="module")
def detector(bundle: Bundle, sandbox: MeasuredSandbox) -> Detector:
    return Detector(bundle, load_engine(bundle), decoder=sandbox)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_each_gets_its_answer(case: Case, tmp_path: Path, detector: Detector, sandbox: MeasuredSandbox) -> None:
    [outcome] = run([case], tmp_path, detector, sandbox)
    assert outcome.answer == case.answer
    assert outcome.peak_mib < MOST_MIB
    assert case.answer == SUCCEEDED or f"`{case.answer}`" in DOCUMENT.read_text()


def test_a_part_of_a_video_makes_a_partial_result(tmp_path: Path, detector: Detector) -> None:
    [case] = [case for case in CASES if case.name == "MP4 cut off"]
    found = detector.detect(io.BytesIO(case.make(tmp_path)), region=Region())
    stored = make_stored_proposals(found, detector, Options(), job_id="j", video_sha256="0")
    result = make_result(stored, View())
    assert result.partial
    assert [one.status for one in result.coverage] == ["analysed", "damaged"]
    assert result.coverage[-1].end_s == result.media.duration_s == pytest.approx(6, abs=0.01)
    assert "video_damaged" in [one.code for one in result.warnings]


def test_mutations_of_good_files_get_an_answer(tmp_path: Path, sandbox: MeasuredSandbox, campaign: bool) -> None:
    """The sandbox calls whatever it does not know decoder_crashed, which is none of these."""
    print(f"seed {SEED}")  # noqa: T201
    count = CAMPAIGN_MUTATIONS if campaign else MUTATIONS
    found: Counter[str] = Counter()
    for number, (name, content) in enumerate(mutations(SEED, tmp_path, count)):
        answer = _answer(sandbox, content, whole=number % 2 == 0)
        assert answer in ANSWERS, f"{number}: {name}"
        found[answer] += 1
    print(dict(found))  # noqa: T201
    assert found[PARTIAL] > count // 10
    assert found[SUCCEEDED] > count // 10
    assert found["damaged_video"] > count // 100
    assert max(sandbox.peaks_mib()) < MOST_MIB


def _answer(sandbox: MeasuredSandbox, content: bytes, whole: bool) -> str:
    try:
        with closing(sandbox.open(io.BytesIO(content), Limits())) as video:
            shapes = {frame.shape for frame in (video.frames(10, 48, 48, None) if whole else video.frames(10, 32, 24))}
            assert video.media is not None
    except VideoError as error:
        return error.code
    assert len(shapes) == 1  # whatever sizes there are within
    _assert_in_order(video.media)
    return PARTIAL if video.media.damaged else SUCCEEDED


def _assert_in_order(media: Media) -> None:
    edges = [edge for stretch in media.damaged for edge in stretch]
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
def test_a_files_name_is_in_its_job_alone(
    name: str, tmp_path: Path, app_state: AppState, api: TestClient, capfd: pytest.CaptureFixture[str]
) -> None:
    """Without folders and control characters, and neither in a log nor in the name of a file."""
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    body = b'--e\r\nContent-Disposition: form-data; name="file"; filename="' + name.encode() + b'"\r\n\r\n'
    answer = api.post(
        "/detect", content=body + VIDEO + b"\r\n--e--\r\n", headers={"content-type": "multipart/form-data; boundary=e"}
    )
    told = capfd.readouterr()
    elsewhere = answer.text + told.out + told.err + "".join(stored_files(app_state))
    elsewhere += "".join(
        app_state.store.get(key).decode("latin-1") for key in stored_files(app_state) if not key.endswith("job.json")
    )
    for trace in ("secret-name", "passwd", "Тайное", "Тайное".encode().decode("latin-1"), ".."):
        assert trace not in elsewhere
    kept = api.get(f"/jobs/{answer.json()['id']}").json()["name"] if answer.status_code == 202 else None
    assert kept is None or (0 < len(kept) <= 255 and not set(kept) & set("/\\\0\n"))
    assert (kept is None) == (name == "" or answer.status_code != 202)
    new = {path for path in tmp_path.rglob("*") if path.is_file()} - before
    assert all(path.is_relative_to(app_state.settings.store_dir) and "secret" not in path.name for path in new)
    assert answer.status_code in (202, 400), answer.text
    # Without a name, or with one that ends the header's line, it is no file, and nothing of it stays.
    assert answer.status_code == 202 or stored_files(app_state) == []


def test_mutations_are_the_same_each_time(tmp_path: Path) -> None:
    first, again = ([content for _, content in mutations(7, tmp_path, 5)] for _ in range(2))
    assert first == again
    assert len(set(first)) == 5
