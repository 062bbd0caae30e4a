"""A user's own videos with annotations: of ELAN, BORIS or Label Studio, in plain tables, or as the data set's own."""

import difflib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from model.errors import VideoError
from model.source import VIDEO_ENDINGS
from model.taxonomy import Taxonomy
from model.video import Limits, extent
from training.dataset import Corpus, Item, rarity
from training.files import composed, find_files
from training.instances import Fault, Row, find_fault
from training.marks import AnnotationError, Mark, Reading, read_marks
from training.tables import ANNOTATION_SLACK_S, label_finder

_FOLDER_ENDINGS = (".eaf", ".csv", ".tsv")
_NO_LIMITS = Limits(max_duration_s=36_000, max_pixels=2**30)
_SHOWN = 10


def read_annotated(
    videos: Path,
    annotations: Sequence[Path],
    taxonomy: Taxonomy,
    tiers: Sequence[str] = (),
    notify: Callable[[str], None] = lambda _notice: None,
) -> tuple[Item, ...]:
    """The videos that are annotated, by name.

    Args:
        videos: folder of them, at any depth.
        annotations: .eaf, .csv, .tsv and .json files, or folders of .eaf, .csv and .tsv files, at any depth.
        taxonomy: its actions are written as code, name, code and name, or id.
        tiers: of .eaf files, only these are read; all without any.
        notify: is called with a sentence for all that was forgiven or left out.

    Raises:
        AnnotationError: anything that does not fit, ten faults at once.
    """
    files = find_videos(videos)
    reading = Reading(files, taxonomy, tiers)
    marks: dict[str, list[Mark]] = {}
    source: dict[str, Path] = {}
    for path in _annotation_files(annotations):
        for mark in read_marks(path, reading):
            name = reading.find(mark.video)
            if name is None:
                reading.faults.append(Fault(mark.place, f"there is no video {mark.video!r} in {videos}"))
            elif source.setdefault(name, path) != path:
                reading.faults.append(
                    Fault(mark.place, f"{name!r} is annotated in {source[name]} too: keep one of them")
                )
            else:
                marks.setdefault(name, []).append(mark)
    items = [_item(name, files[name], marks[name], taxonomy, reading.faults) for name in sorted(source)]
    for notice in reading.notices:
        notify(notice)
    _refuse(reading.faults)
    return tuple(item for item in items if item is not None)


def make_corpus(items: Sequence[Item], actions: int, rare: float) -> Corpus:
    """Videos to draw from, those with rare actions more often by the recipe's exponent."""
    weights = rarity(items, actions, rare)
    return Corpus(tuple(items), weights / weights.sum())


def find_videos(folder: Path) -> dict[str, Path]:
    """Name without ending, in composed Unicode -> file, at any depth.

    Raises:
        AnnotationError: there are none, or two of one name.
    """
    found: dict[str, Path] = {}
    for path in find_files(folder, VIDEO_ENDINGS):
        if (same := found.setdefault(composed(path.stem), path)) != path:
            raise AnnotationError(f"{same} and {path} have one name: rename one, and its annotations with it")
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
        inside = find_files(path, _FOLDER_ENDINGS) if path.is_dir() else [path]
        if not inside:
            raise AnnotationError(
                f"{path} holds no .eaf, .csv or .tsv file; .json files are named one by one"
            )
        yield from inside


def _item(
    name: str, path: Path, marks: Sequence[Mark], taxonomy: Taxonomy, faults: list[Fault]
) -> Item | None:
    """A video with what was found to be right of its annotations; what is not is added to the faults."""
    try:
        with path.open("rb") as file:
            duration_s, start_offset_s = extent(file, _NO_LIMITS)
    except (VideoError, OSError) as error:
        faults.append(Fault(str(path), f"cannot be read: {error}"))
        return None
    label_of = label_finder(taxonomy)
    kept: list[tuple[float, float, int]] = []
    for mark in marks:
        if mark.label is None:
            continue
        label = label_of(mark.label)
        start_s, end_s = _from_first_frame(mark, start_offset_s)
        row = Row(name, start_s, end_s, label or 0, 1.0, mark.place)
        if label is None:
            faults.append(Fault(mark.place, _unknown(mark.label, taxonomy)))
        elif mark.on_player and end_s <= 0 < mark.end_s:
            faults.append(
                Fault(
                    mark.place, f"it ends at {mark.end_s:g} s, before the first frame at {start_offset_s:g} s"
                )
            )
        elif reason := find_fault(row, duration_s, slack_s=ANNOTATION_SLACK_S + mark.slack_s):
            faults.append(Fault(mark.place, reason))
        else:
            kept.append((start_s, min(end_s, duration_s), label))
    kept.sort()
    return Item(
        name=name,
        path=path,
        sidecar=None,
        duration_s=duration_s,
        segments=np.array([one[:2] for one in kept], float).reshape(-1, 2),
        labels=np.array([one[2] for one in kept], np.int64),
    )


def _from_first_frame(mark: Mark, start_offset_s: float) -> tuple[float, float]:
    """Start and end; what begins before the first frame, on a player's clock, begins with it."""
    if not mark.on_player:
        return mark.start_s, mark.end_s
    start_s, end_s = (round(time_s - start_offset_s, 6) for time_s in (mark.start_s, mark.end_s))
    return (0.0 if mark.start_s >= 0 and start_s < 0 else start_s), end_s


def _unknown(label: str, taxonomy: Taxonomy) -> str:
    names = {name.lower(): name for action in taxonomy.actions for name in (action.code, action.name)}
    if label.lower() in {name.lower() for body in taxonomy.bodies for name in (body.code, body.name)}:
        return f"{label!r} is a body part: write one of its actions; `mmad labels` lists them"
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
