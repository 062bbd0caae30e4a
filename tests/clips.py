"""Test videos made with the FFmpeg program, and its decoding as a reference."""

import subprocess
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import imageio_ffmpeg
import numpy as np
from numpy.typing import NDArray


def ffmpeg(*arguments: str) -> bytes:
    return subprocess.run(
        [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", *arguments], check=True, stdout=subprocess.PIPE
    ).stdout


def pattern(
    path: Path, *, size: str = "320x180", seconds: float = 3, rate: str = "30", extra: tuple[str, ...] = ()
) -> Path:
    """Write a video of FFmpeg's moving test pattern."""
    path.write_bytes(_encode_pattern(path.suffix, size, seconds, rate, extra))
    return path


@cache
def _encode_pattern(suffix: str, size: str, seconds: float, rate: str, extra: tuple[str, ...]) -> bytes:
    """Many tests take the same video."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"pattern{suffix}"
        ffmpeg("-f", "lavfi", "-i", f"testsrc2=s={size}:r={rate}:d={seconds}", *extra, "-pix_fmt", "yuv420p", str(path))
        return path.read_bytes()


def rotated(path: Path, degrees: int, *mirror: str) -> Path:
    """Write the test pattern with a display rotation, as phones do."""
    unrotated = pattern(path.with_suffix(".unrotated.mp4"))
    ffmpeg("-display_rotation", str(degrees), *mirror, "-i", str(unrotated), "-c", "copy", str(path))
    return path


def frames_by_ffmpeg(path: Path, fps: float, width: int, height: int, crop: str = "") -> NDArray[np.uint8]:
    """Decode with FFmpeg's resampling, rotation, cropping and scaling; returns (frames, height, width, 3)."""
    largest = f"'floor(min(iw,ih*{width}/{height})/2)*2':'floor(min(ih,iw*{height}/{width})/2)*2'"
    crop = crop or f"{largest}:'floor((iw-ow)/4)*2':'floor((ih-oh)/4)*2'"
    filters = f"fps={fps},crop={crop}:exact=1,scale={width}:{height}:flags=area"
    raw = ffmpeg("-i", str(path), "-vf", filters, "-pix_fmt", "rgb24", "-f", "rawvideo", "-")
    return np.frombuffer(raw, np.uint8).reshape(-1, height, width, 3)


def silence(path: Path) -> Path:
    """Write an audio file without a video stream."""
    ffmpeg("-f", "lavfi", "-i", "anullsrc=d=1", "-c:a", "aac", str(path))
    return path


def white_between(path: Path, start_s: float, end_s: float, seconds: float) -> Path:
    """Write a black video that is white from `start_s` to `end_s`."""
    white = f"color=white:s=64x64:r=15:d={seconds}"
    black = f"color=black:s=64x64:r=15:d={seconds}"
    overlay = f"[0][1]overlay=enable='between(t,{start_s},{end_s - 1 / 30})'"
    ffmpeg(
        "-f",
        "lavfi",
        "-i",
        black,
        "-f",
        "lavfi",
        "-i",
        white,
        "-filter_complex",
        overlay,
        "-pix_fmt",
        "yuv420p",
        str(path),
    )
    return path
