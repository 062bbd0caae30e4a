"""Crops around the located person, with locators that return given boxes."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.bundle import Bundle, InputConfig, LocatorConfig
from model.detections import CoverageInterval, Detections, Notice, WindowPeople, find_coverage, make_notices
from model.detector import Detector
from model.engines import RawPoints
from model.person_crop import SAMPLED_FRAMES, PersonCropper, choose_person, count_people, sample_indices
from model.transforms import Box, Region, crop_and_scale, crop_around
from model.video import Media
from tests import clips
from tests.test_detector import WhiteSpotter

NO_BOXES = np.zeros((0, 4), np.float32)
LEFT, RIGHT = ((20, 20, 40, 60), (90, 20, 110, 60))


def boxes(*sides: tuple[float, ...]) -> np.ndarray:
    return np.array(sides, np.float32).reshape(-1, 4)


class FakeLocator:
    """Locator that returns given boxes for each window (the last for all further ones) and records the frames."""

    def __init__(self, *windows: np.ndarray) -> None:
        self.windows = list(windows)
        self.shown: list[np.ndarray] = []

    def find(self, frames: np.ndarray) -> list[np.ndarray]:
        self.shown.append(frames)
        return [self.windows[min(len(self.shown), len(self.windows)) - 1]] * len(frames)


class RecordingSpotter(WhiteSpotter):
    """WhiteSpotter that records each window's mean brightness."""

    def __init__(self, bundle: Bundle) -> None:
        super().__init__(bundle)
        self.means: list[float] = []

    def run(self, clips: np.ndarray, mask: np.ndarray) -> RawPoints:
        self.means.append(float(clips.mean()))
        return super().run(clips, mask)


@pytest.fixture
def half_white(tmp_path: Path) -> Path:
    """A clip of 30 s and 128 x 64 pixels with the left half black, the right half white."""
    path = tmp_path / "half.mp4"
    sides = "color=black:s=64x64:r=15:d=30[l];color=white:s=64x64:r=15:d=30[r];[l][r]hstack"
    clips.ffmpeg("-f", "lavfi", "-i", sides, "-pix_fmt", "yuv420p", str(path))
    return path


def detect(
    bundle: Bundle, path: Path, locator: FakeLocator, region: Region | None = None
) -> tuple[Detections, RecordingSpotter]:
    config = LocatorConfig(size=128, threshold=0.4, margin=1.0)
    manifest = bundle.manifest.model_copy(update={"locator": config})
    recorder = RecordingSpotter(bundle)
    detector = Detector(Bundle(bundle.folder, manifest), recorder, locator)
    with path.open("rb") as file:
        return detector.detect(file, region=region), recorder


def test_each_window_has_its_own_crop(bundle: Bundle, half_white: Path) -> None:
    locator = FakeLocator(boxes(RIGHT), boxes(LEFT), boxes(RIGHT))
    detections, recorder = detect(bundle, half_white, locator)
    assert [round(mean, -1) for mean in recorder.means] == [260, 0, 260, 260]
    assert [frames.shape for frames in locator.shown] == [(SAMPLED_FRAMES, 64, 128, 3)] * 4
    assert detections.coverage == (CoverageInterval(0.0, pytest.approx(30), "analysed"),)  # type: ignore[arg-type]
    assert detections.notices == ()


def test_region_overrides_locator(bundle: Bundle, half_white: Path) -> None:
    locator = FakeLocator(boxes(LEFT))
    detections, recorder = detect(bundle, half_white, locator, Region(0.5, 0, 0.5, 1))
    assert locator.shown == []
    assert min(recorder.means) > 250
    assert detections.notices[0].code == "picture_cropped"
    assert detect(bundle, half_white, locator, Region())[1].means[0] == pytest.approx(128, abs=8)
    assert locator.shown == []


