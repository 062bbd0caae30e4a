"""The detector on real video with a predictable network that detects white frames."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from model.bundle import Bundle
from model.detections import Detections
from model.detector import Detector
from model.engines import RawPoints, load_engine
from model.segments import point_grid
from model.transforms import Region
from model.video import Limits
from tests import clips

ACTION = 20


class WhiteSpotter:
    """Proposes ACTION for every run of white frames, from the finest level's point in its middle."""

    name, device, precision = "white", "cpu", "fp32"

    def __init__(self, bundle: Bundle) -> None:
        self.positions, _ = point_grid(bundle.manifest.input.window_frames, bundle.manifest.architecture.head.strides)
        self.actions = len(bundle.manifest.taxonomy.actions)
        self.windows = 0

    def run(self, clips: np.ndarray, mask: np.ndarray) -> RawPoints:
        self.windows += 1
        frames = clips.reshape(-1, *clips.shape[2:])[: mask.sum()]
        white = np.concatenate([[False], frames.mean(axis=(1, 2, 3)) > 128, [False]])
        starts = np.flatnonzero(~white[:-1] & white[1:])
        ends = np.flatnonzero(white[:-1] & ~white[1:])
        logits = np.full((len(self.positions), self.actions), -20, np.float32)
        offsets = np.zeros((len(self.positions), 2), np.float32)
        for start, end in zip(starts, ends, strict=True):
            middle = (start + end) // 2
            logits[middle, ACTION] = 5
            offsets[middle] = [middle - start, end - middle]
        return RawPoints(logits, offsets)


def detect(bundle: Bundle, path: Path, **options: object) -> tuple[Detections, WhiteSpotter]:
    """Detect in the whole picture, as these clips show no people."""
    spotter = WhiteSpotter(bundle)
    with path.open("rb") as file:
        return Detector(bundle, spotter).detect(file, **({"region": Region()} | options)), spotter  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("start_s", "end_s", "seconds"),
    [
        (0.0, 2.0, 6),  # shorter than a window
        (1.0, 3.0, 30),  # in the first window only
        (10.0, 12.0, 30),  # in the overlap of the first two windows
        (12.0, 14.0, 30),  # across the end of the first window
        (7.0, 9.5, 30),  # across the start of the second
        (5.0, 27.0, 30),  # longer than a window
        (28.0, 30.0, 30),  # to the end of the video, in the shifted last window
    ],
)
def test_action_is_detected_once_at_any_position(
    bundle: Bundle, tmp_path: Path, start_s: float, end_s: float, seconds: float
) -> None:
    path = clips.white_between(tmp_path / "white.mp4", start_s, end_s, seconds)
    detections, spotter = detect(bundle, path)
    assert spotter.windows == (1 if seconds < 12.8 else 4)
    np.testing.assert_allclose(detections.proposals.segments, [[start_s, end_s]], atol=1 / 15)
    assert detections.proposals.labels.tolist() == [ACTION]
    assert (detections.coverage[0].start_s, detections.coverage[0].end_s) == (0, pytest.approx(seconds, abs=0.01))


def test_wide_picture_gives_notice_and_region_is_analysed(bundle: Bundle, tmp_path: Path) -> None:
    path = clips.pattern(tmp_path / "wide.mp4", size="640x180", seconds=1)
    detections, _ = detect(bundle, path)
    assert [notice.code for notice in detections.notices] == ["picture_cropped"]
    assert "28%" in detections.notices[0].detail
    square = clips.pattern(tmp_path / "square.mp4", size="180x180", seconds=1)
    assert detect(bundle, square)[0].notices == ()
    assert detect(bundle, square, region=Region(0, 0, 0.5, 0.5))[0].media.analysed_fraction == pytest.approx(0.25)


def test_bundle_postprocessing_is_used(bundle: Bundle, clip: Path) -> None:
    engine = load_engine(bundle)
    with clip.open("rb") as file:
        plain = Detector(bundle, engine).detect(file, region=Region()).proposals
    changes = {"proposals": 30, "soft_nms_sigma": 0.05, "candidates": 100}
    config = bundle.manifest.postprocessing.model_copy(update=changes)
    other = replace(bundle, manifest=bundle.manifest.model_copy(update={"postprocessing": config}))
    with clip.open("rb") as file:
        changed = Detector(other, engine).detect(file, region=Region()).proposals
    assert len(plain) == 200
    assert len(changed) == 30
    assert changed.scores[-1] < plain.scores[29]  # a smaller sigma suppresses more


