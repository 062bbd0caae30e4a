"""Export formats: golden files, edge cases, and reading exports back.

After an intended change: regenerate the golden files with `python -m tests.test_exports` and review the diff.
"""

import csv
import io
import json
import os
import re
import unicodedata
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import get_args
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from mmad import options
from service.errors import Problem
from service.exports import (
    BORIS_COLUMNS,
    CSV_COLUMNS,
    FORMATS,
    VideoResult,
    find_format,
    find_name_collision,
    write_export,
)
from service.schemas import ResultView, View
from tests.export_readers import read_svg_texts, unzip
from tests.result_examples import (
    EXAMPLE,
    EXAMPLE_VIDEOS,
    TAXONOMY,
    make_proposals,
    make_video_result,
    with_start_offset,
)
from training.elan import read_eaf
from training.tables import read_predictions

GOLDEN = Path(__file__).parent / "golden"
# Special characters of XML, CSV, WebVTT, SVG and matplotlib's mathtext.
SPECIAL_CHARACTERS = 'a,"b" <i>&amp; --> $x_{\n\x00\ud800 面'


def write_example(name: str) -> bytes:
    content = write_export(name, EXAMPLE_VIDEOS)
    if name == "eaf":  # contains the current date
        content = re.sub(rb'DATE="[^"]*"', b'DATE="2026-01-01T00:00:00+00:00"', content)
    return content


def golden_path(name: str) -> Path:
    return GOLDEN / f"{name}{FORMATS[name].suffix}"


@pytest.mark.parametrize("name", FORMATS)
def test_export_matches_golden_file(name: str) -> None:
    content, expected = write_example(name), golden_path(name).read_bytes()
    if name == "png":
        assert_similar_images(content, expected)
    elif name == "svg":
        assert read_svg_texts(content) == read_svg_texts(expected)
    elif name in ("frames-npz", "mac-csv"):  # ZIP files: compare their members
        assert unzip(content) == unzip(expected)
    else:
        assert content.decode() == expected.decode()


def assert_similar_images(content: bytes, expected: bytes) -> None:
    images = [np.asarray(Image.open(io.BytesIO(png)).convert("RGB"), float) for png in (content, expected)]
    assert images[0].shape == images[1].shape
    assert images[0].std() > 10
    # Versions of matplotlib differ along edges.
    assert np.abs(images[0] - images[1]).mean() < 1


def test_exports_are_deterministic() -> None:
    for name in set(FORMATS) - {"frames-npz"}:
        assert write_example(name) == write_example(name), name


def test_format_option_lists_all_formats() -> None:
    assert list(get_args(options.Format)) == list(FORMATS)
    assert len({export.suffix for export in FORMATS.values()}) == len(FORMATS)


def test_unknown_format_and_unsupported_count_are_rejected() -> None:
    with pytest.raises(Problem, match="format=xml is not known; known are json, jsonl, csv"):
        write_export("xml", EXAMPLE_VIDEOS)
    for name, export in FORMATS.items():
        if not export.several:
            with pytest.raises(Problem, match=f"{name} holds one video a file, not 2"):
                write_export(name, EXAMPLE_VIDEOS * 2)
    with pytest.raises(Problem, match="format=x{64} is"):
        find_format("x" * 1000)


@pytest.mark.parametrize("name", FORMATS)
def test_export_without_detections(name: str) -> None:
    content = write_export(name, [make_video_result(make_proposals())])
    assert (content == b"") == (name == "jsonl")


@pytest.mark.parametrize("name", FORMATS)
def test_special_characters_in_video_names_are_escaped(name: str) -> None:
    content = write_export(
        name, [make_video_result(video=SPECIAL_CHARACTERS, source=f"/home/{SPECIAL_CHARACTERS}.mp4")]
    )
    if name in ("eaf", "svg"):
        ElementTree.fromstring(content)
        assert b"<i>" not in content
    if name == "vtt":
        header = content.decode().split("\n\n")[:2]
        assert header[0] == "WEBVTT"
        assert "-->" not in header[1]
        assert "\n" not in header[1]
    if name in ("csv", "boris"):
        rows = list(csv.reader(io.StringIO(content.decode())))
        assert {len(row) for row in rows} == {len(rows[0])}
        assert rows[1][0] == r'a,"b" <i>&amp; --> $x_{\x0a\x00\ud800 面'
    if name in ("json", "jsonl", "label-studio", "activitynet"):
        for line in content.decode().splitlines() if name == "jsonl" else [content]:
            json.loads(line)


