"""`mmad synth`: renders labelled videos of synthetic people."""

import os
import re
import time
from pathlib import Path
from typing import Annotated

import typer

from mmad.terminal import exit_on, fail, out, print_status, progress_bar
from training.people.options import Crop, Device, Mix, Storage

app = typer.Typer()

_SMALLEST, _LARGEST = 32, 2160  # pixels along a side


@app.command()
def synth(
    out_dir: Annotated[
        Path | None, typer.Option("--out", help="Folder for the data set; an unfinished one is continued.")
    ] = None,
    videos: Annotated[int, typer.Option(min=1, help="Number of videos.")] = 100,
    seed: Annotated[int, typer.Option(min=0, help="Random seed; the same seed gives the same videos.")] = 0,
    size: Annotated[str, typer.Option(metavar="HxW", help="Height and width in pixels, even.")] = "160x160",
    fps: Annotated[float, typer.Option(min=1, max=60, help="Frames a second.")] = 15,
    jobs: Annotated[int | None, typer.Option(min=1, help="Processes; one per core by default.")] = None,
    mix: Annotated[Mix, typer.Option(help="Class frequencies: as in the real data set, or equal.")] = Mix.REAL,
    style: Annotated[list[str] | None, typer.Option(help="Motion styles; all of the set by default.")] = None,
    test: Annotated[
        bool, typer.Option("--test", help="Use people and motion styles that are in no training set.")
    ] = False,
    crop: Annotated[Crop, typer.Option(help="Show only the person or the head, at a higher scale.")] = Crop.NONE,
    frames: Annotated[
        Storage, typer.Option(help="H.264, raw frames for training, or only keypoints.")
    ] = Storage.MP4,
    device: Annotated[
        Device, typer.Option(help="Device for rendering; frames differ only by rounding.")
    ] = Device.CPU,
    pictures: Annotated[
        Path | None, typer.Option(exists=True, file_okay=False, help="Folder of images for walls.")
    ] = None,
    cache: Annotated[
        Path | None, typer.Option(help="Write the body cache to this file instead of making videos; needs anny.")
    ] = None,
) -> None:  # fmt: skip
    """Make labelled videos of synthetic seated people, each with another person and room."""
    if cache is not None:
        _make_cache(cache)
        return
    if out_dir is None:
        raise typer.BadParameter("a folder for the data set is needed", param_hint="--out")
    from training.people.film import Recipe
    from training.people.studio import DatasetSpec, StudioError, produce
    from training.people.timing import STYLES, TEST_STYLES, TRAINING_STYLES

    height, width = _parse_size(size)
    styles = tuple(style or (TEST_STYLES if test else TRAINING_STYLES))
    for name in styles:
        if name not in STYLES:
            raise typer.BadParameter(f"{name!r} is none of {', '.join(STYLES)}", param_hint="--style")
    recipe = Recipe(seed, fps, height, width, mix, styles, crop, test)
    spec = DatasetSpec(recipe, out_dir, frames, videos, pictures, device)
    start = time.monotonic()
    with exit_on(StudioError, OSError), progress_bar("synth") as show:

        def show_progress(done: int, rendered: int) -> None:
            rate = rendered / max(time.monotonic() - start, 1e-3)
            show(f"{done} of {videos} videos, {rate:.0f} frames a second", done / videos)

        frame_count = produce(spec, jobs or os.cpu_count() or 1, show_progress)
    out.print(f"{out_dir}: {videos} videos, {frame_count} frames rendered now")


def _make_cache(path: Path) -> None:
    try:
        from training.people.anatomy import build
    except ImportError as error:
        fail(f"the body cache is made of anny's bodies ({error}): pip install 'mmad[body]'")
    with exit_on(OSError):
        print_status(build(path))


def _parse_size(text: str) -> tuple[int, int]:
    """Parse height and width; sizes that cannot be encoded exit with status 2."""
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if not match:
        raise typer.BadParameter(f"{text!r} is not of the form HxW, as in 160x160", param_hint="--size")
    for value in (height := int(match[1]), width := int(match[2])):
        if value % 2 or not _SMALLEST <= value <= _LARGEST:
            raise typer.BadParameter(
                f"{value} pixels: a side must be even and from {_SMALLEST} to {_LARGEST}", param_hint="--size"
            )
    return height, width
