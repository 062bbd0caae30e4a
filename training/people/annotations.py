"""Write the annotations of synthetic videos: labels as CSV and JSON like the real data set's, and sidecars."""

import csv
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from model.taxonomy import Taxonomy
from training.files import write_aside
from training.people.film import KEYPOINT_NAMES, PARTS, Film
from training.people.options import Subset
from training.people.schedules.schedule import Event

Record = dict[str, Any]

CSV_COLUMNS = ("id", "video_id", "start_frame", "end_frame", "class", "total_frames", "fps")


def format_video_name(number: int) -> str:
    """Return the id of a video."""
    return f"synth{number:06d}"


def describe(film: Film, taxonomy: Taxonomy) -> Record:
    """Return a video's entry in the data set's JSON; `hidden` lists events that are not visible."""
    id_of = {action.code: action.id for action in taxonomy.actions}

    length_s = len(film.shot) / film.fps

    def to_rows(events: Iterable[Event]) -> list[list[Any]]:
        return [[id_of[event.code], round(event.start_s, 4), round(min(event.end_s, length_s), 4)] for event in events]

    return {
        "subset": film.subset.value,
        "duration": round(length_s, 4),
        "frames": len(film.shot),
        "fps": film.fps,
        "height": film.shot.height,
        "width": film.shot.width,
        "actions": to_rows(film.shown),
        "hidden": to_rows(film.hidden),
        "person": film.person,
        "style": film.style,
    }


def write_sidecar(path: Path, film: Film) -> None:
    """Write per-frame annotations as an .npz.

    Arrays: person_box and head_box (frames, 4), keypoints (frames, j, 2), all in pixels; keypoints_visible (frames, j)
    and parts_visible (frames, p) bool; keypoint_names and part_names.
    """
    with write_aside(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(
            file,
            person_box=film.person_box.astype(np.float32),
            head_box=film.head_box.astype(np.float32),
            keypoints=film.keypoints.astype(np.float32),
            keypoints_visible=film.keypoint_visible,
            keypoint_names=np.array(KEYPOINT_NAMES),
            parts_visible=film.compute_part_visibility(),
            part_names=np.array(list(PARTS)),
        )


def write_json(path: Path, document: Any) -> None:
    """Write a JSON file atomically."""
    with write_aside(path) as temporary:
        temporary.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def write_tables(folder: Path, records: dict[str, Record], taxonomy: Taxonomy) -> None:
    """Write mmad.json, train.csv and val.csv (or only test.csv), and labels.json."""
    write_json(folder / "mmad.json", records)
    test = any(record["subset"] == Subset.TEST for record in records.values())
    for subset in (Subset.TEST,) if test else (Subset.TRAIN, Subset.VAL):
        _write_csv(folder / f"{subset}.csv", [item for item in records.items() if item[1]["subset"] == subset])
    bodies = {body.id: body for body in taxonomy.bodies}
    write_json(
        folder / "labels.json",
        [
            {
                "id": action.id, "name": action.name, "code": action.code,
                "body": bodies[action.body_id].name, "body_id": action.body_id,
            }
            for action in taxonomy.actions
        ],
    )  # fmt: skip


def _write_csv(path: Path, items: Sequence[tuple[str, Record]]) -> None:
    """Write segments in frames, in the data set's CSV format."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(CSV_COLUMNS)
        number = 0
        for name, record in items:
            for label, start_s, end_s in record["actions"]:
                last = record["frames"] - 1
                start = min(round(start_s * record["fps"]), last - 1)
                end = min(max(round(end_s * record["fps"]), start + 1), last)
                writer.writerow((number, name, start, end, label, record["frames"], record["fps"]))
                number += 1
