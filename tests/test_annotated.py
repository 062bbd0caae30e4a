"""Annotations of users' own videos: exports are read back, and variants of files and names are read."""

import json
import os
import re
import unicodedata
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pympi.Elan import Eaf

from service.exports import FORMATS, write_export
from service.schemas import View
from tests.clips import ffmpeg, pattern
from tests.result_examples import TAXONOMY, make_proposals, make_video_result, with_start_offset
from training.annotated import read_annotated
from training.dataset import Sample
from training.elan import Elan
from training.marks import AnnotationError
from training.split import split_by_list
from training.tables import read_annotations

SPANS = [(0, 1.503, 0.9, 1), (1.503, 4, 0.8, 1), (2.5, 6, 0.55, 0), (5.972, 6.769, 0.65, 2)]
PROPOSALS = make_proposals(*SPANS, duration_s=8)
HEADER = "video,start_s,end_s,action\n"


@pytest.fixture(scope="module")
def interview_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pattern(tmp_path_factory.mktemp("clip") / "interview.mp4", size="64x48", seconds=8, rate="10")


@pytest.fixture(scope="module")
def late_interview_clip(interview_clip: Path) -> Path:
    """A clip with audio from 0 s and video from 3 s."""
    path = interview_clip.parent / "late" / interview_clip.name
    path.parent.mkdir()
    sound = ("-f", "lavfi", "-i", "sine=d=14:f=300", "-map", "0:v", "-map", "1:a", "-c:v", "copy", "-c:a", "aac")
    ffmpeg("-itsoffset", "3", "-i", str(interview_clip), *sound, "-b:a", "8k", str(path))
    return path


Folder = Callable[..., Path]