def test_bundle_without_locator_crops_the_middle(bundle: Bundle, half_white: Path) -> None:
    plain = Bundle(bundle.folder, bundle.manifest.model_copy(update={"locator": None}))
    with half_white.open("rb") as file:
        detections = Detector(plain, WhiteSpotter(bundle)).detect(file)
    assert [notice.code for notice in detections.notices] == ["picture_cropped"]


def test_video_without_people_is_not_analysed(bundle: Bundle, half_white: Path) -> None:
    detections, recorder = detect(bundle, half_white, FakeLocator(NO_BOXES))
    assert recorder.windows == 0
    assert len(detections.proposals) == 0
    assert detections.coverage == (CoverageInterval(0.0, pytest.approx(30), "no_person"),)  # type: ignore[arg-type]
    assert [notice.code for notice in detections.notices] == ["no_person"]
    assert "0.0-30.0 s" in detections.notices[0].detail
    assert "region=x,y,width,height" in detections.notices[0].detail


def test_windows_without_people_are_skipped(bundle: Bundle, half_white: Path) -> None:
    """Windows start at 0, 8.5, 17.1 and 17.2 s and last 12.8 s; only the first and the last show a person."""
    detections, recorder = detect(bundle, half_white, FakeLocator(boxes(RIGHT), NO_BOXES, NO_BOXES, boxes(RIGHT)))
    assert recorder.windows == 2
    times = [(interval.start_s, interval.end_s, interval.status) for interval in detections.coverage]
    assert times == [
        (0.0, pytest.approx(12.8), "analysed"),
        (pytest.approx(12.8), pytest.approx(17.2), "no_person"),
        (pytest.approx(17.2), pytest.approx(30), "analysed"),
    ]
    assert "12.8-17.2 s" in detections.notices[0].detail
    # White from the first to the last frame of both: nothing was joined across the gap.
    np.testing.assert_allclose(np.sort(detections.proposals.segments, axis=0), [[0, 12.8], [17.2, 30]], atol=1 / 15)


def test_several_people_give_notice(bundle: Bundle, half_white: Path) -> None:
    larger = (80, 10, 110, 60)
    detections, recorder = detect(bundle, half_white, FakeLocator(boxes(LEFT, larger), boxes(larger)))
    assert min(recorder.means) > 200
    assert [notice.code for notice in detections.notices] == ["several_people"]
    assert detections.notices[0].detail.startswith("2 people were found at 0.0-12.8 s: the largest was looked at")
    assert "region=x,y,width,height" in detections.notices[0].detail


def test_sampled_frames_are_evenly_spread() -> None:
    assert sample_indices(101).tolist() == [0, 25, 50, 75, 100]
    assert sample_indices(3).tolist() == [0, 1, 2]
    assert sample_indices(1).tolist() == [0]


PEOPLE = (LEFT, RIGHT, (55, 20, 75, 60), (30, 20, 50, 60))


@pytest.mark.parametrize(
    ("frames", "people"),
    [
        ("- - - - -", 0),
        ("- 0 - - -", 0),  # a texture that looks like a person for one frame
        ("- 0 - 1 -", 1),
        ("0 - - - 0", 1),
        ("0 0 01 0 0", 1),
        ("0 01 01 01 0", 1),  # in too few frames to count
        ("0 01 01 01 01", 2),
        ("01 02 01 02 01", 1),  # the second box changes its position
        ("012 012 01 012 012", 3),
        ("012", 3),
        ("0 -", 0),
        ("01 01", 2),
        ("03 03 03 03 03", 1),  # half of one box lies in the other
    ],
)
def test_people_are_counted_over_sampled_frames(frames: str, people: int) -> None:
    """Each sampled frame lists the indices of the people in it."""
    boxes_by_frame = [boxes(*(PEOPLE[int(number)] for number in frame.strip("-"))) for frame in frames.split()]
    assert count_people(boxes_by_frame) == people


