"""Read annotation and prediction files; writers are in service.exports. Invalid rows are faults."""

import csv
import json
import math
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import resources
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from model.taxonomy import Action, Body, Taxonomy
from training.files import AnnotationError, NameIndex, Table, decode, is_hidden, read_table, strip_video_ending
from training.instances import Fault, Instances, Row, collect, find_fault, parse_float
from training.label_studio import is_export as is_label_studio
from training.label_studio import read_tasks

CHALLENGE_COLUMNS = ("video_id", "t_start", "t_end", "class", "score")
CHALLENGE_MEMBER = "prediction.csv"
# Annotated frame numbers may exceed the last frame by one. Predictions may exceed the end, as in OpenTAD's metric.
ANNOTATION_SLACK_S = 0.1
PREDICTION_SLACK_S = math.inf


class ReadResult(NamedTuple):
    """Instances of a file, its invalid rows, and messages about corrected names."""

    instances: Instances
    faults: list[Fault]
    notices: list[str]


def read_labels(path: Path) -> Taxonomy:
    """Read a label list in the data set's format (id, name, code, body, body_id), or the taxonomy of a bundle."""
    document = read_json(path)
    try:
        if isinstance(document, dict):
            return Taxonomy.model_validate_json(json.dumps(document.get("taxonomy", document)))
        bodies = {one["body_id"]: Body(id=one["body_id"], code=one["code"][0], name=one["body"]) for one in document}
        actions = [Action(id=one["id"], code=one["code"], name=one["name"], body_id=one["body_id"]) for one in document]
        return Taxonomy(bodies=tuple(bodies[id] for id in sorted(bodies)), actions=tuple(actions))
    except (KeyError, TypeError, ValueError) as error:
        raise AnnotationError(f"{path} lists no labels: {error}") from error


def standard_labels() -> Taxonomy:
    """Load the label list of MMA-52."""
    with resources.as_file(resources.files("training") / "labels" / "mma52.json") as path:
        return read_labels(path)


def read_annotations(
    path: Path, taxonomy: Taxonomy, *, subset: str | None = None, fps: float | None = None, strict: bool = False
) -> ReadResult:
    """Read ground truth from a CSV (frames), the data set's JSON, ActivityNet JSON, or Label Studio's JSON.

    `subset` selects videos if the file states subsets; `fps` overrides the frame rate of a CSV. Raises AnnotationError
    if the file cannot be read, or has invalid rows and `strict` is set.
    """
    faults: list[Fault] = []
    if path.suffix.lower() != ".json":
        durations, rows = _read_annotations_csv(path, fps, faults)
    elif is_label_studio(document := read_json(path)):
        durations, rows = _read_annotations_label_studio(path, document)
    else:
        durations, rows = _read_annotations_json(path, document, subset, faults)
    return _validate_rows(path, rows, durations, taxonomy, faults, slack_s=ANNOTATION_SLACK_S, strict=strict)


def read_predictions(path: Path, taxonomy: Taxonomy, videos: dict[str, float], *, strict: bool = False) -> ReadResult:
    """Read predictions from the challenge's CSV or zip, ActivityNet JSON, or mmad results (one document or a list).

    `videos` has the durations of the annotated videos by id. Raises AnnotationError like read_annotations.
    """
    faults: list[Fault] = []
    if path.suffix.lower() == ".json":
        rows = _read_predictions_json(path)
    else:
        text = _read_zip(path) if path.suffix.lower() == ".zip" else read_text(path)
        rows = _read_predictions_csv(path, text, faults)
    return _validate_rows(path, rows, videos, taxonomy, faults, slack_s=PREDICTION_SLACK_S, strict=strict)