@pytest.fixture
def folder(interview_clip: Path, tmp_path: Path) -> Folder:
    """Return a function that makes a folder with copies of the clip."""

    def make(*names: str | bytes, video: Path = interview_clip) -> Path:
        videos = tmp_path / "videos"
        for name in names:
            path = videos / os.fsdecode(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(video.read_bytes())
        return videos

    return make


def read(videos: Path, *annotations: Path) -> tuple[list[Sample], list[str]]:
    """Return the annotated videos and the notices."""
    notices: list[str] = []
    return list(read_annotated(videos, annotations, TAXONOMY, notify=notices.append)), notices


def write(path: Path, content: str | bytes | object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, str | bytes):
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    else:
        path.write_text(json.dumps(content))
    return path


def spans(item: Sample) -> list[tuple[float, float, int]]:
    return [
        (*np.round(span, 3).tolist(), label) for span, label in zip(item.segments, item.labels.tolist(), strict=True)
    ]


EXPECTED = sorted((round(start, 3), round(end, 3), label) for start, end, _, label in SPANS)


def submitted_task(task: dict[str, Any]) -> dict[str, Any]:
    """Return a task as Label Studio exports it after its predictions were submitted unchanged."""
    return {
        "id": 7,
        "data": task["data"],
        "annotations": [{"id": 1, "was_cancelled": False, "result": task["predictions"][0]["result"]}],
        "predictions": [],
    }


# -- exports


@pytest.mark.parametrize("name", ["csv", "eaf", "boris"])
@pytest.mark.parametrize("offset_s", [0, 3])
def test_exported_annotations_are_read_back(
    name: str, offset_s: float, folder: Folder, interview_clip: Path, late_interview_clip: Path, tmp_path: Path
) -> None:
    videos = folder("interview.mp4", video=late_interview_clip if offset_s else interview_clip)
    analysed_video = make_video_result(
        with_start_offset(PROPOSALS, offset_s), view=View(min_score=0), source="x/interview.mp4"
    )
    path = write(tmp_path / f"interview{FORMATS[name].suffix}", write_export(name, [analysed_video]))
    items, notices = read(videos, path)
    assert [spans(item) for item in items] == [EXPECTED]
    assert items[0].duration_s == pytest.approx(8, abs=0.01)
    assert notices == []


def test_scores_in_elan_values_are_ignored(folder: Folder, interview_clip: Path, tmp_path: Path) -> None:
    analysed_video = make_video_result(PROPOSALS, view=View(min_score=0), source="x/interview.mp4")
    content = write_export("eaf", [replace(analysed_video, eaf_scores="value")])
    assert re.search(rb"<ANNOTATION_VALUE>[a-z ]+ \(0\.\d\d\)</ANNOTATION_VALUE>", content)
    assert b": score" not in content
    items, notices = read(folder("interview.mp4", video=interview_clip), write(tmp_path / "interview.eaf", content))
    assert [spans(item) for item in items] == [EXPECTED]
    assert notices == []


@pytest.mark.parametrize("offset_s", [0, 3])
def test_label_studio_export_is_read_back_to_half_a_frame(
    offset_s: float, folder: Folder, interview_clip: Path, late_interview_clip: Path, tmp_path: Path
) -> None:
    videos = folder("interview.mp4", video=late_interview_clip if offset_s else interview_clip)
    analysed_video = make_video_result(
        with_start_offset(PROPOSALS, offset_s), view=View(min_score=0), source="x/interview.mp4"
    )
    (task,) = json.loads(write_export("label-studio", [analysed_video]))
    path = write(tmp_path / "project.json", [submitted_task(task)])
    ((item,), notices) = read(videos, path)
    assert item.labels.tolist() == [label for *_, label in EXPECTED]
    np.testing.assert_allclose(item.segments, [span[:2] for span in EXPECTED], atol=0.5 / 30 + 1e-6)
    assert notices == []
    table = read_annotations(path, TAXONOMY).instances  # the reader of `mmad evaluate`
    assert (table.videos, table.durations.tolist()) == (("interview",), [8.0])
    np.testing.assert_allclose(table.segments, item.segments, atol=1e-6)


def test_scores_and_body_parts_of_exports_are_ignored(folder: Folder, tmp_path: Path) -> None:
    """Also of exports without linguistic types; a notice counts body parts without an action."""
    path = tmp_path / "interview.eaf"
    eaf = Eaf()
    eaf.remove_tier("default")
    for tier, start, end, value in (
        ("B Head", 1000, 2000, "Head"), ("B1 nodding", 1000, 2000, "nodding"), ("B Head", 3000, 4000, "Head"),
        ("A Body", 1000, 2000, ""), ("B2 shaking head", 5000, 6000, ""),
    ):  # fmt: skip
        if tier not in eaf.tiers:
            eaf.add_tier(tier)
        eaf.add_annotation(tier, start, end, value)
    eaf.to_file(str(path))
    (item,), notices = read(folder("interview.mp4"), path)
    assert spans(item) == [(1, 2, 1), (5, 6, 2)]
    assert len(notices) == 1
    assert "2 annotations of body parts have no action at their time" in notices[0]
    eaf.add_tier("mine")
    eaf.add_annotation("mine", 1000, 2000, "Head")
    eaf.to_file(str(path))
    with pytest.raises(AnnotationError, match="tier 'mine'.*'Head' is a body part: write one of its actions"):
        read(tmp_path / "videos", path)


def test_annotation_before_first_frame_is_clipped(folder: Folder, late_interview_clip: Path, tmp_path: Path) -> None:
    videos = folder("interview.mp4", video=late_interview_clip)
    eaf = Eaf()
    eaf.add_annotation("default", 2000, 4000, "B1")
    eaf.to_file(str(tmp_path / "interview.eaf"))
    (item,), _ = read(videos, tmp_path / "interview.eaf")
    assert spans(item) == [(0, 1, 1)]
    eaf.add_annotation("default", 100, 900, "B1")
    eaf.to_file(str(tmp_path / "interview.eaf"))
    with pytest.raises(AnnotationError, match="it ends at 0.9 s, before the first frame at 3 s"):
        read(videos, tmp_path / "interview.eaf")
    table = write(tmp_path / "a.csv", HEADER + "interview,2,4,B1\n")
    assert spans(read(videos, table)[0][0]) == [(2, 4, 1)]


# -- Label Studio


def region(first: int, last: int, *labels: str) -> dict[str, Any]:
    value = {"ranges": [{"start": first, "end": last}], "timelinelabels": list(labels)}
    return {"id": "r", "type": "timelinelabels", "value": value, "from_name": "x", "to_name": "video"}


def task(video: str, *annotations: dict[str, Any], **data: object) -> dict[str, Any]:
    return {"id": video, "data": {"video": video, "fps": 10} | data, "annotations": list(annotations)}


@pytest.mark.parametrize(
    ("address", "file"),
    [
        ("/data/upload/3/1a2b3c4d-interview.mp4", "interview.mp4"),
        ("/data/upload/3/1a2b3c4d-interview_1_of_2.mp4", "interview 1 (of 2).mp4"),
        ("/data/upload/3/1a2b3c4d-interview.mp4", "1a2b3c4d-interview.mp4"),
        ("/data/local-files/?d=films/may/interview.mp4", "may/interview.mp4"),
        ("s3://bucket/films/interview%201.mp4", "interview 1.mp4"),
        ("https://host/films/interview.mp4?signature=abc.mp4", "interview.mp4"),
        ("C:\\films\\Interview.MP4", "interview.mp4"),
    ],
)
def test_label_studio_video_addresses_match_files(address: str, file: str, folder: Folder, tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", [task(address, {"result": [region(11, 20, "nodding", "B2")]})])
    (item,), _ = read(folder(file), path)
    assert spans(item) == [(1, 2, 1), (1, 2, 2)]


def test_latest_of_several_annotations_is_read(folder: Folder, tmp_path: Path) -> None:
    videos = folder("a.mp4", "b.mp4", "c.mp4", "d.mp4")
    tasks = [
        task(
            "a.mp4",
            {"result": [region(1, 10, "B1")], "updated_at": "2026-01-03"},
            {"result": [region(1, 20, "B1")], "updated_at": "2026-01-02"},
            {"result": [region(1, 30, "B1")], "updated_at": "2026-01-04", "was_cancelled": True},
        ),
        task("b.mp4", {"result": []}),
        task("c.mp4", {"result": [region(1, 10, "B1")], "was_cancelled": True}),
        task("d.mp4") | {"predictions": [{"result": [region(1, 10, "B1")]}]},
    ]
    items, notices = read(videos, write(tmp_path / "a.json", tasks))
    assert [(item.name, spans(item)) for item in items] == [("a", [(0, 1, 1)]), ("b", [])]
    assert [notice.rpartition(": ")[2] for notice in notices] == [
        "2 tasks have no annotation and are left out",
        "the latest of 2 annotations is read",
    ]
    with pytest.raises(AnnotationError, match="no annotations in it, only predictions or empty tasks"):
        read(videos, write(tmp_path / "a.json", tasks[2:]))


def test_date_prefix_is_no_upload_prefix(folder: Folder, tmp_path: Path) -> None:
    names = ("20240101-a.mp4", "20250101-a.mp4", "a.mp4")
    tasks = [task(f"/films/{name}", {"result": [region(1, 10, "B1")]}) for name in names[:2]]
    path = write(tmp_path / "a.json", tasks)
    items, _ = read(folder(*names), path)
    assert [item.name for item in items] == ["20240101-a", "20250101-a"]
    assert read_annotations(path, TAXONOMY).instances.videos == ("20240101-a", "20250101-a")


def test_last_of_two_tasks_with_same_video_is_read(folder: Folder, tmp_path: Path) -> None:
    tasks = [task("a.mp4", {"result": [region(1, end, "B1")]}) | {"id": end} for end in (10, 20)]
    items, notices = read(folder("a.mp4"), write(tmp_path / "a.json", tasks))
    assert [spans(item) for item in items] == [[(0, 2, 1)]]
    assert "has the same video and is read in its place" in notices[0]


def test_boris_point_events_are_ignored(folder: Folder, tmp_path: Path) -> None:
    analysed_video = make_video_result(PROPOSALS, view=View(min_score=0), source="x/interview.mp4")
    table = write_export("boris", [analysed_video]).decode().splitlines()
    point_event = table[1].replace("STATE", "POINT")
    path = write(tmp_path / "interview.boris.csv", "\n".join([*table, point_event]).encode())
    (item,), notices = read(folder("interview.mp4"), path)
    assert spans(item) == EXPECTED
    assert "1 events of type POINT have no duration and are left out" in notices[0]


def test_carriage_return_line_endings_are_read(folder: Folder, tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", f"{HEADER}a.mp4,0.5,1,B1\n".replace("\n", "\r").encode())
    (item,), _ = read(folder("a.mp4"), path)
    assert spans(item) == [(0.5, 1, 1)]


def test_elan_media_match_ignores_case() -> None:
    assert Elan({"Anna.mp4": 5.0, "anna.wav": 0.0}, ()).shift_s("anna.mp4") == 5


def test_label_studio_json_min_is_read(folder: Folder, tmp_path: Path) -> None:
    rows = [
        {"id": 1, "video": "/data/upload/1/01234567-a.mp4", "fps": "10", "annotation_id": 4, "updated_at": "2026-01-02",
         "timelineLabels": [region(1, 10, "nodding")["value"], region(21, 30, "B2")["value"]]},
        {"id": 1, "video": "/data/upload/1/01234567-a.mp4", "fps": "10", "annotation_id": 3, "updated_at": "2026-01-01"},
        {"id": 2, "video": "/data/upload/1/01234567-b.mp4", "fps": "10", "annotation_id": 5},
    ]  # fmt: skip
    items, notices = read(folder("a.mp4", "b.mp4"), write(tmp_path / "a.json", rows))
    assert [spans(item) for item in items] == [[(0, 1, 1), (2, 3, 2)], []]
    assert len(notices) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fps": None}, "does not say its rate"),
        ({"fps": 0}, "does not say its rate"),
        ({"video": "other.mp4"}, "there is no video 'other.mp4'"),
        ({"video": None}, "has no video in its data"),
    ],
)
def test_unreadable_label_studio_task_reports_reason(
    change: dict[str, Any], message: str, folder: Folder, tmp_path: Path
) -> None:
    broken_task = task("interview.mp4", {"result": [region(1, 10, "B1")]})
    broken_task["data"] |= change
    with pytest.raises(AnnotationError, match=message):
        read(folder("interview.mp4"), write(tmp_path / "a.json", [broken_task]))


def test_label_studio_fps_below_one_is_frame_duration(folder: Folder, tmp_path: Path) -> None:
    task_with_duration = task("interview.mp4", {"result": [region(11, 20, "B1")]}, fps=0.1)
    (item,), _ = read(folder("interview.mp4"), write(tmp_path / "a.json", [task_with_duration]))
    assert spans(item) == [(1, 2, 1)]


# -- names and files


def test_system_and_lock_files_are_ignored(folder: Folder, tmp_path: Path) -> None:
    videos = folder("anna.mp4", "._anna.mp4", "__MACOSX/anna.mp4", ".trash/anna.mp4", "@eaDir/anna.mp4")
    (videos / "folder.mp4").mkdir()
    annotations = tmp_path / "marks"
    write(annotations / "a.csv", HEADER + "anna,1,2,B1\n")
    apple = bytes.fromhex("0005160700020000") + b"Mac OS X        " + bytes(100) + b"\xb0"
    for name in ("._a.csv", "._anna.eaf", "__MACOSX/._a.csv", "__MACOSX/b.csv", ".~lock.a.csv", "~$a.csv"):
        write(annotations / name, apple)
    (item,), notices = read(videos, annotations)
    assert (spans(item), notices) == ([(1, 2, 1)], [])


@pytest.mark.parametrize(
    "content",
    [
        "video;start_s;end_s;action\nanna;0,84;1,52;B1\n",
        "sep=;\nvideo;start_s;end_s;action\nanna;0,84;1,52;B1\n",
        "Video\tStart_s\tEnd_s\tAction\nanna\t0,84\t1.52\tB1\n",
        "\n,,,\n" + HEADER + "anna,0.84,1.52,B1\n,,,\n , ,,\n\n",
        (HEADER + "anna,.84,1.52,B1 nodding\n").encode("utf-16"),
        (HEADER + "anna,.84,1.52,B1\n").encode("utf-8-sig"),
        HEADER + "C:\\films\\anna.mp4,.84,1.52,nodding\n",
        HEADER + "/films/anna.mp4, .84 , 1.52,NODDING\r\n",
    ],
)
def test_spreadsheet_table_variants_are_read(content: str | bytes, folder: Folder, tmp_path: Path) -> None:
    (item,), notices = read(folder("anna.mp4"), write(tmp_path / "a.csv", content))
    assert (spans(item), notices) == ([(0.84, 1.52, 1)], [])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (HEADER + 'anna,"0,84",1.52,B1\n', "line 2: '0,84' is no number of seconds"),
        (HEADER + "anna,0,84,1,52,B1\n", "line 2: 6 values for 4 columns: numbers are written with a point"),
        (HEADER + "\nanna,0.5,00:01.5,B1\n", "line 3: '00:01.5' is no number of seconds"),
        (HEADER + "anna,,1,B1\n", "line 2: '' is no number of seconds"),
        (b"PK\x03\x04\x00\x00\xb0\x00", "a.csv"),
    ],
)
def test_unreadable_table_error_names_line(content: str | bytes, message: str, folder: Folder, tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match=message):
        read(folder("anna.mp4"), write(tmp_path / "a.csv", content))


