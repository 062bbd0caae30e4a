"""Draw a contact sheet of frames of many synthetic videos, with all effects, beside frames of real clips.

python -m training.people.contact --out sheet.png [--clips FOLDER] [--seed 0] [--height 192 --width 160]
"""

from argparse import ArgumentParser
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import av
import numpy as np
from PIL import Image

from model.arrays import Frame
from training.people.body import load_anatomy
from training.people.camera.footage import write_video
from training.people.film import VIDEOS_PER_PERSON, Recipe, make_film
from training.people.studio import QUALITIES, render_film

_CLIP_FRAMES = 12  # rendered per still, because face masks and video coding depend on earlier frames


def render_still(recipe: Recipe, number: int) -> Frame:
    """Return one frame of a video after rendering, effects and H.264 coding: (height, width, 3)."""
    film = make_film(recipe, number, load_anatomy())
    first = len(film.shot) // 3
    part = slice(first, first + _CLIP_FRAMES)
    shot = replace(
        film.shot,
        transforms=film.shot.transforms[part],
        expressions=film.shot.expressions[part],
        cameras=film.shot.cameras[part],
    )
    frames = render_film(replace(film, shot=shot, head_box=film.head_box[part]), recipe)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "part.mp4"
        write_video(path, frames, recipe.fps, sum(QUALITIES) / 2)
        return _decode(path, recipe.height, recipe.width)[-3]


def load_clip_stills(folder: Path, height: int, width: int) -> list[Frame]:
    """Load two frames of every clip in a folder."""
    stills = []
    for path in sorted(folder.glob("*.mp4")):
        frames = _decode(path, height, width)
        stills += [frames[len(frames) // 8], frames[len(frames) // 2]]
    return stills


def _decode(path: Path, height: int, width: int) -> list[Frame]:
    with av.open(str(path)) as container:
        return [
            np.asarray(frame.to_ndarray(format="rgb24", width=width, height=height, interpolation="AREA"), np.uint8)
            for frame in container.decode(video=0)
        ]


def main() -> None:
    """Write the sheet."""
    parser = ArgumentParser(description="Frames of synthetic videos, beside real ones.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--clips", type=Path, help="folder of real clips")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--height", type=int, default=192)
    parser.add_argument("--width", type=int, default=160)
    parser.add_argument("--columns", type=int, default=7)
    parser.add_argument("--rows", type=int, default=4)
    options = parser.parse_args()
    recipe = Recipe(seed=options.seed, height=options.height, width=options.width)
    stills = load_clip_stills(options.clips, options.height, options.width) if options.clips else []
    missing = options.columns * options.rows - len(stills)
    stills += [render_still(recipe, number * VIDEOS_PER_PERSON) for number in range(missing)]
    rows = [np.concatenate(stills[n : n + options.columns], 1) for n in range(0, len(stills), options.columns)]
    Image.fromarray(np.concatenate(rows, 0)).save(options.out)


if __name__ == "__main__":
    main()
