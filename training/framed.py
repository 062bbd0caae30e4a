"""Crop users' videos around the person, as a bundle's detector does, but with one crop for all windows."""

import hashlib
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np

from model.arrays import Images
from model.bundle import Bundle, InputConfig
from model.errors import VideoError
from model.locator import Locator, load_locator
from model.person_crop import MAX_SIDE_PX, choose_person
from model.transforms import Region, crop_around
from model.video import UNLIMITED, Video
from training.dataset import DatasetError, Sample
from training.files import write_aside
from training.recipe import Recipe

_DETECTIONS_PER_S = 1.0


def crop_to_person(
    samples: Sequence[Sample], start: Bundle, recipe: Recipe, folder: Path, on_progress: Callable[[int, int], None]
) -> list[Sample]:
    """Crop videos if `start` has a locator; existing files in the folder are reused. Raises DatasetError."""
    config, locator = start.manifest.locator, load_locator(start)
    if config is None or locator is None:
        return list(samples)
    cropped = []
    folder.mkdir(parents=True, exist_ok=True)
    for done, sample in enumerate(samples):
        on_progress(done, len(samples))
        key = f"{sample.path.resolve()} {sample.path.stat().st_mtime_ns} {recipe.input} {recipe.data.margin} {config}"
        path = folder / f"{sample.name}-{hashlib.sha256(key.encode()).hexdigest()[:12]}.npz"
        if not path.exists():
            frames = read_cropped_frames(sample.path, recipe.input, recipe.data.margin, locator, config.margin)
            with write_aside(path) as temporary:
                np.savez(temporary, frames=frames, fps=recipe.input.fps)
        cropped.append(replace(sample, path=path))
    return cropped


def read_cropped_frames(path: Path, config: InputConfig, size: float, locator: Locator | None, margin: float) -> Images:
    """Read frames (n, height, width, 3), `size` times the input, cropped if there is a locator. Raises DatasetError."""
    height, width = (2 * round(side * size / 2) for side in (config.height, config.width))
    region = Region()
    try:
        with path.open("rb") as file:
            if locator is not None:
                with closing(Video(file, UNLIMITED)) as video:
                    region = _find_person_region(video, locator, config.width / config.height, margin)
                file.seek(0)
            with closing(Video(file, UNLIMITED)) as video:
                return np.stack(list(video.frames(config.fps, width, height, region)))
    except (VideoError, OSError) as error:
        raise DatasetError(f"{path} cannot be read: {error}") from error


def _find_person_region(video: Video, locator: Locator, aspect: float, margin: float) -> Region:
    detections, rows, columns = [], 1, 1
    for frame in video.frames(_DETECTIONS_PER_S, MAX_SIDE_PX, MAX_SIDE_PX, None):
        rows, columns = frame.shape[:2]
        detections += locator.find(frame[None])
    person = choose_person(detections)
    if person is None:
        return Region()
    box = crop_around(person, columns, rows, aspect, margin)
    x, y = box.x / columns, box.y / rows
    return Region(x, y, min(box.width / columns, 1 - x), min(box.height / rows, 1 - y))
