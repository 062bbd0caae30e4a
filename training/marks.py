"""Read unvalidated annotations from users' files of ELAN, BORIS and Label Studio, and from tables."""

import csv
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from model.taxonomy import Taxonomy
from training.elan import Annotation, ElanError, read_eaf
from training.files import NameIndex, Table, decode, read_table
from training.instances import Fault, Row, parse_float
from training.label_studio import LabelStudioError, Task, read_tasks, uploaded_name
from training.label_studio import is_export as is_label_studio
from training.tables import TableError, make_label_lookup, read_annotations, read_json

ANNOTATION_ENDINGS = (".eaf", ".csv", ".tsv", ".json")


class AnnotationError(Exception):
    """Raised for annotations that cannot be trained on; the message lists faults with file and location."""


class _Layout(NamedTuple):
    """Columns of a table of annotations, and whether its times are on the player's clock."""

    video: str
    start: str
    end: str
    action: str
    on_player: bool


_LAYOUTS = (
    _Layout("video", "start_s", "end_s", "action", on_player=False),
    _Layout("video", "start_s", "end_s", "action_code", on_player=False),  # as mmad exports it
    _Layout("media file name", "start (s)", "stop (s)", "behavior", on_player=True),  # BORIS, aggregated events
)


@dataclass
class ReadContext:
    """State shared by the readers of all files.

    Attributes:
        files: the existing videos, by name without ending.
        tiers: names of the tiers of .eaf files to read; all if empty.
        faults: invalid annotations.
        notices: messages about corrected and ignored data, as an ordered set.
    """

    files: dict[str, Path]
    taxonomy: Taxonomy
    tiers: Sequence[str]
    faults: list[Fault] = field(default_factory=list)
    notices: dict[str, None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        spellings = [(spelling, name) for name, path in self.files.items() for spelling in (name, path.name)]
        self._names = NameIndex(spellings)

    def find(self, written: str) -> str | None:
        """Look up a video, with or without its ending; return its key in `files`, or None if there is none."""
        name = self._names.find(written)
        if written in self._names.other_case:
            self.notices[f"{written!r} is taken for {self.files[self._names.other_case[written]].name}"] = None
        return name


def read_raw_annotations(path: Path, context: ReadContext) -> Iterator[Row]:
    """Yield the annotations of a file; invalid ones are appended to `context.faults`.

    Raises AnnotationError if the file as a whole cannot be read.
    """
    kind = path.suffix.lower()
    if kind not in ANNOTATION_ENDINGS:
        raise AnnotationError(
            f"{path}: annotations are {', '.join(ANNOTATION_ENDINGS)} files, not {kind!r}: export them as one of these"
        )
    try:
        if kind == ".eaf":
            yield from _read_elan(path, context)
        elif kind == ".json" and is_label_studio(document := read_json(path)):
            yield from _read_label_studio(path, document, context)
        elif kind != ".json" and "video_id" not in (table := read_table(decode(path.read_bytes()))).columns:
            yield from _read_table_rows(path, table, context)
        else:
            yield from _read_data_set(path, context)
    except (ElanError, LabelStudioError, TableError, OSError, UnicodeDecodeError, csv.Error) as error:
        message = str(error)
        raise AnnotationError(message if str(path) in message else f"{path}: {message}") from error


def _read_elan(path: Path, context: ReadContext) -> Iterator[Row]:
    """Yield the actions of an .eaf file. Its video has the name of the file, or of a linked media file.

    Scores and body parts of mmad's exports are ignored.
    """
    elan = read_eaf(path, context.tiers)
    names = [path.stem, *elan.media, *(Path(name).stem for name in elan.media)]
    name = next((match for name in names if (match := context.find(name))), None)
    if name is None:
        tried = " or ".join(repr(name) for name in dict.fromkeys(Path(name).stem for name in names))
        raise ElanError(f"{path}: there is no video called {tried}; the first there is: {next(iter(context.files))!r}")
    shift_s = elan.shift_s(context.files[name].name)
    yield Row(name, 0.0, 0.0, None, 1.0, str(path))
    levels = _Levels(context.taxonomy)
    actions = [one for one in elan.annotations if levels.is_action(one)]
    for one in actions:
        place = f"{path}: tier {one.tier!r}, annotation {one.id}"
        yield Row(name, one.start_s + shift_s, one.end_s + shift_s, one.label, 1.0, place, on_player=True)
    if unmatched := levels.without_action(elan.annotations, actions):
        first = f"{unmatched[0].label!r} from {unmatched[0].start_s:.3f} s for one"
        notice = f"{len(unmatched)} annotations of body parts have no action at their time and are left out, {first}"
        context.notices[f"{path}: {notice}"] = None


class _Levels:
    """Distinguishes annotations of actions from those of body parts and scores in mmad's exports."""

    def __init__(self, taxonomy: Taxonomy) -> None:
        self._find = make_label_lookup(taxonomy)
        self._body_ids = taxonomy.body_ids
        self._bodies = {
            spelling.lower(): body.id
            for body in taxonomy.bodies
            for spelling in (body.code, body.name, f"{body.code} {body.name}")
        }
        self._body_tiers = {f"{body.code} {body.name}" for body in taxonomy.bodies}

    def is_action(self, one: Annotation) -> bool:
        is_score = one.kind == "score" and not math.isnan(parse_float(one.label))
        return not is_score and self._get_body(one) is None

    def without_action(self, annotations: Sequence[Annotation], actions: Sequence[Annotation]) -> list[Annotation]:
        """Return the annotations of body parts that overlap no action of that body part."""
        spans = [(self._body_ids[label], one) for one in actions if (label := self._find(one.label)) is not None]
        return [
            one
            for one in annotations
            if (body := self._get_body(one)) is not None
            and not any(
                body == action_body and action.start_s < one.end_s and action.end_s > one.start_s
                for action_body, action in spans
            )
        ]

    def _get_body(self, one: Annotation) -> int | None:
        if one.kind == "body part" or (one.tier in self._body_tiers and self._find(one.label) is None):
            return self._bodies.get(one.label.lower())
        return None


def _read_label_studio(path: Path, document: list[object], context: ReadContext) -> Iterator[Row]:
    tasks, left_out = read_tasks(document)
    if left_out:
        context.notices[f"{path}: {left_out} tasks have no annotation and are left out"] = None
    for task in tasks:
        place = f"{path}: {task.place}"
        context.notices |= dict.fromkeys(f"{path}: {notice}" for notice in task.notices)
        video = _find_video(task, context)
        yield Row(video, 0.0, 0.0, None, 1.0, place)
        for one in task.regions:
            where = f"{place}, region {one.id}"
            yield Row(video, one.start_s, one.end_s, one.label, 1.0, where, True, task.frame_s)


def _find_video(task: Task, context: ReadContext) -> str:
    """Return the video of a task, by one of its names or by its name after an upload to Label Studio."""
    uploads = NameIndex((uploaded_name(path.name), name) for name, path in context.files.items())
    known = next((match for name in task.videos if (match := context.find(name))), None)
    return known or uploads.find(*task.videos) or task.videos[0]


def _read_table_rows(path: Path, table: Table, context: ReadContext) -> Iterator[Row]:
    """Yield one annotation per row; a row with only a video lists a video without actions."""
    layout = next((one for one in _LAYOUTS if set(one[:4]) <= set(table.columns)), None)
    if layout is None:
        columns = _LAYOUTS[0][:4]
        missing = [name for name in columns if name not in table.columns]
        raise TableError(
            f"{path} has no column {', '.join(missing)}; its first line must name {','.join(columns)}, or the data "
            f"set's video_id,start_frame,end_frame,class,total_frames,fps; it names {','.join(table.columns)}"
        )
    points = [line.number for line in table.rows if line.values.get("behavior type", "").upper() == "POINT"]
    if points:
        notice = f"{len(points)} events of type POINT have no duration and are left out, the first in line {points[0]}"
        context.notices[f"{path}: {notice}"] = None
    for line in table.rows:
        if line.number in points:
            continue
        video, start, end, action = (line.values[name] for name in layout[:4])
        place = f"{path}: line {line.number}"
        only_video = not (start or end or action)
        start_s, end_s = table.parse_number(start), table.parse_number(end)
        wrong = start if math.isnan(start_s) else end if math.isnan(end_s) else None
        if line.fault:
            context.faults.append(Fault(place, line.fault))
        elif wrong is not None and not only_video:
            reason = f"{wrong!r} is no number of seconds: a minute and a half second are written 60.5"
            context.faults.append(Fault(place, reason))
        else:
            yield Row(video, start_s, end_s, None if only_video else action, 1.0, place, layout.on_player)


def _read_data_set(path: Path, context: ReadContext) -> Iterator[Row]:
    loaded = read_annotations(path, context.taxonomy)
    context.faults += loaded.faults
    instances = loaded.instances
    for video in instances.videos:
        yield Row(video, 0.0, 0.0, None, 1.0, f"{path}: {video}")
    for video, (start_s, end_s), label in zip(instances.video, instances.segments, instances.labels, strict=True):
        name = instances.videos[video]
        yield Row(name, float(start_s), float(end_s), str(label), 1.0, f"{path}: {name}")
