"""Read Label Studio's exports of videos: JSON and JSON-MIN, with regions of the control TimelineLabels."""

import math
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

from training.files import AnnotationError, strip_video_ending
from training.instances import Row, parse_float

_TYPE = "timelinelabels"
_UPLOAD = re.compile(r"[0-9a-f]{8}-(?=.)")


class Task(NamedTuple):
    """Annotations of one video.

    Attributes:
        videos: possible names of the video without folders, most likely first.
        regions: segments on the player's clock, accurate to a frame, without their video.
        duration_s, start_offset_s: as mmad's export writes them into the task; NaN and 0 in other tasks.
    """

    place: str
    videos: tuple[str, ...]
    regions: tuple[Row, ...]
    duration_s: float
    start_offset_s: float


def is_export(document: object) -> bool:
    """Return whether a JSON document is an export of Label Studio."""
    return isinstance(document, list) and any(
        isinstance(one, dict) and (isinstance(one.get("data"), dict) or "annotation_id" in one) for one in document
    )


def read_tasks(path: Path, document: list[Any]) -> tuple[list[Task], list[str]]:
    """Return the annotated tasks of a file, and messages about what was left out. Predictions are ignored.

    Of several annotations of a task the latest that was not cancelled is read, of several tasks with one video the
    last. Frame n lasts from (n - 1) / fps to n / fps, as in Label Studio's player. Raises AnnotationError if there are
    no annotations, or a task lacks its frame rate or its video.
    """
    tasks = _merge_by_id(
        [_from_json_min(one) if "data" not in one else one for one in document if isinstance(one, dict)]
    )
    annotated = [
        (f"task {entry.get('id', number)}", entry, annotations)
        for number, entry in enumerate(tasks, start=1)
        if (annotations := _get_annotations(entry))
    ]
    if not annotated:
        raise AnnotationError(
            f"{path}: there are no annotations in it, only predictions or empty tasks: submit the tasks in Label "
            "Studio, then export them as JSON"
        )
    notices = []
    if left_out := len(tasks) - len(annotated):
        notices.append(f"{path}: {left_out} tasks have no annotation and are left out")
    latest: dict[str, Task] = {}
    for name, entry, annotations in annotated:
        task = _read_task(entry, annotations, f"{path}: {name}", notices)
        if earlier := latest.pop(task.videos[0], None):
            notices.append(f"{earlier.place}: {name} has the same video and is read in its place")
        latest[task.videos[0]] = task
    return list(latest.values()), notices


def _read_task(task: dict[str, Any], annotations: list[dict[str, Any]], place: str, notices: list[str]) -> Task:
    data = task["data"]
    videos = tuple(dict.fromkeys(_iterate_names(task)))
    if not videos:
        raise AnnotationError(f'{place} has no video in its data: import tasks with {{"video": ...}}')
    place += f", {videos[0]}"
    rate = parse_float(data.get("fps"))
    # Label Studio reads a rate below 1 as seconds per frame. 0 stands for no valid rate.
    frame_s = 0.0 if not 0 < rate < math.inf else 1 / rate if rate >= 1 else rate
    regions = tuple(_iterate_regions(annotations[-1], frame_s, place))
    if len(annotations) > 1:
        notices.append(f"{place}: the latest of {len(annotations)} annotations is read")
    if annotations[-1].get("result") and not regions:
        notices.append(f"{place}: none of its regions is of type {_TYPE}: they are left out")
    offset_s = parse_float(data.get("start_offset_s"))
    duration_s = parse_float(data.get("duration_s"))
    return Task(place, videos, regions, duration_s, 0.0 if math.isnan(offset_s) else offset_s)


def _iterate_regions(annotation: dict[str, Any], frame_s: float, place: str) -> Iterator[Row]:
    for result in annotation.get("result") or ():
        value = result.get("value") or {}
        if result.get("type", _TYPE) != _TYPE or not isinstance(value.get("ranges"), list):
            continue
        if not frame_s:
            raise AnnotationError(
                f'{place} does not say its rate: its data needs "fps", the frameRate that the labeling configuration '
                "had when it was annotated"
            )
        for one in value["ranges"]:
            first, last = parse_float(one.get("start")), parse_float(one.get("end"))
            if math.isnan(first) or math.isnan(last):
                raise AnnotationError(f"{place}: region {result.get('id')} has a range without start or end")
            for label in value.get(_TYPE) or [""]:
                region = f"{place}, region {result.get('id', '')}"
                yield Row("", (first - 1) * frame_s, last * frame_s, str(label), 1.0, region, True, frame_s)


def _get_annotations(task: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the annotations that were not cancelled, latest last."""
    given = task.get("annotations") or task.get("completions") or []
    finished = [one for one in given if isinstance(one, dict) and not one.get("was_cancelled")]
    return sorted(finished, key=lambda one: str(one.get("updated_at") or one.get("created_at") or ""))


def _from_json_min(row: dict[str, Any]) -> dict[str, Any]:
    results = [
        {"id": f"{name} {number}", "type": _TYPE, "value": value}
        for name, values in row.items()
        if isinstance(values, list)
        for number, value in enumerate(values, start=1)
        if isinstance(value, dict) and _TYPE in value
    ]
    annotation = {"result": results, "updated_at": row.get("updated_at"), "created_at": row.get("created_at")}
    return {"id": row.get("id"), "data": row, "annotations": [annotation]}


def _merge_by_id(tasks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    tasks_by_id: dict[object, dict[str, Any]] = {}
    for number, task in enumerate(tasks):
        key = task.get("id") if task.get("id") is not None else f"entry {number}"
        first = tasks_by_id.setdefault(key, task | {"annotations": []})
        first["annotations"] += task.get("annotations") or task.get("completions") or []
    return list(tasks_by_id.values())


def _iterate_names(task: dict[str, Any]) -> Iterator[str]:
    """Yield possible names of a task's video, most likely first: those of uploads without Label Studio's prefix."""
    data = task["data"]
    for one in (data.get("video"), *data.values(), task.get("file_upload")):
        if not isinstance(one, str) or not one:
            continue
        name = _get_file_name(one)
        if one == data.get("video") or strip_video_ending(name) != name:
            names = [unquote(name), name] if "://" in one or "/upload/" in one else [name, unquote(name)]
            if "/upload/" in one or one == task.get("file_upload"):
                yield from (_UPLOAD.sub("", each, count=1) for each in names)
            yield from names


def _get_file_name(address: str) -> str:
    """Return the file name of a URL, a path, or a local file of Label Studio (?d=folder/name)."""
    if "://" not in address and "?d=" not in address:
        return PurePosixPath(address.replace("\\", "/")).name
    parts = urlsplit(address)
    return PurePosixPath(parse_qs(parts.query).get("d", [parts.path])[0]).name


def uploaded_name(name: str) -> str:
    """Return a file name as Label Studio stores it on upload: underscores for spaces, no punctuation."""
    return re.sub(r"[^-\w.]", "", name.strip().replace(" ", "_"))
