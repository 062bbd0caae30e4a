"""Every export against a golden file, and opened again by the programs' own libraries where there are some.

After a change that is meant, make the golden files again with `python -m tests.test_exports`, and read the difference.
"""

import csv
import hashlib
import io
import json
import os
import re
import unicodedata
import zipfile
from collections import Counter
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from PIL import Image
from typer.testing import CliRunner

from mmad import options
from mmad.cli import app
from model.bundle import Bundle
from model.taxonomy import Action, Body, Taxonomy
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
from service.results import StoredProposals, make_result
from service.schemas import Label, Labels, Notice, ResultView, Stretch, View
from service.timeline import draw_timeline
from tests.test_results import EXAMPLE, LABELS, proposals_of, stored
from training.elan import read_eaf
from training.tables import read_predictions

GOLDEN = Path(__file__).parent / "golden"
# What XML, CSV, WebVTT, SVG and the drawing's own mathematics each take for something else.
NASTY = 'a,"b" <i>&amp; --> $x_{\n\x00\ud800 面'
TAXONOMY = Taxonomy(
    bodies=tuple(Body(id=one.id, code=one.code, name=one.name) for one in LABELS.bodies),
    actions=tuple(Action(id=one.id, code=one.code, name=one.name, body_id=one.body.id) for one in LABELS.actions),
)


def noted(proposals: StoredProposals) -> StoredProposals:
    """The same with a gap in the coverage and a warning."""
    coverage = [
        Stretch(start_s=0, end_s=12.5, status="analysed"),
        Stretch(start_s=12.5, end_s=14, status="no_person"),
        Stretch(start_s=14, end_s=20, status="analysed"),
    ]
    notes = [Notice(code="trained_on_synthetic_people", detail="On real people it is worse. " * 12)]
    context = proposals.context.model_copy(update={"coverage": coverage, "warnings": notes})
    return replace(proposals, context=context)


def analysed(
    proposals: StoredProposals = EXAMPLE, video: str = "interview", view: View | None = None, **more: Any
) -> VideoResult:
    return VideoResult(video, make_result(proposals, view or ResultView(min_score=0.5)), proposals, **more)


EXAMPLES = [analysed(noted(EXAMPLE), source="videos/interview 1.mp4", rate=2)]


def write(name: str) -> bytes:
    content = write_export(name, EXAMPLES)
    if name == "eaf":  # it says when it was written
        content = re.sub(rb'DATE="[^"]*"', b'DATE="2026-01-01T00:00:00+00:00"', content)
    return content


def golden(name: str) -> Path:
    return GOLDEN / f"{name}{FORMATS[name].suffix}"


@pytest.mark.parametrize("name", FORMATS)
def test_exports_are_as_they_were(name: str) -> None:
    content, expected = write(name), golden(name).read_bytes()
    if name == "png":
        assert_same_picture(content, expected)
    elif name == "svg":
        assert words_of(content) == words_of(expected)
    elif name in ("frames-npz", "mac-csv"):  # what is packed is compared, not the packing
        assert unpacked(content) == unpacked(expected)
    else:
        assert content.decode() == expected.decode()


def assert_same_picture(content: bytes, expected: bytes) -> None:
    pictures = [np.asarray(Image.open(io.BytesIO(one)).convert("RGB"), float) for one in (content, expected)]
    assert pictures[0].shape == pictures[1].shape
    assert pictures[0].std() > 10
    # Versions of the drawing library differ along edges.
    assert np.abs(pictures[0] - pictures[1]).mean() < 1


def words_of(svg: bytes) -> list[str]:
    root = ElementTree.fromstring(svg)
    return ["".join(one.itertext()).strip() for one in root.iter("{http://www.w3.org/2000/svg}text")]