def test_window_with_person_in_one_frame_is_not_analysed(bundle: Bundle, half_white: Path) -> None:
    class BlinkingLocator(FakeLocator):
        def find(self, frames: np.ndarray) -> list[np.ndarray]:
            return [boxes(RIGHT), *[NO_BOXES] * (len(frames) - 1)]

    detections, recorder = detect(bundle, half_white, BlinkingLocator())
    assert recorder.windows == 0
    assert [notice.code for notice in detections.notices] == ["no_person"]


def test_person_box_is_union_over_sampled_frames() -> None:
    boxes_by_frame = [boxes((20, 20, 40, 60), RIGHT), boxes(RIGHT, (15, 20, 45, 62)), NO_BOXES, boxes((22, 18, 44, 60))]
    assert choose_person(boxes_by_frame) is not None
    np.testing.assert_array_equal(choose_person(boxes_by_frame), [15, 18, 45, 62])
    assert choose_person([NO_BOXES, NO_BOXES]) is None


def test_previous_person_is_chosen_unless_other_is_much_larger() -> None:
    boxes_by_frame = [boxes(LEFT, (85, 18, 110, 60))] * SAMPLED_FRAMES
    previous = boxes(LEFT)[0]
    np.testing.assert_array_equal(choose_person(boxes_by_frame), boxes_by_frame[0][1])
    np.testing.assert_array_equal(choose_person(boxes_by_frame, previous), boxes_by_frame[0][0])
    large = [boxes(LEFT, (70, 0, 120, 64))] * SAMPLED_FRAMES
    np.testing.assert_array_equal(choose_person(large, previous), large[0][1])


def test_crop_follows_first_person(bundle: Bundle, half_white: Path) -> None:
    wider = (80, 20, 105, 60)
    detections, recorder = detect(bundle, half_white, FakeLocator(boxes(LEFT), boxes(LEFT, wider)))
    assert max(recorder.means) < 10
    assert "8.5-30.0 s" in detections.notices[0].detail


def test_crop_has_margin_and_aspect_ratio() -> None:
    # 40 high with margin 1.5 is 60 high, 90 wide, around (100, 50).
    assert crop_around(boxes((90, 30, 110, 70))[0], 300, 200, 1.5, 1.5) == (55, 20, 90, 60)
    # A lying person: the width decides.
    assert crop_around(boxes((50, 90, 150, 110))[0], 300, 200, 1.0, 1.2) == (40, 40, 120, 120)
    # Moved inside at the corner; no larger than the picture.
    assert crop_around(boxes((280, 180, 300, 200))[0], 300, 200, 1.0, 2.0) == (260, 160, 40, 40)
    assert crop_around(boxes((100, 0, 200, 200))[0], 300, 200, 1.0, 1.17) == (50, 0, 200, 200)


@given(
    width=st.integers(8, 600), height=st.integers(8, 600), aspect=st.floats(0.3, 3), margin=st.floats(1, 2),
    edges=st.lists(st.floats(0, 1), min_size=4, max_size=4),
)  # fmt: skip
def test_crop_lies_inside_picture(width: int, height: int, aspect: float, margin: float, edges: list[float]) -> None:
    (left, right), (top, bottom) = sorted(edges[:2]), sorted(edges[2:])
    person = boxes((left * width, top * height, right * width, bottom * height))[0]
    box = crop_around(person, width, height, aspect, margin)
    assert 0 <= box.x <= box.x + box.width <= width
    assert 0 <= box.y <= box.y + box.height <= height
    assert min(box.width, box.height) >= 1


def test_crop_and_scale_averages_by_area() -> None:
    frames = np.zeros((2, 20, 30, 3), np.uint8)
    frames[0, 4:8, 10:20] = (200, 100, 50)
    small = crop_and_scale(frames, Box(10, 4, 10, 8), 5, 4)
    assert small.shape == (2, 4, 5, 3)
    np.testing.assert_allclose(small[0, 0], [[200, 100, 50]] * 5, atol=2)
    np.testing.assert_allclose(small[0, 2:], 0, atol=2)
    assert small[1].max() <= 2


