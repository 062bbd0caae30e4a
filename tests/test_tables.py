"""Annotation and prediction files: all formats read the same, and invalid rows are reported."""

import json
import math
import zipfile
from pathlib import Path

import numpy as np
import pytest

from model.taxonomy import Taxonomy
from training.files import AnnotationError
from training.instances import Instances
from training.tables import read_annotations, read_labels, read_predictions

TAXONOMY = Taxonomy.model_validate_json(
    json.dumps(
        {
            "bodies": [{"id": 0, "code": "A", "name": "Body"}, {"id": 1, "code": "B", "name": "Head"}],
            "actions": [
                {"id": 0, "code": "A1", "name": "shaking body", "body_id": 0},
                {"id": 1, "code": "B1", "name": "nodding", "body_id": 1},
                {"id": 2, "code": "B2", "name": "shaking head", "body_id": 1},
                {"id": 3, "code": "A2", "name": "turning around", "body_id": 0},
            ],
        }
    )
)
VIDEOS = {"v1": 10.0, "v2": 5.0}
HEADER = "id,video_id,start_frame,end_frame,class,total_frames,fps\n"
VALID_ROWS = "0,v1,30,90,1,300,30.0\n1,v1,0,300,2,300,30.0\n2,v2,29,58,0,145,29.0\n"


def rows(instances: Instances) -> list[tuple[str, float, float, int, float]]:
    return [
        (instances.videos[video], round(float(start), 4), round(float(end), 4), int(label), round(float(score), 4))
        for video, (start, end), label, score in zip(
            instances.video, instances.segments, instances.labels, instances.scores, strict=True
        )
    ]


TRUTH = [("v1", 1.0, 3.0, 1, 1.0), ("v1", 0.0, 10.0, 2, 1.0), ("v2", 1.0, 2.0, 0, 1.0)]


def test_all_annotation_formats_read_the_same(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(HEADER + VALID_ROWS)
    mmad_json = {
        "v1": {"subset": "val", "duration": 10, "actions": [[1, 1, 3], [2, 0, 10]]},
        "v2": {"subset": "val", "duration": 5, "actions": [[0, 1, 2]]},
        "v3": {"subset": "train", "duration": 5, "actions": [[0, 1, 2]]},
    }
    (tmp_path / "a.json").write_text(json.dumps(mmad_json))
    names = {0: "shaking body", 1: "Nodding", 2: "B2"}
    database = {
        video: {
            "subset": entry["subset"],
            "duration": entry["duration"],
            "annotations": [{"label": names[label], "segment": [start, end]} for label, start, end in entry["actions"]],
        }
        for video, entry in mmad_json.items()
    }
    (tmp_path / "b.json").write_text(json.dumps({"version": "x", "database": database, "taxonomy": []}))
    for name in ("a.csv", "a.json", "b.json"):
        loaded = read_annotations(tmp_path / name, TAXONOMY, subset="val")
        assert loaded.faults == []
        assert rows(loaded.instances) == TRUTH, name
        assert loaded.instances.durations.tolist() == [10, 5]
    assert len(read_annotations(tmp_path / "a.json", TAXONOMY).instances) == 4


PREDICTIONS = [("v1", 1.5, 3.25, 1, 0.75), ("v2", 0.0, 5.0, 3, 0.5)]


def test_all_prediction_formats_read_the_same(tmp_path: Path) -> None:
    text = ",video_id,t_start,t_end,class,score\n0,v1,1.5,3.25,1,0.75\n1,v2,0,5.0,3,0.5\n"
    (tmp_path / "p.csv").write_text(text)
    (tmp_path / "bom.csv").write_text(
        text.replace(",video_id", "video_id", 1).replace("0,v1", "v1").replace("1,v2", "v2"), "utf-8-sig"
    )
    with zipfile.ZipFile(tmp_path / "p.zip", "w") as archive:
        archive.writestr("prediction.csv", text)
    results = {
        "v1": [{"label": "nodding", "score": 0.75, "segment": [1.5, 3.25]}],
        "v2": [{"label": "turning around", "score": 0.5, "segment": [0, 5]}],
    }
    (tmp_path / "p.json").write_text(json.dumps({"version": "x", "results": results, "external_data": {}}))
    mmad_results = [
        {
            "video": f"some/where/{video}.mp4",
            "detections": [{"id": "p0", "start_s": start, "end_s": end, "score": score, "action": {"id": label}}],
        }
        for video, start, end, label, score in PREDICTIONS
    ]
    (tmp_path / "q.json").write_text(json.dumps(mmad_results))
    for name in ("p.csv", "bom.csv", "p.zip", "p.json", "q.json"):
        loaded = read_predictions(tmp_path / name, TAXONOMY, VIDEOS)
        assert loaded.faults == []
        assert rows(loaded.instances) == PREDICTIONS, name


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("9,v1,90,30,1,300,30.0", "the end 1 s is not after the start 3 s"),
        ("9,v1,30,30,1,300,30.0", "is not after the start"),
        ("9,v1,30,90,77,300,30.0", "the class '77' is not among the 4 known"),
        ("9,v1,30,nan,1,300,30.0", "not all are numbers"),
        ("9,v1,30,,1,300,30.0", "not all are numbers"),
        ("9,v1,-30,90,1,300,30.0", "the start -1 s is negative"),
        ("9,v1,30,400,1,300,30.0", "the end 13.3333 s is beyond the video's end, 10 s"),
        ("9,v1,30,90,1,300,0", "not all are numbers"),
        ("9,v1", "the class '' is not among"),
    ],
)
def test_invalid_annotation_rows_are_reported(tmp_path: Path, row: str, reason: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text(HEADER + VALID_ROWS + row + "\n")
    loaded = read_annotations(path, TAXONOMY)
    assert rows(loaded.instances) == TRUTH
    assert len(loaded.faults) == 1
    assert loaded.faults[0].place == f"{path}: line 5"
    assert reason in loaded.faults[0].reason
    with pytest.raises(AnnotationError, match="has 1 rows that make no sense"):
        read_annotations(path, TAXONOMY, strict=True)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("0,v9,1,2,1,0.5", "the video 'v9' is not known"),
        ("0,v1,2,1,1,0.5", "is not after the start"),
        ("0,v1,1,2,-1,0.5", "the class '-1'"),
        ("0,v1,1,2,1,inf", "not all are numbers"),
        ("0,v1,10.5,12,1,0.5", "the start 10.5 s is beyond the video's end"),
    ],
)
def test_invalid_prediction_rows_are_reported(tmp_path: Path, row: str, reason: str) -> None:
    path = tmp_path / "p.csv"
    path.write_text(f",video_id,t_start,t_end,class,score\n{row}\n1,v1,9.5,10.5,1,0.5\n")
    loaded = read_predictions(path, TAXONOMY, VIDEOS)
    assert rows(loaded.instances) == [("v1", 9.5, 10.5, 1, 0.5)]  # a detector may extrapolate
    assert [fault.place for fault in loaded.faults] == [f"{path}: line 2"]
    assert reason in loaded.faults[0].reason