def test_video_names_match_across_unicode_forms(folder: Folder, tmp_path: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "Café-1") for form in ("NFC", "NFD"))
    videos = folder(f"{decomposed}.mp4", b"M\xfcller.mp4")
    table = write(tmp_path / "a.csv", (HEADER + "Müller,1,2,B1\n").encode("cp1252"))
    eaf = Eaf()
    eaf.to_file(str(tmp_path / f"{composed}.eaf"))
    items, notices = read(videos, table, tmp_path / f"{composed}.eaf")
    assert [item.name for item in items] == [composed, "Müller"]
    assert notices == []
    listed = write(tmp_path / "held.txt", f"{decomposed}.MP4\n")
    assert [item.name for item in split_by_list(items, listed)[1]] == [composed]
    folder(f"{composed}.mov")
    with pytest.raises(AnnotationError, match="have one name"):
        read(videos, table)


def test_case_mismatch_in_video_name_gives_notice(folder: Folder, tmp_path: Path) -> None:
    table = write(tmp_path / "a.csv", HEADER + "Anna.MP4,1,2,B1\nanna,3,4,B2\nANNA,5,6,B2\n")
    (item,), notices = read(folder("anna.mp4"), table)
    assert spans(item) == [(1, 2, 1), (3, 4, 2), (5, 6, 2)]
    assert notices == ["'Anna.MP4' is taken for anna.mp4", "'ANNA' is taken for anna.mp4"]
    folder("ANNA.mp4")
    items, _ = read(tmp_path / "videos", write(tmp_path / "b.csv", HEADER + "anna,3,4,B2\nANNA,5,6,B2\n"))
    assert [(item.name, spans(item)) for item in items] == [("ANNA", [(5, 6, 2)]), ("anna", [(3, 4, 2)])]
    with pytest.raises(AnnotationError, match="there is no video 'Anna.MP4'"):
        read(tmp_path / "videos", table)
