"""Crop users' videos around the person, as a bundle's detector does.

The detector crops each window separately; here one crop is used for the whole video, which contains the person in all
frames.
"""

import hashlib
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np

from model.bundle import Bundle, LocatorConfig
from model.errors import VideoError
from model.locator import Locator, load_locator
from model.person_crop import MAX_SIDE_PX, choose_person
from model.transforms import Region, crop_around
from model.video import Limits, Video
from training.dataset import DatasetError, Frames, Sample
from training.recipe import Recipe

_DETECTIONS_PER_S = 1.0
_NO_LIMITS = Limits(max_duration_s=36_000, max_pixels=2**30)


def crop_to_person(
    samples: Sequence[Sample], start: Bundle, recipe: Recipe, folder: Path, on_progress: Callable[[int, int], None]
) -> list[Sample]:
    """Crop videos around the person and store their frames; return them unchanged if the bundle has no locator.

    Args:
        samples: the videos.
        start: the bundle whose locator is used.
        recipe: determines the size of the frames.
        folder: for the frames; existing files are reused.
        on_progress: called with the number of finished videos and of all videos.

    Raises:
        DatasetError: a video cannot be read.
    """
    config, locator = start.manifest.locator, load_locator(start)
    if config is None or locator is None:
        return list(samples)
    cropped = []
    folder.mkdir(parents=True, exist_ok=True)
    for done, sample in enumerate(samples):
        on_progress(done, len(samples))
        key = f"{sample.path.resolve()} {sample.path.stat().st_mtime_ns} {recipe.input} {recipe.data.margin} {config}"
        name = f"{sample.name}-{hashlib.sha256(key.encode()).hexdigest()[:12]}.npz"
        path = folder / name
        if not path.exists():
            temporary = folder / f".{name}"
            np.savez(temporary, frames=_read_cropped_frames(sample, config, locator, recipe), fps=recipe.input.fps)
            temporary.replace(path)
        cropped.append(replace(sample, path=path))
    return cropped


def _read_cropped_frames(sample: Sample, locator_config: LocatorConfig, locator: Locator, recipe: Recipe) -> Frames:
    """Return frames (n, height, width, 3) at the network's rate, `data.margin` times larger than its input."""
    config = recipe.input
    height, width = (2 * round(side * recipe.data.margin / 2) for side in (config.height, config.width))
    try:
        with sample.path.open("rb") as file:
            with closing(Video(file, _NO_LIMITS)) as video:
                region = find_person_region(video, locator, config.width / config.height, locator_config.margin)
            file.seek(0)
            with closing(Video(file, _NO_LIMITS)) as video:
                return np.stack(list(video.frames(config.fps, width, height, region)))
    except (VideoError, OSError) as error:
        raise DatasetError(f"{sample.path} cannot be read: {error}") from error


def find_person_region(video: Video, locator: Locator, aspect: float, margin: float) -> Region:
    """Return the region that the detector would crop; the whole frame if no person is detected."""
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
