"""Read unvalidated annotations from users' files of ELAN, BORIS and Label Studio, and from tables."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from model.taxonomy import Body, Taxonomy
from training.elan import Annotation, read_eaf
from training.files import AnnotationError, NameIndex, Table
from training.instances import Fault, Row, parse_float
from training.label_studio import Task, read_tasks, uploaded_name
from training.label_studio import is_export as is_label_studio
from training.tables import make_label_lookup, parse_table, read_annotations, read_json, read_text

ANNOTATION_ENDINGS = (".eaf", ".csv", ".tsv", ".json")
# Columns of the video, start, end and action in a table.
_COLUMNS = ("video", "start_s", "end_s", "action")
_EXPORTED_COLUMNS = ("video", "start_s", "end_s", "action_code")  # as mmad exports it
_BORIS_COLUMNS = ("media file name", "start (s)", "stop (s)", "behavior")  # aggregated events, on the player's clock


@dataclass
class ReadContext:
    """State shared by the readers of all files.

    Attributes:
        files: the existing videos, by name without ending.
        tiers: names of the tiers of .eaf files to read; all if empty.
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
    """Yield annotations; invalid ones are appended to `context.faults`. Raises AnnotationError if none can be read."""
    kind = path.suffix.lower()
    if kind not in ANNOTATION_ENDINGS:
        raise AnnotationError(
            f"{path}: annotations are {', '.join(ANNOTATION_ENDINGS)} files, not {kind!r}: export them as one of these"
        )
    if kind == ".eaf":
        yield from _read_elan(path, context)
    elif kind == ".json" and is_label_studio(document := read_json(path)):
        yield from _read_label_studio(path, document, context)
    elif kind != ".json" and "video_id" not in (table := parse_table(path, read_text(path))).columns:
        yield from _read_table_rows(path, table, context)
    else:
        yield from _read_data_set(path, context)


def _read_elan(path: Path, context: ReadContext) -> Iterator[Row]:
    """Yield the actions of an .eaf file; its video has the name of the file, or of a linked media file."""
    elan = read_eaf(path, context.tiers)
    names = [path.stem, *elan.media, *(Path(name).stem for name in elan.media)]
    name = next((match for name in names if (match := context.find(name))), None)
    if name is None:
        tried = " or ".join(repr(name) for name in dict.fromkeys(Path(name).stem for name in names))
        raise AnnotationError(
            f"{path}: there is no video called {tried}; the first there is: {next(iter(context.files))!r}"
        )
    shift_s = elan.shift_s(context.files[name].name)
    yield Row(name, 0.0, 0.0, None, 1.0, str(path))
    actions, unmatched = _select_actions(elan.annotations, context.taxonomy)
    for one in actions:
        place = f"{path}: tier {one.tier!r}, annotation {one.id}"
        yield Row(name, one.start_s + shift_s, one.end_s + shift_s, one.label, 1.0, place, on_player=True)
    if unmatched:
        first = f"{unmatched[0].label!r} from {unmatched[0].start_s:.3f} s for one"
        notice = f"{len(unmatched)} annotations of body parts have no action at their time and are left out, {first}"
        context.notices[f"{path}: {notice}"] = None


def _select_actions(annotations: Sequence[Annotation], taxonomy: Taxonomy) -> tuple[list[Annotation], list[Annotation]]:
    """Return actions, and body parts that overlap none of theirs; body parts and scores are in mmad's exports."""
    find_action = make_label_lookup(taxonomy)
    bodies = {name.lower(): one.id for one in taxonomy.bodies for name in (one.code, one.name, _name_tier(one))}
    tiers = {_name_tier(body) for body in taxonomy.bodies}
    actions: list[Annotation] = []
    parts: list[tuple[int, Annotation]] = []
    for one in annotations:
        is_part = one.kind == "body part" or (one.tier in tiers and find_action(one.label) is None)
        if is_part and (body := bodies.get(one.label.lower())) is not None:
            parts.append((body, one))
        elif one.kind != "score" or math.isnan(parse_float(one.label)):
            actions.append(one)
    spans = [(taxonomy.body_ids[label], one) for one in actions if (label := find_action(one.label)) is not None]
    unmatched = [
        part
        for body, part in parts
        if not any(body == own and one.start_s < part.end_s and one.end_s > part.start_s for own, one in spans)
    ]
    return actions, unmatched


def _name_tier(body: Body) -> str:
    return f"{body.code} {body.name}"


def _read_label_studio(path: Path, document: list[object], context: ReadContext) -> Iterator[Row]:
    tasks, notices = read_tasks(path, document)
    context.notices |= dict.fromkeys(notices)
    for task in tasks:
        video = _find_video(task, context)
        yield Row(video, 0.0, 0.0, None, 1.0, task.place)
        yield from (row._replace(video=video) for row in task.regions)


def _find_video(task: Task, context: ReadContext) -> str:
    uploads = NameIndex((uploaded_name(path.name), name) for name, path in context.files.items())
    known = next((match for name in task.videos if (match := context.find(name))), None)
    return known or uploads.find(*task.videos) or task.videos[0]


def _read_table_rows(path: Path, table: Table, context: ReadContext) -> Iterator[Row]:
    """Yield one annotation per row; a row with only a video lists a video without actions."""
    layouts = (_COLUMNS, _EXPORTED_COLUMNS, _BORIS_COLUMNS)
    columns = next((one for one in layouts if set(one) <= set(table.columns)), None)
    if columns is None:
        missing = [name for name in _COLUMNS if name not in table.columns]
        raise AnnotationError(
            f"{path} has no column {', '.join(missing)}; its first line must name {','.join(_COLUMNS)}, or the data "
            f"set's video_id,start_frame,end_frame,class,total_frames,fps; it names {','.join(table.columns)}"
        )
    points = [line.number for line in table.rows if line.values.get("behavior type", "").upper() == "POINT"]
    if points:
        notice = f"{len(points)} events of type POINT have no duration and are left out, the first in line {points[0]}"
        context.notices[f"{path}: {notice}"] = None
    for line in table.rows:
        if line.number in points:
            continue
        video, start, end, action = (line.values[name] for name in columns)
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
            yield Row(video, start_s, end_s, None if only_video else action, 1.0, place, columns is _BORIS_COLUMNS)


def _read_data_set(path: Path, context: ReadContext) -> Iterator[Row]:
    loaded = read_annotations(path, context.taxonomy)
    context.faults += loaded.faults
    instances = loaded.instances
    for video in instances.videos:
        yield Row(video, 0.0, 0.0, None, 1.0, f"{path}: {video}")
    for video, (start_s, end_s), label in zip(instances.video, instances.segments, instances.labels, strict=True):
        name = instances.videos[video]
        yield Row(name, float(start_s), float(end_s), str(label), 1.0, f"{path}: {name}")
