"""Read users' videos with annotations of ELAN, BORIS or Label Studio, in tables, or in the data set's format."""

import difflib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from model.errors import VideoError
from model.source import VIDEO_ENDINGS
from model.taxonomy import Taxonomy
from model.video import UNLIMITED, measure_extent
from training.dataset import Sample, VideoDataset, rarity_weights
from training.files import AnnotationError, find_files, normalize_name
from training.instances import Fault, Row, find_fault
from training.marks import ReadContext, read_raw_annotations
from training.tables import ANNOTATION_SLACK_S, make_label_lookup

_FOLDER_ENDINGS = (".eaf", ".csv", ".tsv")
_MAX_LISTED = 10


def read_annotated(
    videos: Path,
    annotations: Sequence[Path],
    taxonomy: Taxonomy,
    tiers: Sequence[str] = (),
    notify: Callable[[str], None] = lambda _notice: None,
) -> tuple[Sample, ...]:
    """Read annotated videos, sorted by name.

    `annotations` are .eaf, .csv, .tsv and .json files, or folders of all but .json; folders are searched recursively.
    `tiers` are those of .eaf files to read, all if empty. `notify` is called with a message for everything that was
    corrected or ignored. Raises AnnotationError with up to ten faults if annotations or videos are invalid.
    """
    files = find_videos(videos)
    context = ReadContext(files, taxonomy, tiers)
    raw: dict[str, list[Row]] = {}
    source: dict[str, Path] = {}
    for path in _find_annotation_files(annotations):
        for annotation in read_raw_annotations(path, context):
            name = context.find(annotation.video)
            if name is None:
                context.faults.append(Fault(annotation.place, f"there is no video {annotation.video!r} in {videos}"))
            elif source.setdefault(name, path) != path:
                context.faults.append(
                    Fault(annotation.place, f"{name!r} is annotated in {source[name]} too: keep one of them")
                )
            else:
                raw.setdefault(name, []).append(annotation)
    samples = [_make_sample(name, files[name], raw[name], taxonomy, context.faults) for name in sorted(source)]
    for notice in context.notices:
        notify(notice)
    if faults := context.faults:
        shown = "\n".join(str(fault) for fault in faults[:_MAX_LISTED])
        more = f"\nand {len(faults) - _MAX_LISTED} more" if len(faults) > _MAX_LISTED else ""
        raise AnnotationError(f"annotations that cannot be used ({len(faults)}):\n{shown}{more}")
    return tuple(sample for sample in samples if sample is not None)


def make_dataset(samples: Sequence[Sample], actions: int, class_balance_exponent: float) -> VideoDataset:
    """Return a data set that samples videos with rare actions more often, by `class_balance_exponent`."""
    weights = rarity_weights(samples, actions, class_balance_exponent)
    return VideoDataset(tuple(samples), weights / weights.sum())


def find_videos(folder: Path) -> dict[str, Path]:
    """Find videos recursively; return their paths by stem in normalised Unicode. Raises AnnotationError."""
    videos: dict[str, Path] = {}
    for path in find_files(folder, VIDEO_ENDINGS):
        if (same := videos.setdefault(normalize_name(path.stem), path)) != path:
            raise AnnotationError(f"{same} and {path} have one name: rename one, and its annotations with it")
    if not videos:
        raise AnnotationError(f"{folder} holds no video: wanted are {', '.join(VIDEO_ENDINGS)}")
    return videos


def _find_annotation_files(given: Sequence[Path]) -> list[Path]:
    files: dict[Path, Path] = {}
    for path in given:
        if not path.exists():
            raise AnnotationError(f"there is no {path}")
        inside = find_files(path, _FOLDER_ENDINGS) if path.is_dir() else [path]
        if not inside:
            raise AnnotationError(f"{path} holds no .eaf, .csv or .tsv file; .json files are named one by one")
        files |= {one.resolve(): one for one in inside}
    return list(files.values())


def _make_sample(
    name: str, path: Path, annotations: Sequence[Row], taxonomy: Taxonomy, faults: list[Fault]
) -> Sample | None:
    """Return a video with its valid annotations, and append the invalid ones to `faults`; None if it is unreadable."""
    try:
        with path.open("rb") as file:
            duration_s, start_offset_s = measure_extent(file, UNLIMITED)
    except (VideoError, OSError) as error:
        faults.append(Fault(str(path), f"cannot be read: {error}"))
        return None
    find_label = make_label_lookup(taxonomy)
    valid: list[tuple[float, float, int]] = []
    for annotation in annotations:
        if annotation.label is None:
            continue
        label = find_label(annotation.label)
        start_s, end_s = _from_first_frame(annotation, start_offset_s)
        row = annotation._replace(start_s=start_s, end_s=end_s)
        if label is None:
            faults.append(Fault(annotation.place, _describe_unknown_label(annotation.label, taxonomy)))
        elif annotation.on_player and end_s <= 0 < annotation.end_s:
            early = f"it ends at {annotation.end_s:g} s, before the first frame at {start_offset_s:g} s"
            faults.append(Fault(annotation.place, early))
        elif reason := find_fault(row, duration_s, slack_s=ANNOTATION_SLACK_S + annotation.slack_s):
            faults.append(Fault(annotation.place, reason))
        else:
            valid.append((start_s, min(end_s, duration_s), label))
    valid.sort()
    return Sample(
        name=name,
        path=path,
        sidecar=None,
        duration_s=duration_s,
        segments=np.array([one[:2] for one in valid], float).reshape(-1, 2),
        labels=np.array([one[2] for one in valid], np.int64),
    )


def _from_first_frame(annotation: Row, start_offset_s: float) -> tuple[float, float]:
    """Return start and end relative to the first frame; a start between 0 and the first frame is moved to it."""
    if not annotation.on_player:
        return annotation.start_s, annotation.end_s
    start_s, end_s = (round(time_s - start_offset_s, 6) for time_s in (annotation.start_s, annotation.end_s))
    return (0.0 if annotation.start_s >= 0 and start_s < 0 else start_s), end_s


def _describe_unknown_label(label: str, taxonomy: Taxonomy) -> str:
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