@pytest.mark.parametrize(
    ("start_s", "end_s", "damaged_part"), [(1.0, 2.0, ()), (1.5, 2.0, (0.3, 0.6)), (5.0, 6.0, (0.75, 1))]
)
def test_intact_parts_of_damaged_video_are_analysed(
    bundle: Bundle, tmp_path: Path, start_s: float, end_s: float, damaged_part: tuple[float, ...]
) -> None:
    """No action is reported in the damaged part, where the last intact frame is repeated."""
    path = tmp_path / "white.mov"
    white = f"between(t,{start_s},{end_s - 1 / 30})"
    source = f"color=white:s=64x64:r=15:d=6,geq=lum='255*{white}':cb=128:cr=128".replace("t,", "T,")
    clips.ffmpeg("-f", "lavfi", "-i", source, "-c:v", "mjpeg", "-pix_fmt", "yuvj420p", "-g", "1", str(path))
    content = bytearray(path.read_bytes())
    media = content.index(b"mdat"), content.rindex(b"moov")
    if damaged_part:
        first, last = (int(media[0] + share * (media[1] - media[0])) for share in damaged_part)
        content[first + 8 : last] = bytes(len(content[first + 8 : last]))
        path.write_bytes(content)
    detections, _ = detect(bundle, path)
    assert [entry.code for entry in detections.notices] == (["video_damaged"] if damaged_part else [])
    statuses = [entry.status for entry in detections.coverage]
    assert "damaged" in statuses or not damaged_part
    edges = [(entry.start_s, entry.end_s) for entry in detections.coverage]
    assert edges[0][0] == 0
    assert edges[-1][1] == detections.media.duration_s == pytest.approx(6, abs=0.01)
    assert all(entry[1] == other[0] for entry, other in pairwise(edges))
    damaged = [(entry.start_s, entry.end_s) for entry in detections.coverage if entry.status == "damaged"]
    for start, end in detections.proposals.segments.tolist():
        assert not any(left <= (start + end) / 2 < right for left, right in damaged)
    if not damaged_part:
        np.testing.assert_allclose(detections.proposals.segments, [[start_s, end_s]], atol=1 / 15)


def test_limits_reach_the_decoder(bundle: Bundle, clip: Path) -> None:
    with pytest.raises(Exception, match="MMAD_MAX_DURATION_S"):
        detect(bundle, clip, limits=Limits(max_duration_s=1))


@pytest.mark.parametrize("declared", [True, False])
def test_progress_rises_from_start_to_end(bundle: Bundle, tmp_path: Path, declared: bool) -> None:
    """Also without a declared duration, as in recordings of browsers."""
    path = tmp_path / "recorded.mkv"
    extra = [] if declared else ["-live", "1"]
    path.write_bytes(clips.ffmpeg("-f", "lavfi", "-i", "testsrc2=d=8", *extra, "-f", "matroska", "-"))
    calls: list[tuple[str, float]] = []
    detect(bundle, path, progress=lambda stage, fraction: calls.append((stage, fraction)))
    assert {stage for stage, _ in calls} == {"decoding", "detecting"}
    assert [fraction for _, fraction in calls] == sorted(fraction for _, fraction in calls)
    fractions = [fraction for stage, fraction in calls if stage == "detecting"]
    assert calls[0] == ("decoding", 0.0)
    assert len(fractions) > 100  # at every frame, where a caller may stop the work
    assert fractions[0] < 0.5 < 0.9 < fractions[-1] <= 1


@pytest.mark.parametrize("late_s", [0, 2])
def test_video_that_starts_after_audio_gives_notice(late_s: int, bundle: Bundle, tmp_path: Path) -> None:
    white = clips.white_between(tmp_path / "white.mp4", 1.0, 2.0, 3.0)
    path = tmp_path / "late.mp4"
    sound = ("-f", "lavfi", "-i", "sine=d=5", "-map", "0:v", "-map", "1:a", "-c:v", "copy")
    clips.ffmpeg("-itsoffset", str(late_s), "-i", str(white), *sound, str(path))
    detections, _ = detect(bundle, path)
    late = [notice.detail for notice in detections.notices if notice.code == "video_starts_late"]
    assert len(late) == (late_s > 0)
    assert not late or "2.00 s" in late[0]
    assert detections.media.start_offset_s == pytest.approx(late_s, abs=0.001)
    assert detections.media.duration_s == pytest.approx(3, abs=0.001)
    assert detections.proposals.segments[0] == pytest.approx([1, 2], abs=0.2)  # from the first frame on
