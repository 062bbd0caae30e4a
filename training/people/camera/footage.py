"""Write and read frames: H.264 in MP4, or lossless .npz.

Files are written atomically. With the same versions of FFmpeg, x264 and NumPy the same frames give the same bytes, so
that a data set can be verified by hashes.
"""

from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc
from av.video.stream import VideoStream

from model.arrays import Images
from training.files import write_aside


class Footage(NamedTuple):
    """Frames (frames, height, width, 3) uint8 RGB and their rate."""

    frames: Images
    fps: float


def write_video(path: Path, frames: Images, fps: float, quality: float) -> None:
    """Write an MP4 with the index first, so that playback can start before the download ends.

    Args:
        path: ends in .mp4; its folder exists.
        frames: (frames, height, width, 3) uint8 RGB, width and height even.
        fps: frames per second.
        quality: x264's constant rate factor, 0 to 51: 18 looks like the original, 36 is visibly coarse.

    Raises:
        ValueError: invalid frames, rate or quality.
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
    with write_aside(path) as temporary, av.open(str(temporary), "w", format="mp4", options=options) as container:
        # For reproducible bytes: slices and lookahead depend on the number of threads, and macroblock-tree rate control
        # varies between runs even with one thread.
        coding = {"crf": f"{quality:g}", "preset": "veryfast", "threads": "1", "x264-params": "mbtree=0"}
        rate = Fraction(fps).limit_denominator(1001)
        stream = container.add_stream("libx264", rate, options=coding)
        _describe(stream, width, height)
        for index in range(count):
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frames[index]), format="rgb24")
            container.mux(stream.encode(_to_video(picture)))
        container.mux(stream.encode(None))


def write_frames(path: Path, frames: Images, fps: float) -> None:
    """Write frames (frames, height, width, 3) uint8 RGB to an uncompressed .npz.

    zlib would halve the size but take 1 to 3.5 ms per frame of 160 x 160 pixels, longer than all effects. Use
    `write_video` for small files.

    Raises:
        ValueError: invalid frames or rate.
    """
    _check(frames, fps)
    with write_aside(path) as temporary, temporary.open("wb") as file:
        np.savez(file, frames=frames, fps=np.float64(fps))


def read_frames(path: Path) -> Footage:
    """Read a file written by `write_frames`."""
    with np.load(path, allow_pickle=False) as arrays:
        return Footage(arrays["frames"], float(arrays["fps"]))


def _describe(stream: VideoStream, width: int, height: int) -> None:
    """Set the size and the colour metadata that players need."""
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


def _check(frames: Images, fps: float) -> None:
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or not frames.size:
        raise ValueError(
            f"frames are {frames.dtype} {frames.shape}, they must be uint8 (frames, height, width, 3) and not empty"
        )
    if not 0 < fps < 1000:
        raise ValueError(f"{fps} frames a second is outside 0 to 1000")