@pytest.mark.parametrize(
    "entry",
    [
        {"label": "nodding", "segment": [1, 2]},
        {"label": "nodding", "segment": [1], "score": 1},
        {"label": "nodding", "segment": None, "score": 1},
        {"segment": [1, 2], "score": 1},
        {"label": "nodding", "segment": [1, 2], "score": "high"},
        [1, 2],
        3,
    ],
)
def test_invalid_json_entries_are_reported(tmp_path: Path, entry: object) -> None:
    path = tmp_path / "p.json"
    valid = {"label": "nodding", "segment": [1, 2], "score": 0.5}
    path.write_text(json.dumps({"results": {"v1": [valid, entry]}}))
    loaded = read_predictions(path, TAXONOMY, VIDEOS)
    assert [fault.place for fault in loaded.faults] == [f"{path}: v1: prediction 1"]
    assert len(loaded.instances) == 1
    mmad_result = {"video": "v1.mp4", "detections": [entry]}
    path.write_text(json.dumps([mmad_result]))
    assert len(read_predictions(path, TAXONOMY, VIDEOS).faults) == 1
    path.write_text(json.dumps({"v1": {"duration": 10, "actions": [[1, 2, 3], entry if entry != [1, 2] else [9, 1]]}}))
    truth = read_annotations(path, TAXONOMY)
    assert len(truth.instances) + len(truth.faults) == 2
    path.write_text(json.dumps({"database": {"v1": {"duration": 10, "annotations": None}}}))
    assert len(read_annotations(path, TAXONOMY).instances) == 0


def test_video_duration_is_that_of_first_valid_row(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(HEADER + "0,v1,30,90,1,300,0\n1,v1,0,300,2.0,300,30.0\n2,v1,0,900,2,300,30.0\n3,,0,30,2,300,30.0\n")
    loaded = read_annotations(path, TAXONOMY)
    assert rows(loaded.instances) == [("v1", 0.0, 10.0, 2, 1.0)]
    assert loaded.instances.videos == ("v1",)
    assert len(loaded.faults) == 3


@pytest.mark.parametrize("duration", [-3, 0, math.inf, math.nan, "long", [1]])
def test_invalid_durations_are_reported_and_unknown(duration: object, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"v1": {"duration": duration, "actions": [[1, 2, 3]]}, "v2": {"actions": []}}))
    loaded = read_annotations(path, TAXONOMY)
    assert rows(loaded.instances) == [("v1", 2.0, 3.0, 1, 1.0)]
    assert np.isnan(loaded.instances.durations).all()
    assert [fault.place for fault in loaded.faults] == [f"{path}: v1"]
    assert "is no number of seconds above 0" in loaded.faults[0].reason
    table = tmp_path / "a.csv"
    table.write_text(HEADER + "0,v1,30,90,1,-300,30.0\n1,v1,0,300,2,,30.0\n")
    loaded = read_annotations(table, TAXONOMY)
    assert len(loaded.instances) == 2
    assert [fault.place for fault in loaded.faults] == [f"{table}: line 2"]


