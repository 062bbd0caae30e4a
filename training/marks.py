"""Annotations as users' files have them, before they are checked: of ELAN, BORIS, Label Studio, and tables."""

import csv
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from model.taxonomy import Taxonomy
from training.elan import Annotation, ElanError, read_eaf
from training.files import Names, decode
from training.instances import Fault
from training.label_studio import LabelStudioError, Task, read_tasks, uploaded_name
from training.label_studio import is_export as is_label_studio
from training.sheets import Sheet, read_sheet
from training.tables import TableError, label_finder, read_annotations, read_json

ANNOTATION_ENDINGS = (".eaf", ".csv", ".tsv", ".json")


class AnnotationError(Exception):
    """Annotations that cannot be trained on; says each fault with its file and place."""


class Mark(NamedTuple):
    """One annotation before it is checked; without a label it says that its video is to be taken as it is.

    Attributes:
        video: name of the file, with or without its ending.
        start_s, end_s: as written, NaN for what is no number.
        label: as written.
        place: file and row, or annotation.
        on_player: whether times are those that a player shows, not from the first frame.
        slack_s: how inexact they are.
    """

    video: str
    start_s: float
    end_s: float
    label: str | None
    place: str
    on_player: bool = False
    slack_s: float = 0.0


class _Layout(NamedTuple):
    """Columns of a table of annotations, and whether its times are a player's."""

    video: str
    start: str
    end: str
    action: str
    on_player: bool


_LAYOUTS = (
    _Layout("video", "start_s", "end_s", "action", on_player=False),
    _Layout("video", "start_s", "end_s", "action_code", on_player=False),  # as mmad exports it
    _Layout(
        "media file name", "start (s)", "stop (s)", "behavior", on_player=True
    ),  # BORIS, aggregated events
)