def _validate_rows(
    path: Path,
    rows: Iterable[Row],
    durations: dict[str, float],
    taxonomy: Taxonomy,
    faults: list[Fault],
    *,
    slack_s: float,
    strict: bool,
) -> ReadResult:
    rows = list(rows)
    find_label = make_label_lookup(taxonomy)
    names = NameIndex((name, video) for video in durations for name in (video, strip_video_ending(video)))
    videos = {
        written: written if written in durations else names.find(written, strip_video_ending(written))
        for written in dict.fromkeys(row.video for row in rows)
    }
    valid: list[Row] = []
    for raw in rows:
        label = find_label(raw.label)
        video = videos[raw.video]
        if video is None:
            faults.append(Fault(raw.place, f"the video {raw.video!r} is not known"))
            continue
        if label is None:
            faults.append(Fault(raw.place, f"the class {raw.label!r} is not among the {len(taxonomy.actions)} known"))
            continue
        row = raw._replace(video=video, label=label)
        if reason := find_fault(row, durations[video], slack_s=slack_s):
            faults.append(Fault(raw.place, reason))
        else:
            valid.append(row)
    if strict and faults:
        shown = "\n".join(str(fault) for fault in faults[:10])
        raise AnnotationError(f"{path} has {len(faults)} rows that make no sense:\n{shown}")
    notices = [f"{path}: {written!r} is taken for {name!r}" for written, name in names.other_case.items()]
    if unknown := [written for written, video in videos.items() if video is None]:
        shown = ", ".join(map(repr, unknown[:3])) + ", ..." * (len(unknown) > 3)
        example = f"; there is {next(iter(durations))!r}" if durations else ""
        notices.append(f"{path}: {len(unknown)} videos are not among those annotated: {shown}{example}")
    return ReadResult(collect(valid, durations), faults, notices)


def make_label_lookup(taxonomy: Taxonomy) -> Callable[[object], int | None]:
    """Return a function that finds an action by its id, code, name, or code and name; None if there is none."""
    known: dict[str, int] = {}
    for action in taxonomy.actions:
        spellings = (action.name, action.code, f"{action.code} {action.name}", str(action.id))
        known |= {spelling.lower(): action.id for spelling in spellings}

    def find(label: object) -> int | None:
        # Spreadsheets often write integers as 9.0.
        return known.get(str(label).strip().lower().removesuffix(".0"))

    return find


def _read_annotations_csv(
    path: Path, assumed_fps: float | None, faults: list[Fault]
) -> tuple[dict[str, float], list[Row]]:
    rows: list[Row] = []
    durations: dict[str, float] = {}
    columns = ("video_id", "start_frame", "end_frame", "class")
    for place, table, record in _iterate_records(path, read_text(path), columns, faults):
        fps = assumed_fps or table.parse_number(record.get("fps", ""))
        start, end = (
            table.parse_number(record[name]) / fps if fps > 0 else math.nan for name in ("start_frame", "end_frame")
        )
        video = record["video_id"]
        # The first row may be invalid: take the duration of the first valid one.
        if video and fps > 0 and math.isnan(durations.setdefault(video, math.nan)):
            total = record.get("total_frames", "")
            durations[video] = _parse_duration(table.parse_number(total) / fps if total else None, place, faults)
        rows.append(Row(video, start, end, record["class"], 1.0, place))
    return durations, rows


def _read_annotations_label_studio(path: Path, document: list[Any]) -> tuple[dict[str, float], list[Row]]:
    tasks, _ = read_tasks(path, document)
    rows: list[Row] = []
    durations: dict[str, float] = {}
    for task in tasks:
        video = strip_video_ending(task.videos[0])
        duration_s = durations[video] = task.duration_s
        for row in task.regions:
            start_s, end_s = (time_s - task.start_offset_s for time_s in (row.start_s, row.end_s))
            # Times are rounded to frames, which may exceed either end by less than a frame.
            start_s = 0.0 if -row.slack_s < start_s < 0 else start_s
            end_s = duration_s if duration_s < end_s < duration_s + row.slack_s else end_s
            rows.append(row._replace(video=video, start_s=start_s, end_s=end_s))
    return durations, rows


def _read_annotations_json(
    path: Path, document: Any, subset: str | None, faults: list[Fault]
) -> tuple[dict[str, float], list[Row]]:
    database = document.get("database", document) if isinstance(document, dict) else None
    if not isinstance(database, dict) or not all(isinstance(entry, dict) for entry in database.values()):
        raise AnnotationError(f"{path} is neither the data set's JSON nor ActivityNet's")
    rows: list[Row] = []
    durations: dict[str, float] = {}
    for video, entry in database.items():
        if subset is not None and entry.get("subset", subset) != subset:
            continue
        given = entry.get("duration", entry.get("duration_second"))
        durations[video] = _parse_duration(given, f"{path}: {video}", faults)
        for number, one in enumerate(_as_list(entry.get("annotations", entry.get("actions")))):
            if not isinstance(one, dict):
                label, *segment = _as_list(one) or [None]
                one = {"label": label, "segment": segment}
            rows.append(_parse_entry(one, video, f"{path}: {video}: annotation {number}", score=1.0))
    return durations, rows


