"""Annotation and prediction files of the field, read. Those that mmad writes are in service.exports.

Annotations: the data set's CSV and JSON, ActivityNet JSON. Predictions: the challenge's CSV or zip, ActivityNet
JSON, mmad results. Rows that make no sense are named with file and line; they are dropped, or refused if strict.
"""

import csv
import io
import json
import math
import zipfile
from collections.abc import Callable, Iterable, Iterator
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from model.taxonomy import Action, Body, Taxonomy
from training.instances import Fault, Instances, Row, collect, find_fault

CHALLENGE_COLUMNS = ("video_id", "t_start", "t_end", "class", "score")
CHALLENGE_MEMBER = "prediction.csv"
# Annotators' frame numbers may pass the last frame by one. Detectors extrapolate, and OpenTAD's metric keeps that.
ANNOTATION_SLACK_S = 0.1
PREDICTION_SLACK_S = math.inf


class TableError(Exception):
    """A file that cannot be read as what it should be, or that has faults where none are allowed."""


class Loaded(NamedTuple):
    """What a file holds, and the rows of it that were dropped."""

    instances: Instances
    faults: list[Fault]


class _Raw(NamedTuple):
    """A row before it is checked; the label as written."""

    video: str
    start_s: float
    end_s: float
    label: object
    score: float
    place: str


def read_labels(path: Path) -> Taxonomy:
    """Labels as the data set lists them (id, name, code, body, body_id), or as a bundle's taxonomy."""
    document = _read_json(path)
    try:
        if isinstance(document, dict):
            return Taxonomy.model_validate_json(json.dumps(document.get("taxonomy", document)))
        bodies = {
            one["body_id"]: Body(id=one["body_id"], code=one["code"][0], name=one["body"]) for one in document
        }
        actions = [
            Action(id=one["id"], code=one["code"], name=one["name"], body_id=one["body_id"])
            for one in document
        ]
        return Taxonomy(bodies=tuple(bodies[id] for id in sorted(bodies)), actions=tuple(actions))
    except (KeyError, TypeError, ValueError) as error:
        raise TableError(f"{path} lists no labels: {error}") from error


def standard_labels() -> Taxonomy:
    """The label list of MMA-52."""
    with resources.as_file(resources.files("training") / "labels" / "mma52.json") as path:
        return read_labels(path)


def read_annotations(
    path: Path,
    taxonomy: Taxonomy,
    *,
    subset: str | None = None,
    fps: float | None = None,
    strict: bool = False,
) -> Loaded:
    """Ground truth of a CSV (frames), the data set's JSON or ActivityNet JSON.

    Args:
        path: of the file; `.json` is JSON, all else CSV.
        taxonomy: its labels may be written as id, code or name.
        subset: takes only videos of it, where the file tells.
        fps: the rate of a CSV's frames, whatever it says.
        strict: refuse a file with faults.
    """
    if path.suffix == ".json":
        durations, rows = _annotations_of_json(path, subset)
    else:
        durations, rows = _annotations_of_csv(path, fps)
    return _check(path, rows, durations, taxonomy, slack_s=ANNOTATION_SLACK_S, strict=strict)


def read_predictions(
    path: Path, taxonomy: Taxonomy, videos: dict[str, float], *, strict: bool = False
) -> Loaded:
    """Predictions of the challenge's CSV or zip, ActivityNet JSON, or mmad results (a document or a list of them).

    Args:
        path: of the file; `.json` is JSON, `.zip` the challenge's, all else CSV.
        taxonomy: its labels may be written as id, code or name.
        videos: ids that may be predicted, with durations.
        strict: refuse a file with faults.
    """
    if path.suffix == ".json":
        rows = _predictions_of_json(path)
    elif path.suffix == ".zip":
        rows = _predictions_of_csv(path, io.StringIO(_read_zip(path)))
    else:
        rows = _predictions_of_csv(path, io.StringIO(_read_text(path)))
    return _check(path, rows, videos, taxonomy, slack_s=PREDICTION_SLACK_S, strict=strict)


def _check(
    path: Path,
    rows: Iterable[_Raw],
    durations: dict[str, float],
    taxonomy: Taxonomy,
    *,
    slack_s: float,
    strict: bool,
) -> Loaded:
    label_of = label_finder(taxonomy)
    kept: list[Row] = []
    faults: list[Fault] = []
    for raw in rows:
        label = label_of(raw.label)
        if raw.video not in durations:
            faults.append(Fault(raw.place, f"the video {raw.video!r} is not known"))
            continue
        if label is None:
            faults.append(
                Fault(raw.place, f"the class {raw.label!r} is not among the {len(taxonomy.actions)} known")
            )
            continue
        row = Row(raw.video, raw.start_s, raw.end_s, label, raw.score, raw.place)
        if reason := find_fault(row, durations[raw.video], slack_s=slack_s):
            faults.append(Fault(raw.place, reason))
        else:
            kept.append(row)
    if strict and faults:
        shown = "\n".join(str(fault) for fault in faults[:10])
        raise TableError(f"{path} has {len(faults)} rows that make no sense:\n{shown}")
    return Loaded(collect(kept, durations), faults)