@dataclass
class Reading:
    """What readers of single files share.

    Attributes:
        files: the videos there are, by name without ending.
        taxonomy: the labels.
        tiers: of .eaf files, only these are read; all without any.
        faults: what cannot be used.
        notices: what was forgiven or left out, each once.
    """

    files: dict[str, Path]
    taxonomy: Taxonomy
    tiers: Sequence[str]
    faults: list[Fault] = field(default_factory=list)
    notices: dict[str, None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        spellings = [(spelling, name) for name, path in self.files.items() for spelling in (name, path.name)]
        self._names = Names(spellings)

    def find(self, written: str) -> str | None:
        """A video as written, with or without its ending, as a key of files; None for one that is not there."""
        found = self._names.find(written)
        if found is not None and found.forgiven:
            self.notices[f"{written!r} is taken for {self.files[found.name].name}"] = None
        return found and found.name


def read_marks(path: Path, reading: Reading) -> Iterator[Mark]:
    """All annotations of a file; what cannot be used is added to the faults.

    Raises:
        AnnotationError: the file as a whole cannot be read.
    """
    kind = path.suffix.lower()
    if kind not in ANNOTATION_ENDINGS:
        raise AnnotationError(
            f"{path}: annotations are {', '.join(ANNOTATION_ENDINGS)} files, not {kind!r}: export them as one of these"
        )
    try:
        if kind == ".eaf":
            yield from _of_elan(path, reading)
        elif kind == ".json" and is_label_studio(document := read_json(path)):
            yield from _of_label_studio(path, document, reading)
        elif kind != ".json" and "video_id" not in (sheet := read_sheet(decode(path.read_bytes()))).columns:
            yield from _of_table(path, sheet, reading)
        else:
            yield from _of_data_set(path, reading)
    except (ElanError, LabelStudioError, TableError, OSError, UnicodeDecodeError, csv.Error) as error:
        message = str(error)
        raise AnnotationError(message if str(path) in message else f"{path}: {message}") from error


def _of_elan(path: Path, reading: Reading) -> Iterator[Mark]:
    """The video has the file's own name, or that of the media that it is linked with.

    Scores and body parts, as mmad exports them, are left out: actions say what there is.
    """
    elan = read_eaf(path, reading.tiers)
    names = [path.stem, *elan.media, *(Path(name).stem for name in elan.media)]
    name = next((found for name in names if (found := reading.find(name))), None)
    if name is None:
        tried = " or ".join(repr(name) for name in dict.fromkeys(Path(name).stem for name in names))
        raise ElanError(
            f"{path}: there is no video called {tried}; the first there is: {next(iter(reading.files))!r}"
        )
    shift_s = elan.shift_s(reading.files[name].name)
    yield Mark(name, 0.0, 0.0, None, str(path))
    levels = _Levels(reading.taxonomy)
    actions = [one for one in elan.annotations if levels.is_action(one)]
    for one in actions:
        place = f"{path}: tier {one.tier!r}, annotation {one.id}"
        yield Mark(name, one.start_s + shift_s, one.end_s + shift_s, one.label, place, on_player=True)
    if lonely := levels.without_action(elan.annotations, actions):
        first = lonely[0]
        reading.notices[
            f"{path}: {len(lonely)} annotations of body parts have no action at their time and are left out, "
            f"{first.label!r} from {first.start_s:.3f} s for one"
        ] = None


class _Levels:
    """Tells annotations of actions from those of body parts and scores, in tiers that mmad wrote."""

    def __init__(self, taxonomy: Taxonomy) -> None:
        self._find = label_finder(taxonomy)
        self._body_of = taxonomy.body_of
        self._bodies = {
            spelling.lower(): body.id
            for body in taxonomy.bodies
            for spelling in (body.code, body.name, f"{body.code} {body.name}")
        }
        self._body_tiers = {f"{body.code} {body.name}" for body in taxonomy.bodies}

    def is_action(self, one: Annotation) -> bool:
        return not self._is_score(one) and self._body(one) is None

    def without_action(
        self, annotations: Sequence[Annotation], actions: Sequence[Annotation]
    ) -> list[Annotation]:
        """Annotations of body parts during which no action of theirs goes on."""
        spans = [
            (self._body_of[label], one) for one in actions if (label := self._find(one.label)) is not None
        ]
        return [
            one
            for one in annotations
            if (body := self._body(one)) is not None
            and not any(
                body == mine and action.start_s < one.end_s and action.end_s > one.start_s
                for mine, action in spans
            )
        ]

    def _is_score(self, one: Annotation) -> bool:
        return one.kind == "score" and not math.isnan(_number(one.label))

    def _body(self, one: Annotation) -> int | None:
        """The body part that an annotation names in a tier of body parts."""
        if one.kind == "body part" or (one.tier in self._body_tiers and self._find(one.label) is None):
            return self._bodies.get(one.label.lower())
        return None


def _of_label_studio(path: Path, document: list[object], reading: Reading) -> Iterator[Mark]:
    tasks, left_out = read_tasks(document)
    if left_out:
        reading.notices[f"{path}: {left_out} tasks have no annotation and are left out"] = None
    for task in tasks:
        place = f"{path}: {task.place}"
        reading.notices |= dict.fromkeys(f"{path}: {notice}" for notice in task.notices)
        video = _video_of_task(task, reading)
        yield Mark(video, 0.0, 0.0, None, place)
        for one in task.regions:
            where = f"{place}, region {one.id}"
            yield Mark(video, one.start_s, one.end_s, one.label, where, on_player=True, slack_s=task.frame_s)


def _video_of_task(task: Task, reading: Reading) -> str:
    """The video by one of the names that the task may mean, or else by what an upload makes of its name."""
    for name in task.videos:
        if found := reading.find(name):
            return found
    uploads = Names((uploaded_name(path.name), name) for name, path in reading.files.items())
    uploaded = next((one for name in task.videos if (one := uploads.find(name))), None)
    return uploaded.name if uploaded else task.videos[0]


def _of_table(path: Path, sheet: Sheet, reading: Reading) -> Iterator[Mark]:
    """A row an annotation; a row that has a video alone lists a video in which nothing happens."""
    layout = next((one for one in _LAYOUTS if set(one[:4]) <= set(sheet.columns)), None)
    if layout is None:
        wanted = _LAYOUTS[0][:4]
        missing = [name for name in wanted if name not in sheet.columns]
        raise TableError(
            f"{path} has no column {', '.join(missing)}; its first line must name {','.join(wanted)}, or the data "
            f"set's video_id,start_frame,end_frame,class,total_frames,fps; it names {','.join(sheet.columns)}"
        )
    points = [line for line in sheet.lines if line.values.get("behavior type", "").upper() == "POINT"]
    if points:
        reading.notices[
            f"{path}: {len(points)} events of type POINT have no duration and are left out, the first in line "
            f"{points[0].number}"
        ] = None
    for line in sheet.lines:
        if line in points:
            continue
        video, start, end, action = (line.values[name] for name in layout[:4])
        place = f"{path}: line {line.number}"
        alone = not (start or end or action)
        start_s, end_s = sheet.number(start), sheet.number(end)
        wrong = start if math.isnan(start_s) else end if math.isnan(end_s) else None
        if line.fault:
            reading.faults.append(Fault(place, line.fault))
        elif wrong is not None and not alone:
            reading.faults.append(
                Fault(
                    place, f"{wrong!r} is no number of seconds: a minute and a half second are written 60.5"
                )
            )
        else:
            yield Mark(video, start_s, end_s, None if alone else action, place, layout.on_player)


def _of_data_set(path: Path, reading: Reading) -> Iterator[Mark]:
    loaded = read_annotations(path, reading.taxonomy)
    reading.faults += loaded.faults
    found = loaded.instances
    for video in found.videos:
        yield Mark(video, 0.0, 0.0, None, f"{path}: {video}")
    for video, (start_s, end_s), label in zip(found.video, found.segments, found.labels, strict=True):
        name = found.videos[video]
        yield Mark(name, float(start_s), float(end_s), str(label), f"{path}: {name}")


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
