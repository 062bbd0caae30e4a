"""Helper to decode a test video at a fixed size."""

from pathlib import Path

import numpy as np

from model.transforms import Region
from model.video import Limits, Media, Video

FPS, WIDTH, HEIGHT = 15.0, 112, 96


def decode(
    path: Path, region: Region = Region(), limits: Limits = Limits(), fps: float = FPS
) -> tuple[np.ndarray, Media]:
    with path.open("rb") as file:
        video = Video(file, limits)
        frames = np.stack(list(video.frames(fps, WIDTH, HEIGHT, region)))
    assert video.media is not None
    return frames, video.media