def test_json_and_jsonl_equal_result_document() -> None:
    document = json.loads(write_example("json"))
    assert document.pop("video") == "videos/interview 1.mp4"
    assert document == EXAMPLE_VIDEOS[0].result.model_dump(mode="json")
    videos = json.loads(write_export("json", [make_video_result(video="a"), make_video_result(video="b")]))
    assert [video["video"] for video in videos] == ["a", "b"]
    lines = [json.loads(line) for line in write_example("jsonl").splitlines()]
    assert [line["id"] for line in lines] == [detection["id"] for detection in document["detections"]]


def test_csv_has_row_per_video_and_detection() -> None:
    content = write_export("csv", [make_video_result(video="a"), make_video_result(video="b")]).decode()
    rows = list(csv.DictReader(io.StringIO(content)))
    assert tuple(rows[0]) == CSV_COLUMNS
    assert [row["video"] for row in rows] == ["a"] * 5 + ["b"] * 5
    assert float(rows[0]["duration_s"]) == float(rows[0]["end_s"]) - float(rows[0]["start_s"])
    assert rows[0]["overlaps"].split() == EXAMPLE_VIDEOS[0].result.detections[0].overlaps


@pytest.mark.parametrize("offset_s", [5.0, 0.0005, 1 / 3])
def test_start_offset_shifts_player_formats_only(offset_s: float, tmp_path: Path) -> None:
    proposals = make_proposals((0, 0.001, 0.9, 0), (5.972, 6.769, 0.9, 1), duration_s=13.267)
    video = make_video_result(with_start_offset(proposals, offset_s))
    shift_ms = round(offset_s * 1000)
    path = tmp_path / "x.eaf"
    path.write_bytes(write_export("eaf", [video]))
    times = {
        (round(annotation.start_s * 1000), round(annotation.end_s * 1000)) for annotation in read_eaf(path).annotations
    }
    assert times == {(shift_ms, shift_ms + 1), (shift_ms + 5972, shift_ms + 6769)}
    cue = write_export("vtt", [video]).decode().split("\n\n")[-1].splitlines()[1]
    assert cue == f"00:00:{(shift_ms + 5972) / 1000:06.3f} --> 00:00:{(shift_ms + 6769) / 1000:06.3f}"
    rows = list(csv.DictReader(io.StringIO(write_export("boris", [video]).decode())))
    assert rows[1]["Start (s)"] == f"{(shift_ms + 5972) / 1000:.3f}"
    assert rows[1]["Duration (s)"] == "0.797"
    assert rows[1]["Media duration (s)"] == f"{(shift_ms + 13267) / 1000:.3f}"
    (task,) = json.loads(write_export("label-studio", [video]))
    (frames,) = task["predictions"][0]["result"][1]["value"]["ranges"]
    assert frames["start"] == round((shift_ms + 5972) * 30 / 1000) + 1
    assert task["data"]["start_offset_s"] == offset_s
    for name in ("csv", "json", "activitynet", "mac-csv", "frames-csv"):
        assert export_content(name, video) == export_content(name, make_video_result(proposals)), name


def export_content(name: str, video: VideoResult) -> object:
    content = write_export(name, [video])
    if name == "mac-csv":
        return unzip(content)
    return json.loads(content)["detections"] if name == "json" else content


def test_boris_columns_and_merged_behaviours() -> None:
    proposals = make_proposals((1, 3, 0.9, 1), (3, 4, 0.8, 1), (6, 7, 0.8, 1), (0.5, 2.25, 0.8, 0))
    rows = list(csv.DictReader(io.StringIO(write_export("boris", [make_video_result(proposals)]).decode())))
    assert tuple(rows[0]) == BORIS_COLUMNS
    columns = ("Behavior", "Behavioral category", "Behavior type", "Start (s)", "Stop (s)", "Duration (s)")
    assert [tuple(row[name] for name in columns) for row in rows] == [
        ("shaking body", "Body", "STATE", "0.500", "2.250", "1.750"),
        ("nodding", "Head", "STATE", "1.000", "3.000", "2.000"),
        ("nodding", "Head", "STATE", "3.000", "4.000", "1.000"),
        ("nodding", "Head", "STATE", "6.000", "7.000", "1.000"),
    ]
    assert {row["Observation duration by subject by observation"] for row in rows} == {"5.750"}
    assert (rows[0]["Image index start"], rows[0]["Image index stop"]) == ("15", "68")


def test_label_studio_frames_start_at_one() -> None:
    proposals = make_proposals((0, 1, 0.9, 1), (2.001, 2.002, 0.8, 2))
    (task,) = json.loads(write_export("label-studio", [make_video_result(proposals, source="s3://a/b.mp4")]))
    assert task["data"] == {"video": "s3://a/b.mp4", "fps": 30, "duration_s": 20, "start_offset_s": 0}
    values = [region["value"] for region in task["predictions"][0]["result"]]
    assert values == [
        {"ranges": [{"start": 1, "end": 30}], "timelinelabels": ["nodding"]},
        {"ranges": [{"start": 61, "end": 61}], "timelinelabels": ["shaking head"]},
    ]