def test_video_names_match_other_spellings(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    spellings = ("v1", "v1.mp4", "films/v1.MOV", "C:\\films\\v1.avi", "V1")
    path.write_text(
        json.dumps(
            {"results": {name: [{"label": 1, "score": 1, "segment": [1, 2]}] for name in (*spellings, "v3", "v4")}}
        )
    )
    loaded = read_predictions(path, TAXONOMY, VIDEOS)
    assert [row[0] for row in rows(loaded.instances)] == ["v1"] * 5
    assert [fault.reason for fault in loaded.faults] == [f"the video '{name}' is not known" for name in ("v3", "v4")]
    assert loaded.notices == [
        f"{path}: 'V1' is taken for 'v1'",
        f"{path}: 2 videos are not among those annotated: 'v3', 'v4'; there is 'v1'",
    ]


def test_spreadsheet_tables_and_macos_zips_are_read(tmp_path: Path) -> None:
    text = "video_id;t_start;t_end;class;score\nv1;1,5;3,25;1;0,75\n;;;;\nv2;0;5,0;3;0,5\n"
    (tmp_path / "p.csv").write_bytes(text.encode("utf-16"))
    with zipfile.ZipFile(tmp_path / "p.zip", "w") as archive:
        archive.writestr("folder/prediction.csv", text)
        archive.writestr("__MACOSX/folder/._prediction.csv", b"\0\x05\x16\x07")
    for name in ("p.csv", "p.zip"):
        loaded = read_predictions(tmp_path / name, TAXONOMY, VIDEOS)
        assert rows(loaded.instances) == PREDICTIONS, name
    (tmp_path / "q.csv").write_text(text.replace(";", ","))
    loaded = read_predictions(tmp_path / "q.csv", TAXONOMY, VIDEOS)
    assert (len(loaded.instances), len(loaded.faults)) == (0, 2)
    assert "8 values for 5 columns: numbers are written with a point" in loaded.faults[0].reason


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("a,b\n1,2\n")
    (tmp_path / "x.json").write_text("{")
    (tmp_path / "y.json").write_text('[{"a": 1}]')
    (tmp_path / "x.zip").write_text("no zip")
    with pytest.raises(AnnotationError, match=r"has no column video_id, start_frame.*it has a, b"):
        read_annotations(tmp_path / "x.csv", TAXONOMY)
    with pytest.raises(AnnotationError, match="no JSON"):
        read_annotations(tmp_path / "x.json", TAXONOMY)
    with pytest.raises(AnnotationError, match="neither"):
        read_annotations(tmp_path / "y.json", TAXONOMY)
    for name in ("y.json", "x.zip", "x.csv", "missing.csv"):
        with pytest.raises(AnnotationError):
            read_predictions(tmp_path / name, TAXONOMY, VIDEOS)
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as archive:
        archive.writestr("a.csv", "")
        archive.writestr("b.csv", "")
    with pytest.raises(AnnotationError, match="holds 2 CSV files"):
        read_predictions(tmp_path / "two.zip", TAXONOMY, VIDEOS)


def test_labels_are_read_from_lists_and_bundles(tmp_path: Path) -> None:
    listed = [
        {
            "id": action.id,
            "name": action.name,
            "code": action.code,
            "body": TAXONOMY.bodies[action.body_id].name,
            "body_id": action.body_id,
        }
        for action in TAXONOMY.actions
    ]
    (tmp_path / "labels.json").write_text(json.dumps(listed))
    (tmp_path / "bundle.json").write_text(json.dumps({"taxonomy": TAXONOMY.model_dump()}))
    (tmp_path / "plain.json").write_text(TAXONOMY.model_dump_json())
    for name in ("labels.json", "bundle.json", "plain.json"):
        assert read_labels(tmp_path / name) == TAXONOMY
    (tmp_path / "wrong.json").write_text('[{"id": 3}]')
    with pytest.raises(AnnotationError, match="lists no labels"):
        read_labels(tmp_path / "wrong.json")


@pytest.mark.shared("data/mma52")
def test_real_annotation_files_have_no_faults(shared: Path) -> None:
    taxonomy = read_labels(shared / "data/labels.json")
    for subset, videos, count in (("train", 4534, 13698), ("val", 1475, 4735)):
        tables = [
            read_annotations(shared / f"data/mma52/{name}", taxonomy, subset=subset, strict=True).instances
            for name in (f"{subset}.csv", "mmad.json")
        ]
        for table in tables:
            assert (len(table.videos), len(table)) == (videos, count)
        np.testing.assert_allclose(tables[0].segments, tables[1].segments, atol=1e-4)
        np.testing.assert_array_equal(tables[0].labels, tables[1].labels)
