"""Users' videos as a bundle's detector sees them: cut around the person whom its locator finds.

The detector cuts each window anew; here one cut holds for the whole video, with room for all that the person does.
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
from model.person_crop import LONGEST, choose
from model.transforms import Region, crop_around
from model.video import Limits, Video
from training.dataset import CorpusError, Frames, Item
from training.recipe import Recipe

_LOOKS_PER_S = 1.0
_NO_LIMITS = Limits(max_duration_s=36_000, max_pixels=2**30)


def frame_items(
    items: Sequence[Item], start: Bundle, recipe: Recipe, folder: Path, watch: Callable[[int, int], None]
) -> list[Item]:
    """Videos as frames around the person, kept in a folder; as they are where the bundle has no locator.

    Args:
        items: the videos.
        start: the bundle whose detector is to see them. recipe: how large pictures are kept.
        folder: for the frames; those that are there already are taken.
        watch: told of every video.

    Raises:
        CorpusError: a video that cannot be read.
    """
    config, locator = start.manifest.locator, load_locator(start)
    if config is None or locator is None:
        return list(items)
    framed = []
    folder.mkdir(parents=True, exist_ok=True)
    for place, item in enumerate(items):
        watch(place, len(items))
        key = f"{item.path.resolve()} {item.path.stat().st_mtime_ns} {recipe.input} {recipe.data.margin} {config}"
        name = f"{item.name}-{hashlib.sha256(key.encode()).hexdigest()[:12]}.npz"
        path = folder / name
        if not path.exists():
            aside = folder / f".{name}"
            np.savez(aside, frames=_frames(item, config, locator, recipe), fps=recipe.input.fps)
            aside.replace(path)
        framed.append(replace(item, path=path))
    return framed


def _frames(item: Item, config: LocatorConfig, locator: Locator, recipe: Recipe) -> Frames:
    """(frames, height, width, 3) at the network's rate, the recipe's margin larger than it wants them."""
    seen = recipe.input
    height, width = (2 * round(side * recipe.data.margin / 2) for side in (seen.height, seen.width))
    try:
        with item.path.open("rb") as file:
            with closing(Video(file, _NO_LIMITS)) as video:
                region = around_person(video, locator, seen.width / seen.height, config.margin)
            file.seek(0)
            with closing(Video(file, _NO_LIMITS)) as video:
                return np.stack(list(video.frames(seen.fps, width, height, region)))
    except (VideoError, OSError) as error:
        raise CorpusError(f"{item.path} cannot be read: {error}") from error


def around_person(video: Video, locator: Locator, aspect: float, margin: float) -> Region:
    """The part of the picture that the detector would cut out; all of it where nobody is found."""
    found, rows, columns = [], 1, 1
    for frame in video.whole_frames(_LOOKS_PER_S, LONGEST):
        rows, columns = frame.shape[:2]
        found += locator.find(frame[None])
    person = choose(found)
    if person is None:
        return Region()
    box = crop_around(person, columns, rows, aspect, margin)
    x, y = box.x / columns, box.y / rows
    return Region(x, y, min(box.width / columns, 1 - x), min(box.height / rows, 1 - y))