def test_cropped_windows_have_expected_frames() -> None:
    config = InputConfig(
        height=16, width=16, fps=15, window_frames=8, overlap_frames=4, clip_frames=4, mean=(0, 0, 0), std=(1, 1, 1)
    )  # fmt: skip
    cropper = PersonCropper(FakeLocator(boxes((2, 2, 10, 10))), config, 1.0)
    frames = (np.full((12, 12, 3), index, np.uint8) for index in range(14))
    windows = list(cropper.crop(frames))
    assert [(window.start_frame, window.end_frame) for window in windows] == [(0, 8), (4, 12), (6, 14)]
    assert cropper.windows == [WindowPeople(0, 8, 1), WindowPeople(4, 12, 1), WindowPeople(6, 14, 1)]
    assert windows[1].frames[:, 0, 0, 0] == pytest.approx(np.arange(4, 12), abs=1)


def make_media(duration_s: float, damaged: tuple[tuple[float, float], ...] = ()) -> Media:
    return Media(duration_s, 64, 48, 75, 15.0, False, 0, 1.0, damaged)


def notices(people: list[WindowPeople], fps: float, media: Media) -> tuple[Notice, ...]:
    return make_notices(people, fps, media, find_coverage(people, fps, media))


def test_coverage_spans_whole_video() -> None:
    windows = [WindowPeople(0, 100, 0), WindowPeople(50, 150, 1), WindowPeople(100, 200, 2), WindowPeople(201, 300, 0)]
    coverage = find_coverage(windows, 10.0, make_media(30.05))
    assert [(interval.start_s, interval.end_s, interval.status) for interval in coverage] == [
        (0.0, 5.0, "no_person"),
        (5.0, 20.0, "analysed"),
        (20.0, 30.05, "no_person"),
    ]
    codes = [notice.detail for notice in notices(windows, 10.0, make_media(30.05))]
    assert "0.0-5.0 s, 20.0-30.1 s" in codes[0] or "0.0-5.0 s, 20.0-30.0 s" in codes[0]
    assert codes[1].startswith("2 people were found at 10.0-20.0 s")


def test_damaged_intervals_override_other_coverage() -> None:
    windows = [WindowPeople(0, 100, 0), WindowPeople(50, 150, 1), WindowPeople(150, 300, 0)]
    damaged = ((0.0, 1.0), (4.0, 6.0), (7.0, 8.0), (28.0, 30.0))
    coverage = find_coverage(windows, 10.0, make_media(30.0, damaged))
    assert [(interval.start_s, interval.end_s, interval.status) for interval in coverage] == [
        (0.0, 1.0, "damaged"),
        (1.0, 4.0, "no_person"),
        (4.0, 6.0, "damaged"),
        (6.0, 7.0, "analysed"),
        (7.0, 8.0, "damaged"),
        (8.0, 15.0, "analysed"),
        (15.0, 28.0, "no_person"),
        (28.0, 30.0, "damaged"),
    ]
    corruption, no_person = notices(windows, 10.0, make_media(30.0, damaged))
    assert "at 0.0-1.0 s, 4.0-6.0 s, 7.0-8.0 s, 28.0-30.0 s:" in corruption.detail
    assert "at 1.0-4.0 s, 15.0-28.0 s:" in no_person.detail


def test_coverage_with_one_intact_frame() -> None:
    coverage = find_coverage(None, 10.0, make_media(5.0, ((0.1, 5.0),)))
    assert [(interval.start_s, interval.end_s, interval.status) for interval in coverage] == [
        (0.0, 0.1, "analysed"),
        (0.1, 5.0, "damaged"),
    ]


def test_notice_lists_at_most_five_intervals() -> None:
    windows = [WindowPeople(10 * index, 10 * index + 5, 3) for index in range(9)]
    detail = notices(windows, 1.0, make_media(86.0))[-1].detail
    assert "0.0-5.0 s, 10.0-15.0 s, 20.0-25.0 s, 30.0-35.0 s, 40.0-45.0 s and 4 more times" in detail
