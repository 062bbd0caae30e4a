"""The command that makes synthetic people."""

import os
import re
import time
from pathlib import Path
from typing import Annotated

import typer

from mmad.terminal import bar, fail, failing_on, out, tell
from training.people.options import Crop, Device, Mix, Storage

app = typer.Typer()

_SMALLEST, _LARGEST = 32, 2160  # pixels along a side


@app.command()
def synth(
    out_dir: Annotated[
        Path | None, typer.Option("--out", help="Folder for the data set; a begun one is gone on with.")
    ] = None,
    videos: Annotated[int, typer.Option(min=1, help="How many.")] = 100,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same videos.")] = 0,
    size: Annotated[str, typer.Option(metavar="HxW", help="Height and width in pixels, even.")] = "160x160",
    fps: Annotated[float, typer.Option(min=1, max=60, help="Frames a second.")] = 15,
    jobs: Annotated[int | None, typer.Option(min=1, help="Processes; one a core by default.")] = None,
    mix: Annotated[Mix, typer.Option(help="Actions as often as in the real data set, or equally.")] = Mix.REAL,
    style: Annotated[list[str] | None, typer.Option(help="Motion styles; by default those of the set.")] = None,
    test: Annotated[
        bool, typer.Option("--test", help="People and motion styles that are in no other set, for measuring alone.")
    ] = False,
    crop: Annotated[Crop, typer.Option(help="Show the person or the head only, at a higher scale.")] = Crop.NONE,
    frames: Annotated[
        Storage, typer.Option(help="H.264, raw frames for training, or none: joints alone.")
    ] = Storage.MP4,
    device: Annotated[
        Device, typer.Option(help="What renders: cuda is a graphics card; pictures differ in rounding alone.")
    ] = Device.CPU,
    pictures: Annotated[
        Path | None, typer.Option(exists=True, file_okay=False, help="Folder of pictures for walls.")
    ] = None,
    cache: Annotated[
        Path | None, typer.Option(help="Make the body cache anew, into this file, instead of videos; needs anny.")
    ] = None,
) -> None:  # fmt: skip
    """Make labelled videos of synthetic people: seated, moving, each a different person and room."""
    if cache is not None:
        _make_cache(cache)
        return
    if out_dir is None:
        raise typer.BadParameter("a folder for the data set is needed", param_hint="--out")
    from training.people.film import Recipe
    from training.people.studio import Order, StudioError, produce
    from training.people.timing import STYLES, TEST_STYLES, TRAINING_STYLES

    height, width = _parse_size(size)
    styles = tuple(style or (TEST_STYLES if test else TRAINING_STYLES))
    for name in styles:
        if name not in STYLES:
            raise typer.BadParameter(f"{name!r} is none of {', '.join(STYLES)}", param_hint="--style")
    recipe = Recipe(seed, fps, height, width, mix, styles, crop, test)
    order = Order(recipe, out_dir, frames, videos, pictures, device)
    begin = time.monotonic()
    with failing_on(StudioError, OSError), bar("synth") as show:

        def tell_progress(done: int, made: int) -> None:
            rate = made / max(time.monotonic() - begin, 1e-3)
            show(f"{done} of {videos} videos, {rate:.0f} frames a second", done / videos)

        made = produce(order, jobs or os.cpu_count() or 1, tell_progress)
    out.print(f"{out_dir}: {videos} videos, {made} frames rendered now", highlight=False)


def _make_cache(path: Path) -> None:
    try:
        from training.people.anatomy import build
    except ImportError as error:
        fail(f"the body cache is made of anny's bodies ({error}): pip install 'mmad[body]'")
    with failing_on(OSError):
        tell(build(path))


def _parse_size(text: str) -> tuple[int, int]:
    """Height and width; what cannot be coded ends the command with status 2."""
    found = re.fullmatch(r"(\d+)x(\d+)", text)
    if not found:
        raise typer.BadParameter(f"{text!r} is not of the form HxW, as in 160x160", param_hint="--size")
    for value in (height := int(found[1]), width := int(found[2])):
        if value % 2 or not _SMALLEST <= value <= _LARGEST:
            raise typer.BadParameter(
                f"{value} pixels: a side must be even and from {_SMALLEST} to {_LARGEST}", param_hint="--size"
            )
    return height, width