def label_finder(taxonomy: Taxonomy) -> Callable[[object], int | None]:
    """By id, code or name."""
    known: dict[str, int] = {}
    for action in taxonomy.actions:
        known |= {action.name.lower(): action.id, action.code.lower(): action.id, str(action.id): action.id}

    def find(label: object) -> int | None:
        # Columns of whole numbers are often written as 9.0.
        return known.get(str(label).strip().lower().removesuffix(".0"))

    return find


def _annotations_of_csv(path: Path, assumed_fps: float | None) -> tuple[dict[str, float], list[_Raw]]:
    rows: list[_Raw] = []
    durations: dict[str, float] = {}
    text = io.StringIO(_read_text(path))
    for place, record in _records(path, text, ("video_id", "start_frame", "end_frame", "class")):
        fps = assumed_fps or _number(record.get("fps"))
        start, end, duration = (
            _number(record.get(name)) / fps if fps > 0 else math.nan
            for name in ("start_frame", "end_frame", "total_frames")
        )
        video = record["video_id"]
        # The first row may be the one that is broken.
        if video and math.isnan(durations.get(video, math.nan)):
            durations[video] = duration
        rows.append(_Raw(video, start, end, record["class"], 1.0, place))
    return durations, rows


def _annotations_of_json(path: Path, subset: str | None) -> tuple[dict[str, float], list[_Raw]]:
    document = _read_json(path)
    database = document.get("database", document) if isinstance(document, dict) else None
    if not isinstance(database, dict) or not all(isinstance(entry, dict) for entry in database.values()):
        raise TableError(f"{path} is neither the data set's JSON nor ActivityNet's")
    rows: list[_Raw] = []
    durations: dict[str, float] = {}
    for video, entry in database.items():
        if subset is not None and entry.get("subset", subset) != subset:
            continue
        durations[video] = _number(entry.get("duration"))
        for number, one in enumerate(_list(entry.get("annotations", entry.get("actions")))):
            if not isinstance(one, dict):
                label, *segment = _list(one) or [None]
                one = {"label": label, "segment": segment}
            rows.append(_entry(one, video, f"{path}: {video}: annotation {number}", score=1.0))
    return durations, rows


def _predictions_of_csv(path: Path, text: io.StringIO) -> Iterator[_Raw]:
    for place, record in _records(path, text, CHALLENGE_COLUMNS):
        start, end, score = (_number(record[name]) for name in ("t_start", "t_end", "score"))
        yield _Raw(record["video_id"], start, end, record["class"], score, place)


def _predictions_of_json(path: Path) -> Iterator[_Raw]:
    document = _read_json(path)
    results = document.get("results") if isinstance(document, dict) else None
    if isinstance(results, dict):
        for video, entries in results.items():
            for number, one in enumerate(_list(entries)):
                yield _entry(one, video, f"{path}: {video}: prediction {number}")
        return
    for result in document if isinstance(document, list) else [document]:
        if not isinstance(result, dict) or "detections" not in result or "video" not in result:
            raise TableError(f"{path} is neither ActivityNet JSON nor results of mmad detect --json")
        video = Path(str(result["video"])).stem
        for number, one in enumerate(_list(result["detections"])):
            action = one.get("action") if isinstance(one, dict) else None
            flat = {
                "label": action.get("id") if isinstance(action, dict) else None,
                "segment": [one.get("start_s"), one.get("end_s")] if isinstance(one, dict) else [],
                "score": one.get("score") if isinstance(one, dict) else None,
            }
            yield _entry(flat, video, f"{path}: {video}: detection {number}")


def _entry(one: object, video: str, place: str, score: float | None = None) -> _Raw:
    """A JSON segment; what is missing or of another form becomes NaN, and is reported with the row."""
    fields = one if isinstance(one, dict) else {}
    segment = _list(fields.get("segment"))
    start, end = segment if len(segment) == 2 else (math.nan, math.nan)
    given = _number(fields.get("score")) if score is None else score
    return _Raw(video, _number(start), _number(end), fields.get("label"), given, place)


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _records(path: Path, text: io.StringIO, columns: tuple[str, ...]) -> Iterator[tuple[str, dict[str, str]]]:
    reader = csv.DictReader(text)
    missing = [name for name in columns if name not in (reader.fieldnames or ())]
    if missing:
        raise TableError(
            f"{path} has no column {', '.join(missing)}; it has {', '.join(reader.fieldnames or ())}"
        )
    for record in reader:
        yield (
            f"{path}: line {reader.line_num}",
            {name: value or "" for name, value in record.items() if name is not None},
        )


def _number(value: Any) -> float:
    """NaN for what is no number: the row is then reported as such."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise TableError(f"{path} cannot be read: {error}") from error


def _read_json(path: Path) -> Any:
    try:
        return json.loads(_read_text(path))
    except ValueError as error:
        raise TableError(f"{path} is no JSON: {error}") from error


def _read_zip(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.read(_member(path, archive)).decode("utf-8-sig")
    except (OSError, zipfile.BadZipFile, UnicodeDecodeError) as error:
        raise TableError(f"{path} cannot be read: {error}") from error


def _member(path: Path, archive: zipfile.ZipFile) -> str:
    names = [name for name in archive.namelist() if name.endswith(".csv")]
    if len(names) != 1:
        raise TableError(f"{path} holds {len(names)} CSV files, one is wanted: {CHALLENGE_MEMBER}")
    return names[0]
