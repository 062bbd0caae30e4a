"""The detector: from an open video file to detections."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from typing import BinaryIO, Literal

import numpy as np

from model.arrays import Frame
from model.bundle import Bundle
from model.corruption import Intervals
from model.decoder import Decoder, InProcessDecoder, OpenVideo
from model.detections import Detections, Notice
from model.engines import Engine
from model.errors import DamagedVideoError
from model.locator import Locator, load_locator
from model.nms import WindowOverlap, merge_windows, suppress
from model.person_crop import (
    MAX_SIDE_PX,
    PersonCropper,
    WindowPeople,
    find_coverage,
    make_corruption_notice,
    make_late_start_notice,
    make_person_notices,
)
from model.segments import Proposals, calibrate, decode_points, to_seconds
from model.transforms import Region
from model.video import Limits, Media
from model.windows import Window, windows

Stage = Literal["decoding", "detecting"]
Progress = Callable[[Stage, float], None]

# A notice is added if a smaller fraction of the frame was analysed.
_MIN_ANALYSED_FRACTION = 0.7

# A notice is added from this start offset on; many files start a few frames late because of B-frames.
_LATE_START_S = 0.1


class Detector:
    """A loaded bundle that analyses one video at a time. Loading is slow: reuse the detector."""

    def __init__(
        self, bundle: Bundle, engine: Engine, locator: Locator | None = None, decoder: Decoder | None = None
    ) -> None:
        """Set up a detector.

        Args:
            bundle: the bundle that `engine` was loaded from.
            engine: runs the network.
            locator: finds people; by default that of the bundle, if it has one.
            decoder: by default, videos are decoded in this process.
        """
        self.bundle = bundle
        self.engine = engine
        self.locator = locator or load_locator(bundle)
        self.decoder = decoder or InProcessDecoder()

    def detect(
        self,
        file: BinaryIO,
        *,
        region: Region | None = None,
        limits: Limits = Limits(),
        progress: Progress = lambda _stage, _fraction: None,
    ) -> Detections:
        """Detect the micro-actions in a video.

        Args:
            file: an open video, readable and seekable.
            region: the part of the frame to analyse; by default the person that the bundle's locator finds, or the
                middle of the frame if the bundle has no locator.
            limits: limits for the video.
            progress: called for each frame with the stage and the fraction of the video analysed so far, 0..1, and with
                the same values repeatedly while waiting for a frame. An exception that it raises ends the analysis.

        Raises:
            VideoError: a subclass, if the video cannot be analysed.
            DecoderKilledError: the decode process was killed from outside.
        """
        config = self.bundle.manifest.input
        relay = _ProgressRelay(progress)
        with closing(self.decoder.open(file, limits, relay.repeat)) as video:
            cropper = self._make_cropper() if region is None else None
            if cropper is None:
                frames = video.frames(config.fps, config.width, config.height, region or Region())
            else:
                frames = video.whole_frames(config.fps, MAX_SIDE_PX)
            position = _Position(file, video, config.fps)
            timed = _TimedFrames(frames)
            reported = self._report_progress(timed, position, relay)
            if cropper is None:
                proposals = self.propose(windows(reported, config.window_frames, config.overlap_frames))
            else:
                proposals = self.propose(cropper.crop(reported))
            if video.media is None:  # not all frames were read, which only a bug can cause
                raise DamagedVideoError("decoding did not reach the end of the video")
            detections = self._make_detections(proposals, video.media, cropper.windows if cropper else None)
            return replace(detections, decode_s=timed.seconds)

    def _make_cropper(self) -> PersonCropper | None:
        manifest = self.bundle.manifest
        if self.locator is None or manifest.locator is None:
            return None
        return PersonCropper(self.locator, manifest.input, manifest.locator.margin)

    def propose(self, video_windows: Iterator[Window]) -> Proposals:
        """Return calibrated proposals for the windows of a video; each action appears once."""
        manifest = self.bundle.manifest
        proposals, previous_end_s = Proposals.empty(), 0.0
        for window in video_windows:
            start_s, end_s = (to_seconds(frame, manifest) for frame in (window.start_frame, window.end_frame))
            in_window = self._detect_window(window).clipped(start_s, end_s)
            proposals = merge_windows(proposals, in_window, WindowOverlap(start_s, previous_end_s))
            previous_end_s = end_s
        scores = calibrate(proposals.scores, self.bundle.manifest.calibration)
        return Proposals(proposals.segments, scores, proposals.labels)

    def _detect_window(self, window: Window) -> Proposals:
        manifest = self.bundle.manifest
        mask = window.mask(manifest.input.window_frames)
        points = self.engine.run(window.clips(manifest.input.clip_frames), mask)
        candidates = decode_points(points.logits, points.offsets, mask, manifest, window.start_frame)
        return suppress(candidates, manifest.postprocessing)

    def _make_detections(self, proposals: Proposals, media: Media, people: list[WindowPeople] | None) -> Detections:
        fps, duration_s = self.bundle.manifest.input.fps, media.duration_s
        notices = [make_corruption_notice(media.damaged)] if media.damaged else []
        if people is not None:
            notices.extend(make_person_notices(people, fps, duration_s, media.damaged))
        if media.start_offset_s >= _LATE_START_S:
            notices.append(make_late_start_notice(media.start_offset_s))
        if media.looked_at < _MIN_ANALYSED_FRACTION:
            notices.append(
                Notice(
                    "picture_cropped",
                    f"{media.looked_at:.0%} of the picture was looked at, the middle of it or of the region; "
                    "give region=x,y,width,height (fractions) around the person to choose the part",
                )
            )
        return Detections(
            _drop_damaged(proposals.clipped(0.0, duration_s), media.damaged).by_score(),
            media,
            find_coverage(people, fps, duration_s, media.damaged),
            tuple(notices),
        )

    @staticmethod
    def _report_progress(frames: Iterator[Frame], position: "_Position", progress: Progress) -> Iterator[Frame]:
        """Pass frames on and report progress before each, so that the caller can end the analysis at any frame."""
        progress("decoding", 0.0)
        for index, frame in enumerate(frames):
            progress("detecting", position.fraction(index))
            yield frame


def _drop_damaged(proposals: Proposals, damaged: Intervals) -> Proposals:
    """Drop proposals whose middle lies in a damaged interval, where the frame before it was repeated."""
    middles = proposals.segments.mean(axis=1)
    is_damaged = np.zeros(len(proposals), np.bool_)
    for start_s, end_s in damaged:
        is_damaged |= (middles >= start_s) & (middles < end_s)
    return proposals[~is_damaged]


class _ProgressRelay:
    """Calls a progress callback, and can repeat the last call."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._last: tuple[Stage, float] = ("decoding", 0.0)

    def __call__(self, stage: Stage, fraction: float) -> None:
        self._last = (stage, fraction)
        self._progress(stage, fraction)

    def repeat(self) -> None:
        """Report the last progress again."""
        self._progress(*self._last)


class _TimedFrames(Iterator[Frame]):
    """Passes frames on and measures the seconds spent waiting for them."""

    def __init__(self, frames: Iterator[Frame]) -> None:
        self._frames = frames
        self.seconds = 0.0

    def __next__(self) -> Frame:
        start_s = time.monotonic()
        try:
            return next(self._frames)
        finally:
            self.seconds += time.monotonic() - start_s


class _Position:
    """Position in a video as a fraction of its declared duration, or else of the file's size."""

    def __init__(self, file: BinaryIO, video: OpenVideo, fps: float) -> None:
        self._video = video
        self._expected_frames = (video.declared_duration_s or 0) * fps
        self._bytes = 0 if self._expected_frames else _get_size(file)

    def fraction(self, frames: int) -> float:
        """Return the fraction, 0..1, after this many frames."""
        if self._expected_frames:
            return min(1.0, frames / self._expected_frames)
        return min(1.0, self._video.tell() / self._bytes) if self._bytes else 0.0


def _get_size(file: BinaryIO) -> int:
    """Return the file's size in bytes; its position is restored."""
    position = file.tell()
    size = file.seek(0, os.SEEK_END)
    file.seek(position)
    return size
