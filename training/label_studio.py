"""Label Studio's exports of videos: JSON and JSON-MIN, with regions of the control TimelineLabels."""

import math
import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

from training.files import without_ending

_TYPE = "timelinelabels"
_UPLOAD = re.compile(r"[0-9a-f]{8}-(?=.)")


class LabelStudioError(Exception):
    """An export that lacks what times need; says which task and what to do."""


class Region(NamedTuple):
    """A labelled segment in seconds of the player's clock."""

    id: str
    label: str
    start_s: float
    end_s: float


class Task(NamedTuple):
    """What was annotated of one video.

    Attributes:
        place: the task, as messages name it.
        videos: what the video may be called, the likeliest first, without folders.
        regions: of the latest annotation.
        frame_s: how long a frame lasts; times are whole ones.
        duration_s, start_offset_s: as mmad's export wrote them into the task; None where it did not.
        notices: what was left out.
    """

    place: str
    videos: tuple[str, ...]
    regions: tuple[Region, ...]
    frame_s: float
    duration_s: float | None
    start_offset_s: float | None
    notices: tuple[str, ...]


def is_export(document: object) -> bool:
    """Whether a JSON document is such an export."""
    return isinstance(document, list) and any(
        isinstance(one, dict) and (isinstance(one.get("data"), dict) or "annotation_id" in one)
        for one in document
    )


def read_tasks(document: list[Any]) -> tuple[list[Task], int]:
    """Annotated tasks, and the number of tasks without annotations; predictions are ignored.

    A task with several annotations has its latest one that was not cancelled. Frame n lasts from (n - 1) / fps to
    n / fps, as Label Studio plays it.

    Raises:
        LabelStudioError: nothing is annotated, or a task does not say its rate or its video.
    """
    full = [_minimal(one) if "data" not in one else one for one in document if isinstance(one, dict)]
    tasks = _joined(full)
    read = [
        _read_task(task, f"task {task.get('id', number)}")
        for number, task in enumerate(tasks, start=1)
        if _finished(task)
    ]
    if not read:
        raise LabelStudioError(
            "there are no annotations in it, only predictions or empty tasks: submit the tasks in Label Studio, then "
            "export them as JSON"
        )
    return _one_a_video(read), len(tasks) - len(read)


def _one_a_video(tasks: list[Task]) -> list[Task]:
    """Keep the last of several tasks with the same video."""
    latest: dict[str, Task] = {}
    for task in tasks:
        if earlier := latest.pop(task.videos[0], None):
            notice = f"{earlier.place}: {task.place} has the same video and is read in its place"
            task = task._replace(notices=(*task.notices, notice))
        latest[task.videos[0]] = task
    return list(latest.values())


def _read_task(task: dict[str, Any], place: str) -> Task:
    data, finished = task["data"], _finished(task)
    videos = tuple(dict.fromkeys(_names(task)))
    if not videos:
        raise LabelStudioError(f'{place} has no video in its data: import tasks with {{"video": ...}}')
    place += f", {videos[0]}"
    frame_s = _frame_s(data.get("fps"))
    regions = tuple(_regions(finished[-1], frame_s, place))
    notices = []
    if len(finished) > 1:
        notices.append(f"{place}: the latest of {len(finished)} annotations is read")
    if finished[-1].get("result") and not regions:
        notices.append(f"{place}: none of its regions is of type {_TYPE}: they are left out")
    duration_s, start_offset_s = (_number(data.get(name)) for name in ("duration_s", "start_offset_s"))
    return Task(place, videos, regions, frame_s or 0.0, duration_s, start_offset_s, tuple(notices))


def _regions(annotation: dict[str, Any], frame_s: float | None, place: str) -> Iterator[Region]:
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
            first, last = _number(one.get("start")), _number(one.get("end"))
            if first is None or last is None:
                raise LabelStudioError(f"{place}: region {result.get('id')} has a range without start or end")
            for label in value.get(_TYPE) or [""]:
                yield Region(str(result.get("id", "")), str(label), (first - 1) * frame_s, last * frame_s)


def _frame_s(fps: object) -> float | None:
    """Seconds a frame; Label Studio takes a rate below 1 for that itself. None for an invalid rate."""
    rate = _number(fps)
    if rate is None or not 0 < rate < math.inf:
        return None
    return 1 / rate if rate >= 1 else rate


def _finished(task: dict[str, Any]) -> list[dict[str, Any]]:
    """Annotations that were not cancelled, the latest last."""
    given = task.get("annotations") or task.get("completions") or []
    kept = [one for one in given if isinstance(one, dict) and not one.get("was_cancelled")]
    return sorted(kept, key=lambda one: str(one.get("updated_at") or one.get("created_at") or ""))


def _minimal(row: dict[str, Any]) -> dict[str, Any]:
    """A row of JSON-MIN, which is one annotation, as a task of JSON."""
    results = [
        {"id": f"{name} {number}", "type": _TYPE, "value": value}
        for name, values in row.items()
        if isinstance(values, list)
        for number, value in enumerate(values, start=1)
        if isinstance(value, dict) and _TYPE in value
    ]
    annotation = {"result": results, "updated_at": row.get("updated_at"), "created_at": row.get("created_at")}
    return {"id": row.get("id"), "data": row, "annotations": [annotation]}


def _joined(tasks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Tasks with the annotations of all entries that have their id."""
    joined: dict[object, dict[str, Any]] = {}
    for number, task in enumerate(tasks):
        key = task.get("id") if task.get("id") is not None else f"entry {number}"
        first = joined.setdefault(key, task | {"annotations": []})
        first["annotations"] += task.get("annotations") or task.get("completions") or []
    return list(joined.values())


def _names(task: dict[str, Any]) -> Iterator[str]:
    """Names that a task's video may have, the likeliest first: an upload's without the prefix of Label Studio."""
    data = task["data"]
    written = [data.get("video"), *data.values(), task.get("file_upload")]
    for one in written:
        if isinstance(one, str) and one and (one == data.get("video") or _is_video(one)):
            name = _last_part(one)
            names = [unquote(name), name] if "://" in one or "/upload/" in one else [name, unquote(name)]
            if "/upload/" in one or one == task.get("file_upload"):
                yield from (_UPLOAD.sub("", each, count=1) for each in names)
            yield from names


def _last_part(address: str) -> str:
    """The file's name, of an address, a path, or a local file of Label Studio (?d=folder/name)."""
    parts = urlsplit(address) if "://" in address or "?d=" in address else None
    if parts is None:
        return PurePosixPath(address.replace("\\", "/")).name
    return PurePosixPath(parse_qs(parts.query).get("d", [parts.path])[0]).name


def _is_video(address: str) -> bool:
    name = _last_part(address)
    return without_ending(name) != name


def uploaded_name(name: str) -> str:
    """A file name as Label Studio changes it on upload: underscores for spaces, no punctuation."""
    return re.sub(r"[^-\w.]", "", name.strip().replace(" ", "_"))


def _number(value: object) -> float | None:
    try:
        return float(str(value))
    except ValueError:
        return None