def unpacked(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_the_same_result_makes_the_same_bytes() -> None:
    for name in set(FORMATS) - {"frames-npz"}:
        assert write(name) == write(name), name


def test_every_format_is_offered_by_the_command() -> None:
    assert list(get_args(options.Format)) == list(FORMATS)
    assert len({one.suffix for one in FORMATS.values()}) == len(FORMATS)


def test_what_cannot_be_written_is_named() -> None:
    with pytest.raises(Problem, match="format=xml is not known; known are json, jsonl, csv"):
        write_export("xml", EXAMPLES)
    for name, form in FORMATS.items():
        if not form.several:
            with pytest.raises(Problem, match=f"{name} holds one video a file, not 2"):
                write_export(name, EXAMPLES * 2)
    with pytest.raises(Problem, match="format=x{64} is"):
        find_format("x" * 1000)


@pytest.mark.parametrize("name", FORMATS)
def test_nothing_found_is_an_export(name: str) -> None:
    content = write_export(name, [analysed(stored())])
    assert (content == b"") == (name == "jsonl")


@pytest.mark.parametrize("name", FORMATS)
def test_names_of_videos_do_no_harm(name: str) -> None:
    content = write_export(name, [analysed(video=NASTY, source=f"/home/{NASTY}.mp4")])
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
        assert {len(one) for one in rows} == {len(rows[0])}
        assert rows[1][0] == r'a,"b" <i>&amp; --> $x_{\x0a\x00\ud800 面'
    if name in ("json", "jsonl", "label-studio", "activitynet"):
        for line in content.decode().splitlines() if name == "jsonl" else [content]:
            json.loads(line)


def test_json_is_the_result() -> None:
    document = json.loads(write("json"))
    assert document.pop("video") == "videos/interview 1.mp4"
    assert document == EXAMPLES[0].result.model_dump(mode="json")
    both = json.loads(write_export("json", [analysed(video="a"), analysed(video="b")]))
    assert [one["video"] for one in both] == ["a", "b"]
    lines = [json.loads(line) for line in write("jsonl").splitlines()]
    assert [one["id"] for one in lines] == [one["id"] for one in document["detections"]]


def test_csv_has_a_row_for_each_detection_of_each_video() -> None:
    content = write_export("csv", [analysed(video="a"), analysed(video="b")]).decode()
    rows = list(csv.DictReader(io.StringIO(content)))
    assert tuple(rows[0]) == CSV_COLUMNS
    assert [one["video"] for one in rows] == ["a"] * 5 + ["b"] * 5
    assert float(rows[0]["duration_s"]) == float(rows[0]["end_s"]) - float(rows[0]["start_s"])
    assert rows[0]["overlaps"].split() == EXAMPLES[0].result.detections[0].overlaps


@settings(max_examples=30)
@given(proposals=proposals_of)
def test_elan_opens_what_is_written(proposals: StoredProposals, tmp_path_factory: pytest.TempPathFactory) -> None:
    from pympi.Elan import Eaf

    path = tmp_path_factory.mktemp("elan") / "x.eaf"
    one = analysed(proposals, view=View(min_score=0), source="/videos/a b.mp4")
    path.write_bytes(write_export("eaf", [one]))
    eaf = Eaf(str(path), suppress_version_warning=True)
    assert eaf.media_descriptors[0]["RELATIVE_MEDIA_URL"] == "./a%20b.mp4"
    assert eaf.media_descriptors[0]["MIME_TYPE"] == "video/mp4"
    found = one.result.detections
    actions = {f"{x.action.code} {x.action.name}" for x in found}
    bodies = {f"{x.body.code} {x.body.name}" for x in found}
    assert set(eaf.get_tier_names()) == actions | bodies | {f"{tier}: score" for tier in actions}
    for tier in actions | bodies:
        annotations = sorted(eaf.get_annotation_data_for_tier(tier))
        ends = [end for _, end, _ in annotations]
        assert all(start < end for start, end, _ in annotations)
        assert all(end <= after[0] for end, after in zip(ends, annotations[1:], strict=False))
    for segment in one.result.body_segments:
        tier = f"{segment.body.code} {segment.body.name}"
        times = round(segment.start_s * 1000), round(segment.end_s * 1000), segment.body.name
        assert times in eaf.get_annotation_data_for_tier(tier)
    read = read_eaf(path)
    assert read.media == {"a b.mp4": 0}
    codes = {action.name for action in LABELS.actions} | {body.name for body in LABELS.bodies}
    assert {one.label for one in read.annotations if one.kind != "score"} <= codes


def late(proposals: StoredProposals, offset_s: float) -> StoredProposals:
    """The same of a video that a player begins to show later."""
    media = proposals.context.media.model_copy(update={"start_offset_s": offset_s})
    return replace(proposals, context=proposals.context.model_copy(update={"media": media}))


def test_elan_keeps_scores_and_offers_all_actions(tmp_path: Path) -> None:
    from pympi.Elan import Eaf

    proposals = stored((1, 3, 0.9, 1), (2, 4, 0.8, 1), (4, 5, 0.7, 1), (6, 7, 0.6, 2))
    path = tmp_path / "x.eaf"
    path.write_bytes(write_export("eaf", [analysed(proposals)]))
    eaf = Eaf(str(path))
    times = [row[:3] for row in eaf.get_annotation_data_for_tier("B1 nodding")]
    assert sorted(times) == [(1000, 3000, "nodding"), (4000, 5000, "nodding")]
    scores = {row[:3] for row in eaf.get_ref_annotation_data_for_tier("B1 nodding: score")}
    assert scores == {(1000, 3000, "0.9000"), (4000, 5000, "0.7000")}
    assert eaf.tiers["B1 nodding: score"][2]["PARENT_REF"] == "B1 nodding"
    for kind, labels in (("action", LABELS.actions), ("body part", LABELS.bodies)):
        vocabulary = eaf.linguistic_types[kind]["CONTROLLED_VOCABULARY_REF"]
        entries = eaf.controlled_vocabularies[vocabulary][1].values()
        assert [values[0][0] for values, _ in entries] == [label.name for label in labels]
    assert eaf.tiers["B Head"][2]["LINGUISTIC_TYPE_REF"] == "body part"


def test_elan_files_follow_the_schema() -> None:
    """Order of elements, references and identifiers as version 2.8 of the schema has them."""
    root = ElementTree.fromstring(write("eaf"))
    order = ["HEADER", "TIME_ORDER", "TIER", "LINGUISTIC_TYPE", "LANGUAGE", "CONSTRAINT", "CONTROLLED_VOCABULARY"]
    places = [order.index(one.tag) for one in root]
    assert places == sorted(places)
    ids = [value for one in root.iter() for name, value in one.attrib.items()
           if name in ("TIME_SLOT_ID", "ANNOTATION_ID", "CVE_ID", "LANG_ID")]  # fmt: skip
    assert len(ids) == len(set(ids))
    assert all(re.fullmatch(r"[A-Za-z_][\w.-]*", one) for one in ids)
    for reference, element, name in (
        ("LINGUISTIC_TYPE_REF", "LINGUISTIC_TYPE", "LINGUISTIC_TYPE_ID"), ("PARENT_REF", "TIER", "TIER_ID"),
        ("CONTROLLED_VOCABULARY_REF", "CONTROLLED_VOCABULARY", "CV_ID"), ("LANG_REF", "LANGUAGE", "LANG_ID"),
        ("CONSTRAINTS", "CONSTRAINT", "STEREOTYPE"), ("ANNOTATION_REF", "ALIGNABLE_ANNOTATION", "ANNOTATION_ID"),
    ):  # fmt: skip
        wanted = {one.get(reference) for one in root.iter()} - {None}
        assert wanted
        assert wanted <= {one.get(name) for one in root.iter(element)}


def test_tiers_of_one_name_are_kept_apart(tmp_path: Path) -> None:
    """A taxonomy may name a body part and an action alike."""
    proposals = stored((1, 3, 0.9, 1))
    bodies = [LABELS.bodies[0], Label(id=1, code="B1", name="nodding")]
    actions = [one.model_copy(update={"body": bodies[one.body.id]}) for one in LABELS.actions]
    labels = Labels(bodies=bodies, actions=actions)
    alike = replace(proposals, context=proposals.context.model_copy(update={"labels": labels}))
    path = tmp_path / "x.eaf"
    path.write_bytes(write_export("eaf", [analysed(alike)]))
    assert len([one for one in read_eaf(path).annotations if one.kind != "score"]) == 2


@pytest.mark.parametrize("offset_s", [5.0, 0.0005, 1 / 3])
def test_what_a_player_shows_is_on_its_clock(offset_s: float, tmp_path: Path) -> None:
    proposals = stored((0, 0.001, 0.9, 0), (5.972, 6.769, 0.9, 1), duration_s=13.267)
    one = analysed(late(proposals, offset_s))
    shift_ms = round(offset_s * 1000)
    path = tmp_path / "x.eaf"
    path.write_bytes(write_export("eaf", [one]))
    times = {(round(x.start_s * 1000), round(x.end_s * 1000)) for x in read_eaf(path).annotations}
    assert times == {(shift_ms, shift_ms + 1), (shift_ms + 5972, shift_ms + 6769)}
    cue = write_export("vtt", [one]).decode().split("\n\n")[-1].splitlines()[1]
    assert cue == f"00:00:{(shift_ms + 5972) / 1000:06.3f} --> 00:00:{(shift_ms + 6769) / 1000:06.3f}"
    rows = list(csv.DictReader(io.StringIO(write_export("boris", [one]).decode())))
    assert rows[1]["Start (s)"] == f"{(shift_ms + 5972) / 1000:.3f}"
    assert rows[1]["Duration (s)"] == "0.797"
    assert rows[1]["Media duration (s)"] == f"{(shift_ms + 13267) / 1000:.3f}"
    (task,) = json.loads(write_export("label-studio", [one]))
    (frames,) = task["predictions"][0]["result"][1]["value"]["ranges"]
    assert frames["start"] == round((shift_ms + 5972) * 30 / 1000) + 1
    assert task["data"]["start_offset_s"] == offset_s
    for name in ("csv", "json", "activitynet", "mac-csv", "frames-csv"):
        assert unchanged(name, one) == unchanged(name, analysed(proposals)), name


def unchanged(name: str, one: VideoResult) -> object:
    content = write_export(name, [one])
    if name == "mac-csv":
        return unpacked(content)
    return json.loads(content)["detections"] if name == "json" else content


def test_boris_has_its_columns_and_no_behaviour_overlaps_itself() -> None:
    proposals = stored((1, 3, 0.9, 1), (3, 4, 0.8, 1), (6, 7, 0.8, 1), (0.5, 2.25, 0.8, 0))
    rows = list(csv.DictReader(io.StringIO(write_export("boris", [analysed(proposals)]).decode())))
    assert tuple(rows[0]) == BORIS_COLUMNS
    shown = ("Behavior", "Behavioral category", "Behavior type", "Start (s)", "Stop (s)", "Duration (s)")
    assert [tuple(one[name] for name in shown) for one in rows] == [
        ("shaking body", "Body", "STATE", "0.500", "2.250", "1.750"),
        ("nodding", "Head", "STATE", "1.000", "3.000", "2.000"),
        ("nodding", "Head", "STATE", "3.000", "4.000", "1.000"),
        ("nodding", "Head", "STATE", "6.000", "7.000", "1.000"),
    ]
    assert {one["Observation duration by subject by observation"] for one in rows} == {"5.750"}
    assert (rows[0]["Image index start"], rows[0]["Image index stop"]) == ("15", "68")


def test_label_studio_counts_frames_from_one() -> None:
    proposals = stored((0, 1, 0.9, 1), (2.001, 2.002, 0.8, 2))
    (task,) = json.loads(write_export("label-studio", [analysed(proposals, source="s3://a/b.mp4")]))
    assert task["data"] == {"video": "s3://a/b.mp4", "fps": 30, "duration_s": 20, "start_offset_s": 0}
    values = [region["value"] for region in task["predictions"][0]["result"]]
    assert values == [
        {"ranges": [{"start": 1, "end": 30}], "timelinelabels": ["nodding"]},
        {"ranges": [{"start": 61, "end": 61}], "timelinelabels": ["shaking head"]},
    ]


@pytest.mark.parametrize(
    ("rate", "fps", "frames"), [(15.0, 15, (91, 102)), (29.97, 29.97, (180, 203)), (0.2, 1, (7, 7))]
)
def test_label_studio_is_told_the_rate_of_its_frames(rate: float, fps: float, frames: tuple[int, int]) -> None:
    """Label Studio shows frame n from (n - 1) / fps on, and takes rates below 1 for seconds a frame."""
    proposals = stored((5.972, 6.769, 0.9, 1))
    media = proposals.context.media.model_copy(update={"average_fps": rate})
    slow = replace(proposals, context=proposals.context.model_copy(update={"media": media}))
    (task,) = json.loads(write_export("label-studio", [analysed(slow)]))
    (shown,) = task["predictions"][0]["result"][0]["value"]["ranges"]
    assert task["data"]["fps"] == fps
    assert (shown["start"], shown["end"]) == frames
    assert (shown["start"] - 1) / fps == pytest.approx(5.972, abs=0.5 / fps)
    assert shown["end"] / fps == pytest.approx(6.769, abs=0.5 / fps)


def test_names_that_are_not_utf_8_stay_apart() -> None:
    latin = [os.fsdecode(f"M{letter}ller".encode("latin-1")) for letter in "üö"]
    assert [analysed(video=one).video for one in latin] == ["Müller", "Möller"]
    assert find_name_collision(latin, any_case=True) == []
    assert analysed(video=os.fsdecode(b"\x81")).video == r"\x81"
    assert analysed(video="a\n\u2028b", source="c\x01/a.mp4").video == r"a\x0a\u2028b"
    assert find_name_collision(["a", "b\x01", "b\x02"], any_case=False) == []
    both = [unicodedata.normalize(form, "Café") for form in ("NFC", "NFD")]
    assert find_name_collision(both, any_case=False) == both
    assert find_name_collision(["a", "A"], any_case=True) == ["a", "A"]
    assert find_name_collision(["a", "A"], any_case=False) == []


def test_webvtt_is_read_cue_by_cue() -> None:
    long = stored((3725.25, 3726.5, 0.9, 1), duration_s=4000)
    blocks = write_export("vtt", [analysed(long)]).decode().split("\n\n")
    assert blocks[0] == "WEBVTT"
    assert blocks[2].splitlines() == ["p0", "01:02:05.250 --> 01:02:06.500", "nodding (Head) 0.90"]


@pytest.mark.parametrize("name", ["mac-csv", "activitynet", "json"])
def test_evaluation_reads_what_is_written(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"x{FORMATS[name].suffix}"
    videos = [analysed(video="a", view=View(min_score=0)), analysed(video="b", view=View(min_score=0))]
    path.write_bytes(write_export(name, videos))
    read = read_predictions(path, TAXONOMY, {"a": 20, "b": 20}, strict=True).instances
    assert list(read.videos) == ["a", "b"]
    for video in (0, 1):
        mine = read[read.video == video]
        order, theirs = (
            np.lexsort((-mine.scores, mine.segments[:, 0])),
            np.lexsort((-EXAMPLE.scores, EXAMPLE.segments[:, 0])),
        )
        np.testing.assert_allclose(mine.segments[order], EXAMPLE.segments[theirs], atol=1e-3)
        np.testing.assert_allclose(mine.scores[order], EXAMPLE.scores[theirs], atol=1e-4)
        np.testing.assert_array_equal(mine.labels[order], EXAMPLE.labels[theirs])


def test_the_challenge_gets_everything_to_the_last_digit_whatever_the_view(tmp_path: Path) -> None:
    proposals = stored((0.1234567, 3.7654321, 0.01234567, 1), (2.0000001, 4.1111111, 0.9999999, 0))
    path = tmp_path / "prediction.zip"
    view = ResultView(min_score=1, labels=["A"], to_s=1)
    path.write_bytes(write_export("mac-csv", [analysed(proposals, view=view)]))
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == ["prediction.csv"]
    read = read_predictions(path, TAXONOMY, {"interview": 20}, strict=True).instances
    np.testing.assert_array_equal(read.scores.astype(np.float32), proposals.scores)
    np.testing.assert_array_equal(read.segments.astype(np.float32), proposals.segments)


@pytest.mark.parametrize("count", [0, 1, 5, 30, 500])
def test_timelines_show_what_was_found(count: int) -> None:
    chance = np.random.default_rng(count)
    starts = 0.6 * np.arange(count)
    ends = starts + chance.uniform(0.2, 1.7, count)
    rows = zip(starts, ends, chance.uniform(0, 1, count), np.arange(count) % 3, strict=True)
    proposals = noted(stored(*rows, duration_s=300))
    result = make_result(proposals, View(min_score=0))
    words = words_of(draw_timeline("a $b$ <c>", result, LABELS, "svg"))
    assert {"a $b$ <c>", "Body", "Head"} <= set(words)
    assert "Hatched in grey: nobody was seen there, so nothing was looked for." in words
    assert any(line.startswith("trained_on_synthetic_people: ") for line in words)
    if count <= 60:
        named = sorted(word for word in words if re.fullmatch(r"(shaking|nodding).* \d\.\d\d", word))
        assert named == sorted(f"{one.action.name} {one.score:.2f}" for one in result.detections)
    else:
        counts = Counter(one.action.name for one in result.detections)
        assert {f"{name}  {count}" for name, count in counts.items()} <= set(words)


def test_a_timeline_of_two_hours_is_as_readable_as_one_of_minutes() -> None:
    """Thousands of detections: every action is named, and the file stays small."""
    chance = np.random.default_rng(0)
    starts = 1.1 * np.arange(6000)
    rows = zip(starts, starts + 1, chance.uniform(0, 1, 6000), [1] * 6000, strict=True)
    result = make_result(stored(*rows, duration_s=7200), View(min_score=0))
    picture = draw_timeline("x", result, LABELS, "svg")
    assert {"nodding  6000", "0:00:00", "1:30:00", "2:00:00", "h:min:s"} <= set(words_of(picture))
    assert picture.count(b"<path") < 1200
    with Image.open(io.BytesIO(draw_timeline("x", result, LABELS, "png"))) as image:
        assert image.width < 2000
        assert image.height < 2000


def test_what_was_damaged_is_told_from_where_nobody_was() -> None:
    coverage = [Stretch(start_s=0, end_s=12, status="analysed"), Stretch(start_s=12, end_s=20, status="damaged")]
    context = EXAMPLE.context.model_copy(update={"coverage": coverage})
    result = make_result(replace(EXAMPLE, context=context), View(min_score=0))
    words = words_of(draw_timeline("x", result, LABELS, "svg"))
    assert "Crossed in red: the video could not be decoded there." in words
    assert not any(word.startswith("Hatched") for word in words)


def test_a_timeline_of_a_stretch_ends_where_it_ends() -> None:
    result = make_result(EXAMPLE, ResultView(min_score=0, from_s=10, to_s=13))
    words = words_of(draw_timeline("x", result, LABELS, "svg"))
    assert {"10.0", "13.0", "shaking head 0.65"} <= set(words)
    assert "nodding 0.90" not in words
    assert draw_timeline("x", make_result(EXAMPLE, ResultView(from_s=900)), LABELS, "svg")


def detect(*arguments: str | Path) -> Any:
    return CliRunner().invoke(app, ["detect", *map(str, arguments)])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["a.mp4", "--format", "png"], "cannot be printed to a terminal: give a file"),
        (["a.mp4", "--format", "mac-csv"], "cannot be printed to a terminal: give a file"),
        (["a.mp4", "b.mp4", "--format", "vtt"], "give a folder for 2 files"),
        (["a.mp4", "c/a.mp4", "--format", "csv"], "2 videos are named 'a'"),
        (["a.mp4", "a.mov", "--format", "eaf", "--out", "x"], "2 videos are named 'a'"),
        (["a.mp4", "A.mp4", "--format", "eaf", "--out", "x"], "'a' and 'A' are one name"),
        (["a.mp4", "--json", "--format", "csv"], "cannot both be had"),
        (["a.mp4", "--format", "xml"], "xml"),
    ],
)
def test_what_detect_cannot_write_is_told_before_the_work(arguments: list[str], said: str) -> None:
    ended = detect(*arguments)
    assert ended.exit_code == 2
    assert said in " ".join(re.sub("[│╭╮╰╯─]", " ", ended.stderr).split())