@pytest.mark.parametrize(
    ("rate", "fps", "frames"), [(15.0, 15, (91, 102)), (29.97, 29.97, (180, 203)), (0.2, 1, (7, 7))]
)
def test_label_studio_frames_match_declared_fps(rate: float, fps: float, frames: tuple[int, int]) -> None:
    """Label Studio shows frame n from (n - 1) / fps on, and reads rates below 1 as seconds per frame."""
    proposals = make_proposals((5.972, 6.769, 0.9, 1))
    media = proposals.context.media.model_copy(update={"average_fps": rate})
    adjusted = replace(proposals, context=proposals.context.model_copy(update={"media": media}))
    (task,) = json.loads(write_export("label-studio", [make_video_result(adjusted)]))
    (frame_range,) = task["predictions"][0]["result"][0]["value"]["ranges"]
    assert task["data"]["fps"] == fps
    assert (frame_range["start"], frame_range["end"]) == frames
    assert (frame_range["start"] - 1) / fps == pytest.approx(5.972, abs=0.5 / fps)
    assert frame_range["end"] / fps == pytest.approx(6.769, abs=0.5 / fps)


def test_undecodable_video_names_do_not_collide() -> None:
    names = [os.fsdecode(f"M{letter}ller".encode("latin-1")) for letter in "üö"]
    assert [make_video_result(video=name).video for name in names] == ["Müller", "Möller"]
    assert find_name_collision(names, any_case=True) == []
    assert make_video_result(video=os.fsdecode(b"\x81")).video == r"\x81"
    assert make_video_result(video="a\n\u2028b", source="c\x01/a.mp4").video == r"a\x0a\u2028b"
    assert find_name_collision(["a", "b\x01", "b\x02"], any_case=False) == []
    normal_forms = [unicodedata.normalize(form, "Café") for form in ("NFC", "NFD")]
    assert find_name_collision(normal_forms, any_case=False) == normal_forms
    assert find_name_collision(["a", "A"], any_case=True) == ["a", "A"]
    assert find_name_collision(["a", "A"], any_case=False) == []


def test_webvtt_header_and_cue() -> None:
    long = make_proposals((3725.25, 3726.5, 0.9, 1), duration_s=4000)
    blocks = write_export("vtt", [make_video_result(long)]).decode().split("\n\n")
    assert blocks[0] == "WEBVTT"
    assert blocks[2].splitlines() == ["p0", "01:02:05.250 --> 01:02:06.500", "nodding (Head) 0.90"]


@pytest.mark.parametrize("name", ["mac-csv", "activitynet", "json"])
def test_evaluation_reads_exported_predictions(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"x{FORMATS[name].suffix}"
    videos = [
        make_video_result(video="a", view=View(min_score=0)),
        make_video_result(video="b", view=View(min_score=0)),
    ]
    path.write_bytes(write_export(name, videos))
    read = read_predictions(path, TAXONOMY, {"a": 20, "b": 20}, strict=True).instances
    assert list(read.videos) == ["a", "b"]
    for video in (0, 1):
        exported = read[read.video == video]
        order, expected_order = (
            np.lexsort((-exported.scores, exported.segments[:, 0])),
            np.lexsort((-EXAMPLE.scores, EXAMPLE.segments[:, 0])),
        )
        np.testing.assert_allclose(exported.segments[order], EXAMPLE.segments[expected_order], atol=1e-3)
        np.testing.assert_allclose(exported.scores[order], EXAMPLE.scores[expected_order], atol=1e-4)
        np.testing.assert_array_equal(exported.labels[order], EXAMPLE.labels[expected_order])


def test_mac_csv_is_exact_and_ignores_view(tmp_path: Path) -> None:
    proposals = make_proposals((0.1234567, 3.7654321, 0.01234567, 1), (2.0000001, 4.1111111, 0.9999999, 0))
    path = tmp_path / "prediction.zip"
    view = ResultView(min_score=1, labels=["A"], to_s=1)
    path.write_bytes(write_export("mac-csv", [make_video_result(proposals, view=view)]))
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == ["prediction.csv"]
    read = read_predictions(path, TAXONOMY, {"interview": 20}, strict=True).instances
    np.testing.assert_array_equal(read.scores.astype(np.float32), proposals.scores)
    np.testing.assert_array_equal(read.segments.astype(np.float32), proposals.segments)


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for format_name in FORMATS:
        golden_path(format_name).write_bytes(write_example(format_name))
