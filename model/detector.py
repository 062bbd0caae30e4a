"""The detector: an open video file in, detections out."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from typing import BinaryIO, Literal

import numpy as np

from model.bundle import Bundle
from model.corruption import Stretches
from model.decoder import Decoder, InProcess, Opened
from model.detections import Detections, Notice
from model.engines import Engine
from model.errors import DamagedVideoError
from model.locator import Locator, load_locator
from model.nms import suppress
from model.person_crop import LONGEST, Framer, Seen, coverage, damage_notice, late_notice, notices
from model.seams import Seam, join_at_seam
from model.segments import Proposals, calibrate, decode_points, to_seconds
from model.transforms import Region
from model.video import Limits, Media
from model.windows import Frame, Window, windows

Stage = Literal["decoding", "detecting"]
Progress = Callable[[Stage, float], None]

# Less of the picture than this, and the caller is told what was left out.
_WORTH_A_NOTICE = 0.7

# Seconds. Many files start a few frames late because of B-frames; that needs no notice.
_LATE_S = 0.1


class Detector:
    """A loaded bundle. One video at a time; loading is the slow part, so keep it."""

    def __init__(
        self,
        bundle: Bundle,
        engine: Engine,
        locator: Locator | None = None,
        decoder: Decoder | None = None,
    ) -> None:
        """Without a decoder, videos are decoded in this process."""
        self.bundle = bundle
        self.engine = engine
        self.locator = locator or load_locator(bundle)
        self.decoder = decoder or InProcess()

    def detect(
        self,
        file: BinaryIO,
        *,
        region: Region | None = None,
        limits: Limits = Limits(),
        progress: Progress = lambda _stage, _fraction: None,
    ) -> Detections:
        """Find every micro-action in a video.

        Args:
            file: an open video, readable and seekable.
            region: the part of the picture to look at. Without, it is the person whom the bundle's locator finds, or
                the middle of the picture for a bundle that has no locator.
            limits: what the video may be at most.
            progress: called with the stage and the fraction of the video seen so far, 0..1, at each frame and, with the
                same once more, while a frame is long in coming; what it raises ends the work.

        Raises:
            VideoError: one of its kinds, for what is wrong with the video.
            DecoderKilledError: the decoder's process was ended from outside.
        """
        config = self.bundle.manifest.input
        told = _Told(progress)
        with closing(self.decoder.open(file, limits, told.again)) as video:
            framer = self._make_framer() if region is None else None
            if framer is None:
                frames = video.frames(config.fps, config.width, config.height, region or Region())
            else:
                frames = video.whole_frames(config.fps, LONGEST)
            reach = _Reach(file, video, config.fps)
            timed = _Timed(frames)
            counted = self._count(timed, reach, told)
            if framer is None:
                found = self.propose(windows(counted, config.window_frames, config.overlap_frames))
            else:
                found = self.propose(framer.crop(counted))
            if video.media is None:  # the frames were not all taken, which only a fault here can cause
                raise DamagedVideoError("decoding did not reach the end of the video")
            concluded = self._conclude(found, video.media, framer.seen if framer else None)
            return replace(concluded, decode_s=timed.seconds)

    def _make_framer(self) -> Framer | None:
        manifest = self.bundle.manifest
        if self.locator is None or manifest.locator is None:
            return None
        return Framer(self.locator, manifest.input, manifest.locator.margin)

    def propose(self, cut: Iterator[Window]) -> Proposals:
        """Of all windows of a video, or those that show somebody, each action once, in the order of windows."""
        manifest = self.bundle.manifest
        found, reached_s = Proposals.empty(), 0.0
        for window in cut:
            start_s, end_s = (to_seconds(frame, manifest) for frame in (window.start_frame, window.end_frame))
            mine = self._detect_window(window).clipped(start_s, end_s)
            found = join_at_seam(found, mine, Seam(start_s, reached_s))
            reached_s = end_s
        scores = calibrate(found.scores, self.bundle.manifest.calibration)
        return Proposals(found.segments, scores, found.labels)

    def _detect_window(self, window: Window) -> Proposals:
        manifest = self.bundle.manifest
        mask = window.mask(manifest.input.window_frames)
        points = self.engine.run(window.clips(manifest.input.clip_frames), mask)
        candidates = decode_points(points.logits, points.offsets, mask, manifest, window.start_frame)
        return suppress(candidates, manifest.postprocessing)

    def _conclude(self, found: Proposals, media: Media, seen: list[Seen] | None) -> Detections:
        fps, duration_s = self.bundle.manifest.input.fps, media.duration_s
        told = [damage_notice(media.damaged)] if media.damaged else []
        if seen is not None:
            told.extend(notices(seen, fps, duration_s, media.damaged))
        if media.start_offset_s >= _LATE_S:
            told.append(late_notice(media.start_offset_s))
        if media.looked_at < _WORTH_A_NOTICE:
            told.append(
                Notice(
                    "picture_cropped",
                    f"{media.looked_at:.0%} of the picture was looked at, the middle of it or of the region; "
                    "give region=x,y,width,height (fractions) around the person to choose the part",
                )
            )
        return Detections(
            _outside(found.clipped(0.0, duration_s), media.damaged).by_score(),
            media,
            coverage(seen, fps, duration_s, media.damaged),
            tuple(told),
        )

    @staticmethod
    def _count(frames: Iterator[Frame], reach: "_Reach", progress: Progress) -> Iterator[Frame]:
        """Pass frames on and report how far they have come: at each, as a caller may stop the work there."""
        progress("decoding", 0.0)
        for index, frame in enumerate(frames):
            progress("detecting", reach.fraction(index))
            yield frame


def _outside(found: Proposals, damaged: Stretches) -> Proposals:
    """Without those whose middle was not seen: the frame before a gap stays on, and means nothing there."""
    middles = found.segments.mean(axis=1)
    unseen = np.zeros(len(found), np.bool_)
    for start_s, end_s in damaged:
        unseen |= (middles >= start_s) & (middles < end_s)
    return found[~unseen]


class _Told:
    """Progress as it was told last."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._last: tuple[Stage, float] = ("decoding", 0.0)

    def __call__(self, stage: Stage, fraction: float) -> None:
        """Something was done."""
        self._last = (stage, fraction)
        self._progress(stage, fraction)

    def again(self) -> None:
        """Nothing was."""
        self._progress(*self._last)


class _Timed(Iterator[Frame]):
    """Frames, and how many seconds were waited for them."""

    def __init__(self, frames: Iterator[Frame]) -> None:
        self._frames = frames
        self.seconds = 0.0

    def __next__(self) -> Frame:
        began = time.monotonic()
        try:
            return next(self._frames)
        finally:
            self.seconds += time.monotonic() - began


class _Reach:
    """How far into a video a frame is: by the length that its container declares, or else by the bytes read."""

    def __init__(self, file: BinaryIO, video: Opened, fps: float) -> None:
        self._video = video
        self._expected_frames = (video.declared_duration_s or 0) * fps
        self._bytes = 0 if self._expected_frames else _size_of(file)

    def fraction(self, frames: int) -> float:
        """0..1 after so many frames."""
        if self._expected_frames:
            return min(1.0, frames / self._expected_frames)
        return min(1.0, self._video.tell() / self._bytes) if self._bytes else 0.0


def _size_of(file: BinaryIO) -> int:
    """In bytes; the place in the file stays as it is."""
    place = file.tell()
    size = file.seek(0, os.SEEK_END)
    file.seek(place)
    return size