def _parse_duration(value: object, place: str, faults: list[Fault]) -> float:
    """Parse a duration in seconds; NaN if it is unknown or invalid. Invalid ones are appended to `faults`."""
    if value is None:
        return math.nan
    duration_s = parse_float(value)
    if math.isfinite(duration_s) and duration_s > 0:
        return duration_s
    faults.append(Fault(place, f"the duration {value!r} is no number of seconds above 0: it counts as not known"))
    return math.nan


def _read_predictions_csv(path: Path, text: str, faults: list[Fault]) -> Iterator[Row]:
    for place, table, record in _iterate_records(path, text, CHALLENGE_COLUMNS, faults):
        start, end, score = (table.parse_number(record[name]) for name in ("t_start", "t_end", "score"))
        yield Row(record["video_id"], start, end, record["class"], score, place)


def _read_predictions_json(path: Path) -> Iterator[Row]:
    document = read_json(path)
    results = document.get("results") if isinstance(document, dict) else None
    if isinstance(results, dict):
        for video, entries in results.items():
            for number, one in enumerate(_as_list(entries)):
                yield _parse_entry(one, video, f"{path}: {video}: prediction {number}")
        return
    for result in document if isinstance(document, list) else [document]:
        if not isinstance(result, dict) or "detections" not in result or "video" not in result:
            raise AnnotationError(f"{path} is neither ActivityNet JSON nor results of mmad detect --json")
        video = str(result["video"])
        for number, one in enumerate(_as_list(result["detections"])):
            fields = one if isinstance(one, dict) else {}
            start_s, end_s, score = (parse_float(fields.get(name)) for name in ("start_s", "end_s", "score"))
            action = fields.get("action")
            label = action.get("id") if isinstance(action, dict) else None
            yield Row(video, start_s, end_s, label, score, f"{path}: {video}: detection {number}")


def _parse_entry(one: object, video: str, place: str, score: float | None = None) -> Row:
    """Parse a JSON segment; missing and invalid values become NaN and are reported with the row."""
    fields = one if isinstance(one, dict) else {}
    segment = _as_list(fields.get("segment"))
    start, end = segment if len(segment) == 2 else (math.nan, math.nan)
    given = parse_float(fields.get("score")) if score is None else score
    return Row(video, parse_float(start), parse_float(end), fields.get("label"), given, place)


def _as_list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _iterate_records(
    path: Path, text: str, columns: tuple[str, ...], faults: list[Fault]
) -> Iterator[tuple[str, Table, Mapping[str, str]]]:
    table = parse_table(path, text)
    if missing := [name for name in columns if name not in table.columns]:
        raise AnnotationError(f"{path} has no column {', '.join(missing)}; it has {', '.join(table.columns)}")
    for line in table.rows:
        place = f"{path}: line {line.number}"
        if line.fault:
            faults.append(Fault(place, line.fault))
        else:
            yield place, table, line.values


def parse_table(path: Path, text: str) -> Table:
    """Parse the text of a file as a table, see read_table. Raises AnnotationError if it is none."""
    try:
        return read_table(text)
    except csv.Error as error:
        raise AnnotationError(f"{path} is no table: {error}") from error


def read_text(path: Path) -> str:
    """Read a text file, see decode. Raises AnnotationError if it cannot be read."""
    try:
        return decode(path.read_bytes())
    except (OSError, UnicodeDecodeError) as error:
        raise AnnotationError(f"{path} cannot be read: {error}") from error


def read_json(path: Path) -> Any:
    """Read a JSON file. Raises AnnotationError if the file cannot be read or is no JSON."""
    try:
        return json.loads(read_text(path))
    except ValueError as error:
        raise AnnotationError(f"{path} is no JSON: {error}") from error


def _read_zip(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            members = [name for name in archive.namelist() if name.lower().endswith(".csv")]
            names = [name for name in members if not is_hidden(PurePosixPath(name))]
            if len(names) != 1:
                raise AnnotationError(f"{path} holds {len(names)} CSV files, one is wanted: {CHALLENGE_MEMBER}")
            return decode(archive.read(names[0]))
    except (OSError, zipfile.BadZipFile, UnicodeDecodeError) as error:
        raise AnnotationError(f"{path} cannot be read: {error}") from error
