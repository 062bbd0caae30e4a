"""A user's own videos with annotations: ELAN files, plain tables, or tables in the data set's own layout."""

import csv
import difflib
import math
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import numpy as np

from model.errors import VideoError
from model.taxonomy import Taxonomy
from model.video import Limits, Video
from training.corpus import Corpus, Item, rarity
from training.elan import ElanError, read_eaf
from training.instances import Fault, Row, find_fault
from training.tables import ANNOTATION_SLACK_S, TableError, label_finder, read_annotations

COLUMNS = ("video", "start_s", "end_s", "action")
VIDEO_ENDINGS = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".ts", ".mts")
ANNOTATION_ENDINGS = (".eaf", ".csv", ".json")
_NO_LIMITS = Limits(max_duration_s=36_000, max_pixels=2**30)
_SHOWN = 10


class AnnotationError(Exception):
    """Annotations that cannot be trained on; says each fault with its file and place."""


class Mark(NamedTuple):
    """One annotation before it is checked; without a label it says that its video is to be taken as it is.

    Attributes:
        video: name of the file, with or without its ending.
        start_s, end_s: as written, NaN for what is no number. label: as written.
        place: file and row, or annotation.
    """

    video: str
    start_s: float
    end_s: float
    label: str | None
    place: str


def read_annotated(
    videos: Path, annotations: Sequence[Path], taxonomy: Taxonomy, tiers: Sequence[str] = ()
) -> tuple[Item, ...]:
    """The videos that are annotated, by name.

    Args:
        videos: folder of them, at any depth.
        annotations: .eaf, .csv and .json files, or folders of .eaf and .csv files, at any depth.
        taxonomy: its actions are written as code, name or id.
        tiers: of .eaf files, only these are read; all without any.

    Raises:
        AnnotationError: anything that does not fit, ten faults at once.
    """
    files = find_videos(videos)
    marks: list[Mark] = []
    faults: list[Fault] = []
    source: dict[str, Path] = {}
    for path in _annotation_files(annotations):
        for mark in _read(path, files, taxonomy, tiers, faults):
            name = _stem(mark.video, files)
            if name is None:
                faults.append(Fault(mark.place, f"there is no video {mark.video!r} in {videos}"))
            elif source.setdefault(name, path) != path:
                faults.append(
                    Fault(mark.place, f"{name!r} is annotated in {source[name]} too: keep one of them")
                )
            else:
                marks.append(mark._replace(video=name))
    items = [
        _item(name, files[name], [mark for mark in marks if mark.video == name], taxonomy, faults)
        for name in sorted(source)
    ]
    _refuse(faults)
    return tuple(item for item in items if item is not None)


def make_corpus(items: Sequence[Item], actions: int, rare: float) -> Corpus:
    """Videos to draw from, those with rare actions more often by the recipe's exponent."""
    weights = rarity(items, actions, rare)
    return Corpus(tuple(items), weights / weights.sum())


def find_videos(folder: Path) -> dict[str, Path]:
    """Name without ending -> file, at any depth.

    Raises:
        AnnotationError: there are none, or two of one name.
    """
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in VIDEO_ENDINGS and not path.name.startswith("."):
            if path.stem in found:
                raise AnnotationError(
                    f"{found[path.stem]} and {path} have one name: rename one, and its annotations with it"
                )
            found[path.stem] = path
    if not found:
        raise AnnotationError(f"{folder} holds no video: wanted are {', '.join(VIDEO_ENDINGS)}")
    return found


def _annotation_files(given: Sequence[Path]) -> Iterator[Path]:
    """Each once, however often it is named."""
    yield from {path.resolve(): path for path in _named_files(given)}.values()


def _named_files(given: Sequence[Path]) -> Iterator[Path]:
    for path in given:
        if not path.exists():
            raise AnnotationError(f"there is no {path}")
        inside = sorted(one for one in path.rglob("*") if one.suffix.lower() in (".eaf", ".csv"))
        if path.is_dir() and not inside:
            raise AnnotationError(f"{path} holds no .eaf and no .csv file")
        yield from inside if path.is_dir() else [path]


def _read(
    path: Path, files: dict[str, Path], taxonomy: Taxonomy, tiers: Sequence[str], faults: list[Fault]
) -> Iterator[Mark]:
    kind = path.suffix.lower()
    if kind not in ANNOTATION_ENDINGS:
        raise AnnotationError(f"{path}: annotations are {', '.join(ANNOTATION_ENDINGS)} files, not {kind!r}")
    try:
        if kind == ".eaf":
            yield from _of_elan(path, files, tiers)
        elif kind == ".csv" and "video_id" not in (header := _header(path)):
            yield from _of_table(path, header)
        else:
            yield from _of_data_set(path, taxonomy, faults)
    except (ElanError, TableError, OSError, UnicodeDecodeError, csv.Error) as error:
        message = str(error)
        raise AnnotationError(message if str(path) in message else f"{path}: {message}") from error