def test_detect_writes_a_file_for_each_video_or_one_for_all(clip: Path, tmp_path: Path) -> None:
    other, broken = tmp_path / "other.mp4", tmp_path / "broken.mp4"
    other.write_bytes(clip.read_bytes())
    broken.write_text("hello")
    ended = detect(clip, other, broken, "--format", "eaf", "--out", tmp_path / "new" / "folder")
    assert ended.exit_code == 1
    assert {path.name for path in (tmp_path / "new" / "folder").iterdir()} == {f"{clip.stem}.eaf", "other.eaf"}
    table = tmp_path / "all.csv"
    assert detect(clip, other, "--format", "csv", "--min-score", "0", "--out", table).exit_code == 0
    assert {row["video"] for row in csv.DictReader(io.StringIO(table.read_text()))} == {clip.stem, "other"}
    arrays = tmp_path / "scores.npz"
    assert detect(clip, "--format", "frames-npz", "--rate", "10", "--out", arrays).exit_code == 0
    with np.load(arrays) as scores:
        assert scores["action_scores"].shape == (50, 52)
    picture = tmp_path / "nothing.png"
    assert detect(broken, "--format", "png", "--out", picture).exit_code == 1
    assert not picture.exists()
    kept = tmp_path / "x.json"
    assert detect(clip, broken, "--out", kept).exit_code == 1
    assert [one["video"] for one in json.loads(kept.read_text())] == [str(clip)]


def test_results_say_what_they_were_made_with(clip: Path, bundle: Bundle, tmp_path: Path) -> None:
    assert detect(clip, "--out", tmp_path / "x.json").exit_code == 0
    made = json.loads((tmp_path / "x.json").read_text())["reproduction"]
    assert made["bundle_sha256"] == hashlib.sha256((bundle.folder / "bundle.json").read_bytes()).hexdigest()
    assert {"av", "numpy", "openvino"} <= set(made["packages"])
    assert made["mmad"] == version("mmad")
    shape = bundle.manifest.input
    assert (made["decode_fps"], made["window_frames"], made["overlap_frames"]) == (
        shape.fps,
        shape.window_frames,
        shape.overlap_frames,
    )
    assert made["postprocessing"] == bundle.manifest.postprocessing.model_dump()


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for format_name in FORMATS:
        golden(format_name).write_bytes(write(format_name))
