"""Frames to files and back: H.264 as a camera would deliver it, or every grey level kept.

Files appear under their name when they are whole. The same frames give the same bytes, so that a data set can be
checked by its hashes; this holds for one version of FFmpeg, x264 and NumPy.
"""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc
from av.video.stream import VideoStream
from numpy.typing import NDArray

Frames = NDArray[np.uint8]


class Footage(NamedTuple):
    """Frames (frames, height, width, 3) uint8 RGB and their rate."""

    frames: Frames
    fps: float


def write_video(path: Path, frames: Frames, fps: float, quality: float) -> None:
    """Write an MP4 that players can start before they have all of it.

    Args:
        path: ends in .mp4; its folder exists.
        frames: (frames, height, width, 3) uint8 RGB, width and height even.
        fps: frames a second.
        quality: x264's constant rate factor, 0 to 51: 18 looks like the original, 36 is visibly coarse.

    Raises:
        ValueError: of frames, a rate or a quality that cannot be written.
    """
    _check(frames, fps)
    count, height, width = frames.shape[:3]
    if height % 2 or width % 2:
        raise ValueError(
            f"the picture is {width} x {height} pixels, H.264 with 4:2:0 colours needs even numbers; "
            "render it one pixel larger or crop it"
        )
    if not 0 <= quality <= 51:
        raise ValueError(f"quality {quality} is outside 0 to 51 (x264's constant rate factor); take 18 to 36")
    options = {"movflags": "faststart", "fflags": "bitexact"}
    with aside_of(path) as aside, av.open(str(aside), "w", format="mp4", options=options) as container:
        # Slices and lookahead depend on the number of threads, and with them the bytes; macroblock-tree rate control
        # gives other bytes from one run to the next even with one thread.
        coding = {"crf": f"{quality:g}", "preset": "veryfast", "threads": "1", "x264-params": "mbtree=0"}
        rate = Fraction(fps).limit_denominator(1001)
        stream = container.add_stream("libx264", rate, options=coding)
        _describe(stream, width, height)
        for index in range(count):
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frames[index]), format="rgb24")
            container.mux(stream.encode(_to_video(picture)))
        container.mux(stream.encode(None))


def write_frames(path: Path, frames: Frames, fps: float) -> None:
    """Write frames (frames, height, width, 3) uint8 RGB as they are, to an .npz.

    Nothing is compressed: zlib takes 1 to 3.5 ms a frame of 160 x 160 pixels, longer than all the effects, and saves
    half the space; `write_video` is for what must be small.

    Raises:
        ValueError: of frames or a rate that make no sense.
    """
    _check(frames, fps)
    with aside_of(path) as aside, aside.open("wb") as file:
        np.savez(file, frames=frames, fps=np.float64(fps))


def read_frames(path: Path) -> Footage:
    """Read what `write_frames` wrote."""
    with np.load(path, allow_pickle=False) as arrays:
        return Footage(arrays["frames"], float(arrays["fps"]))


def _describe(stream: VideoStream, width: int, height: int) -> None:
    """What players need to know to show the right colours."""
    stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
    context = stream.codec_context
    context.color_range = ColorRange.MPEG
    context.colorspace = Colorspace.ITU709
    context.color_primaries = ColorPrimaries.BT709
    context.color_trc = ColorTrc.BT709


def _to_video(picture: av.VideoFrame) -> av.VideoFrame:
    return picture.reformat(
        format="yuv420p",
        dst_colorspace=Colorspace.ITU709,
        src_color_range=ColorRange.JPEG,
        dst_color_range=ColorRange.MPEG,
    )


def _check(frames: Frames, fps: float) -> None:
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or not frames.size:
        raise ValueError(
            f"frames are {frames.dtype} {frames.shape}, they must be uint8 (frames, height, width, 3) and not empty"
        )
    if not 0 < fps < 1000:
        raise ValueError(f"{fps} frames a second is outside 0 to 1000")


@contextmanager
def aside_of(path: Path) -> Iterator[Path]:
    """A name beside the path to write to; it becomes the path if all went well, and goes if not."""
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        yield aside
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