def _of_elan(path: Path, files: dict[str, Path], tiers: Sequence[str]) -> Iterator[Mark]:
    """The video has the file's own name, or that of the media that it is linked with."""
    elan = read_eaf(path, tiers)
    names = [path.stem, *(Path(name).stem for name in elan.media)]
    name = next((name for name in names if name in files), None)
    if name is None:
        tried = " or ".join(repr(name) for name in dict.fromkeys(names))
        raise ElanError(
            f"{path}: there is no video called {tried}; the first there is: {next(iter(files))!r}"
        )
    shift_s = elan.shift_s(files[name].name)
    yield Mark(name, 0.0, 0.0, None, str(path))
    for one in elan.annotations:
        place = f"{path}: tier {one.tier!r}, annotation {one.id}"
        yield Mark(name, one.start_s + shift_s, one.end_s + shift_s, one.label, place)


def _of_table(path: Path, header: Sequence[str]) -> Iterator[Mark]:
    """A row an annotation; a row that has a video alone lists a video in which nothing happens."""
    if missing := [name for name in COLUMNS if name not in header]:
        raise TableError(
            f"{path} has no column {', '.join(missing)}; its first line must name {','.join(COLUMNS)}, or the data "
            f"set's video_id,start_frame,end_frame,class,total_frames,fps; it names {','.join(header)}"
        )
    with path.open(encoding="utf-8-sig", newline="") as file:
        next(file)
        reader = csv.DictReader(file, header, skipinitialspace=True)
        for record in reader:
            video, start, end, action = ((record[name] or "").strip() for name in COLUMNS)
            alone = not (start or end or action)
            place = f"{path}: line {reader.line_num + 1}"
            yield Mark(video, _number(start), _number(end), None if alone else action, place)


def _of_data_set(path: Path, taxonomy: Taxonomy, faults: list[Fault]) -> Iterator[Mark]:
    loaded = read_annotations(path, taxonomy)
    faults += loaded.faults
    found = loaded.instances
    for video in found.videos:
        yield Mark(video, 0.0, 0.0, None, f"{path}: {video}")
    for video, (start_s, end_s), label in zip(found.video, found.segments, found.labels, strict=True):
        name = found.videos[video]
        yield Mark(name, float(start_s), float(end_s), str(label), f"{path}: {name}")


def _header(path: Path) -> list[str]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return [name.strip() for name in next(csv.reader(file), [])]


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _stem(name: str, files: dict[str, Path]) -> str | None:
    """A video as written, with or without its ending, as a key of files; None for one that is not there."""
    if name in files:
        return name
    stem = Path(name).stem
    return stem if stem in files and Path(name).name == files[stem].name else None


def _item(
    name: str, path: Path, marks: Sequence[Mark], taxonomy: Taxonomy, faults: list[Fault]
) -> Item | None:
    """A video with what was found to be right of its annotations; what is not is added to the faults."""
    try:
        duration_s = _duration_s(path)
    except (VideoError, OSError) as error:
        faults.append(Fault(str(path), f"cannot be read: {error}"))
        return None
    label_of = label_finder(taxonomy)
    kept: list[tuple[float, float, int]] = []
    for mark in marks:
        if mark.label is None:
            continue
        label = label_of(mark.label)
        row = Row(name, mark.start_s, mark.end_s, label or 0, 1.0, mark.place)
        if label is None:
            faults.append(Fault(mark.place, _unknown(mark.label, taxonomy)))
        elif reason := find_fault(row, duration_s, slack_s=ANNOTATION_SLACK_S):
            faults.append(Fault(mark.place, reason))
        else:
            kept.append((mark.start_s, min(mark.end_s, duration_s), label))
    kept.sort()
    return Item(
        name=name,
        path=path,
        sidecar=None,
        duration_s=duration_s,
        segments=np.array([one[:2] for one in kept], float).reshape(-1, 2),
        labels=np.array([one[2] for one in kept], np.int64),
    )


def _duration_s(path: Path) -> float:
    """What the file says; where it says nothing, all of it is decoded."""
    with path.open("rb") as file, closing(Video(file, _NO_LIMITS)) as video:
        if video.declared_duration_s is not None:
            return video.declared_duration_s
        for _ in video.frames(1.0, 16, 16):
            pass
        return video.media.duration_s if video.media is not None else 0.0


def _unknown(label: str, taxonomy: Taxonomy) -> str:
    names = {name.lower(): name for action in taxonomy.actions for name in (action.code, action.name)}
    near = [names[name] for name in difflib.get_close_matches(label.lower(), names, 2)]
    first = taxonomy.actions[0]
    return (
        f"the action {label!r} is not known: write a code such as {first.code}, a name such as {first.name!r} or an "
        f"id from 0 to {len(taxonomy.actions) - 1}; `mmad labels` lists them"
        + (f" (meant: {' or '.join(near)}?)" if near else "")
    )


def _refuse(faults: Sequence[Fault]) -> None:
    if faults:
        shown = "\n".join(str(fault) for fault in faults[:_SHOWN])
        more = f"\nand {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
        raise AnnotationError(f"annotations that cannot be used ({len(faults)}):\n{shown}{more}")
