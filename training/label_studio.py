"""Read Label Studio's exports of videos: JSON and JSON-MIN, with regions of the control TimelineLabels."""

import math
import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

from training.files import strip_video_ending

_TYPE = "timelinelabels"
_UPLOAD = re.compile(r"[0-9a-f]{8}-(?=.)")


class LabelStudioError(Exception):
    """Raised for an export without the data that times need; the message names the task and a remedy."""


class Region(NamedTuple):
    """A labelled segment, in seconds of the player's clock."""

    id: str
    label: str
    start_s: float
    end_s: float


class Task(NamedTuple):
    """Annotations of one video.

    Attributes:
        place: name of the task in messages.
        videos: possible names of the video without folders, most likely first.
        regions: of the latest annotation.
        frame_s: duration of a frame; times are multiples of it.
        duration_s, start_offset_s: as written into the task by mmad's export; None in other tasks.
        notices: messages about ignored data.
    """

    place: str
    videos: tuple[str, ...]
    regions: tuple[Region, ...]
    frame_s: float
    duration_s: float | None
    start_offset_s: float | None
    notices: tuple[str, ...]


def is_export(document: object) -> bool:
    """Return whether a JSON document is an export of Label Studio."""
    return isinstance(document, list) and any(
        isinstance(one, dict) and (isinstance(one.get("data"), dict) or "annotation_id" in one) for one in document
    )


def read_tasks(document: list[Any]) -> tuple[list[Task], int]:
    """Return the annotated tasks, and the number of tasks without annotations. Predictions are ignored.

    Of several annotations of a task the latest that was not cancelled is read. Frame n lasts from (n - 1) / fps to
    n / fps, as in Label Studio's player.

    Raises:
        LabelStudioError: there are no annotations, or a task lacks its frame rate or its video.
    """
    full = [_from_json_min(one) if "data" not in one else one for one in document if isinstance(one, dict)]
    tasks = _merge_by_id(full)
    read = [
        _read_task(task, f"task {task.get('id', number)}")
        for number, task in enumerate(tasks, start=1)
        if _get_annotations(task)
    ]
    if not read:
        raise LabelStudioError(
            "there are no annotations in it, only predictions or empty tasks: submit the tasks in Label Studio, then "
            "export them as JSON"
        )
    return _merge_by_video(read), len(tasks) - len(read)


def _merge_by_video(tasks: list[Task]) -> list[Task]:
    """Return the last of several tasks with the same video."""
    latest: dict[str, Task] = {}
    for task in tasks:
        if earlier := latest.pop(task.videos[0], None):
            notice = f"{earlier.place}: {task.place} has the same video and is read in its place"
            task = task._replace(notices=(*task.notices, notice))
        latest[task.videos[0]] = task
    return list(latest.values())


def _read_task(task: dict[str, Any], place: str) -> Task:
    data, annotations = task["data"], _get_annotations(task)
    videos = tuple(dict.fromkeys(_iterate_names(task)))
    if not videos:
        raise LabelStudioError(f'{place} has no video in its data: import tasks with {{"video": ...}}')
    place += f", {videos[0]}"
    frame_s = _get_frame_s(data.get("fps"))
    regions = tuple(_iterate_regions(annotations[-1], frame_s, place))
    notices = []
    if len(annotations) > 1:
        notices.append(f"{place}: the latest of {len(annotations)} annotations is read")
    if annotations[-1].get("result") and not regions:
        notices.append(f"{place}: none of its regions is of type {_TYPE}: they are left out")
    duration_s, start_offset_s = (_parse_number(data.get(name)) for name in ("duration_s", "start_offset_s"))
    return Task(place, videos, regions, frame_s or 0.0, duration_s, start_offset_s, tuple(notices))


def _iterate_regions(annotation: dict[str, Any], frame_s: float | None, place: str) -> Iterator[Region]:
    for result in annotation.get("result") or ():
        value = result.get("value") or {}
        if result.get("type", _TYPE) != _TYPE or not isinstance(value.get("ranges"), list):
            continue
        if frame_s is None:
            raise LabelStudioError(
                f'{place} does not say its rate: its data needs "fps", the frameRate that the labeling configuration '
                "had when it was annotated"
            )
        for one in value["ranges"]:
            first, last = _parse_number(one.get("start")), _parse_number(one.get("end"))
            if first is None or last is None:
                raise LabelStudioError(f"{place}: region {result.get('id')} has a range without start or end")
            for label in value.get(_TYPE) or [""]:
                yield Region(str(result.get("id", "")), str(label), (first - 1) * frame_s, last * frame_s)


def _get_frame_s(fps: object) -> float | None:
    """Return seconds per frame, None for an invalid rate. Label Studio reads a rate below 1 as seconds per frame."""
    rate = _parse_number(fps)
    if rate is None or not 0 < rate < math.inf:
        return None
    return 1 / rate if rate >= 1 else rate


def _get_annotations(task: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the annotations that were not cancelled, latest last."""
    given = task.get("annotations") or task.get("completions") or []
    finished = [one for one in given if isinstance(one, dict) and not one.get("was_cancelled")]
    return sorted(finished, key=lambda one: str(one.get("updated_at") or one.get("created_at") or ""))


def _from_json_min(row: dict[str, Any]) -> dict[str, Any]:
    """Convert a row of JSON-MIN, which is one annotation, to a task of JSON."""
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
    """Merge entries with the same id to one task with all their annotations."""
    tasks_by_id: dict[object, dict[str, Any]] = {}
    for number, task in enumerate(tasks):
        key = task.get("id") if task.get("id") is not None else f"entry {number}"
        first = tasks_by_id.setdefault(key, task | {"annotations": []})
        first["annotations"] += task.get("annotations") or task.get("completions") or []
    return list(tasks_by_id.values())


def _iterate_names(task: dict[str, Any]) -> Iterator[str]:
    """Yield possible names of a task's video, most likely first: those of uploads without Label Studio's prefix."""
    data = task["data"]
    values = [data.get("video"), *data.values(), task.get("file_upload")]
    for one in values:
        if isinstance(one, str) and one and (one == data.get("video") or _is_video(one)):
            name = _get_file_name(one)
            names = [unquote(name), name] if "://" in one or "/upload/" in one else [name, unquote(name)]
            if "/upload/" in one or one == task.get("file_upload"):
                yield from (_UPLOAD.sub("", each, count=1) for each in names)
            yield from names


def _get_file_name(address: str) -> str:
    """Return the file name of a URL, a path, or a local file of Label Studio (?d=folder/name)."""
    parts = urlsplit(address) if "://" in address or "?d=" in address else None
    if parts is None:
        return PurePosixPath(address.replace("\\", "/")).name
    return PurePosixPath(parse_qs(parts.query).get("d", [parts.path])[0]).name


def _is_video(address: str) -> bool:
    name = _get_file_name(address)
    return strip_video_ending(name) != name


def uploaded_name(name: str) -> str:
    """Return a file name as Label Studio stores it on upload: underscores for spaces, no punctuation."""
    return re.sub(r"[^-\w.]", "", name.strip().replace(" ", "_"))


def _parse_number(value: object) -> float | None:
    try:
        return float(str(value))
    except ValueError:
        return None
