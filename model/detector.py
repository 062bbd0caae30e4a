"""The detector: from an open video file to detections."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING, BinaryIO, Literal, TypeAlias

import numpy as np

from model.arrays import Frame
from model.bundle import Bundle
from model.corruption import Intervals
from model.detections import Detections, find_coverage, make_notices
from model.engines import Engine
from model.locator import Locator, load_locator
from model.nms import WindowOverlap, merge_windows, suppress
from model.person_crop import MAX_SIDE_PX, PersonCropper
from model.segments import Proposals, calibrate, decode_points
from model.transforms import Region
from model.video import InProcessDecoder, Limits, Video
from model.windows import Window, windows

if TYPE_CHECKING:  # the sandbox needs Linux
    from model.sandbox.client import SandboxedVideo
    from model.sandbox.sandbox import Sandbox

Decoder: TypeAlias = "InProcessDecoder | Sandbox"
Stage = Literal["decoding", "detecting"]
Progress = Callable[[Stage, float], None]


class Detector:
    """A loaded bundle that analyses one video at a time. Loading is slow: reuse the detector."""

    def __init__(
        self, bundle: Bundle, engine: Engine, locator: Locator | None = None, decoder: "Decoder | None" = None
    ) -> None:
        """By default, the locator is that of the bundle, and videos are decoded in this process."""
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
        """Detect the micro-actions in a readable and seekable video file; raises VideoError, DecoderKilledError.

        By default, the region is the person that the locator finds, or without a locator the middle of the frame.
        `progress` is called for each frame with the stage and the fraction of the video analysed so far, 0..1, and
        again while waiting for a frame. An exception that it raises ends the analysis.
        """
        manifest = self.bundle.manifest
        config = manifest.input
        meter = _ProgressMeter(progress)
        cropper = None
        if region is None and self.locator is not None and manifest.locator is not None:
            cropper = PersonCropper(self.locator, config, manifest.locator.margin)
        with closing(self.decoder.open(file, limits, meter.report)) as video:
            if cropper:
                frames = video.frames(config.fps, MAX_SIDE_PX, MAX_SIDE_PX, None)
                video_windows = cropper.crop(meter.measure(frames, file, video, config.fps))
            else:
                frames = video.frames(config.fps, config.width, config.height, region or Region())
                frames = meter.measure(frames, file, video, config.fps)
                video_windows = windows(frames, config.window_frames, config.overlap_frames)
            proposals = self.propose(video_windows)
            media = video.media
        assert media is not None  # all frames were read
        people = cropper.windows if cropper else None
        coverage = find_coverage(people, config.fps, media)
        return Detections(
            _drop_damaged(proposals.clipped(0.0, media.duration_s), media.damaged).by_score(),
            media,
            coverage,
            make_notices(people, config.fps, media, coverage),
            meter.decode_s,
        )

    def propose(self, video_windows: Iterator[Window]) -> Proposals:
        """Return calibrated proposals for the windows of a video; each action appears once."""
        manifest = self.bundle.manifest
        proposals, previous_end_s = Proposals.empty(), 0.0
        for window in video_windows:
            start_s, end_s = window.start_frame / manifest.input.fps, window.end_frame / manifest.input.fps
            mask = window.mask(manifest.input.window_frames)
            points = self.engine.run(window.clips(manifest.input.clip_frames), mask)
            candidates = decode_points(points.logits, points.offsets, mask, manifest, window.start_frame)
            in_window = suppress(candidates, manifest.postprocessing).clipped(start_s, end_s)
            proposals = merge_windows(proposals, in_window, WindowOverlap(start_s, previous_end_s))
            previous_end_s = end_s
        return replace(proposals, scores=calibrate(proposals.scores, manifest.calibration))


def _drop_damaged(proposals: Proposals, damaged: Intervals) -> Proposals:
    """Drop proposals whose middle lies in a damaged interval, where the frame before it was repeated."""
    middles = proposals.segments.mean(axis=1)
    is_damaged = np.zeros(len(proposals), np.bool_)
    for start_s, end_s in damaged:
        is_damaged |= (middles >= start_s) & (middles < end_s)
    return proposals[~is_damaged]


class _ProgressMeter:
    """Reports the progress of an analysis, and measures the time spent waiting for frames."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._stage: Stage = "decoding"
        self._fraction = 0.0
        self.decode_s = 0.0

    def report(self) -> None:
        self._progress(self._stage, self._fraction)

    def measure(
        self, frames: Iterator[Frame], file: BinaryIO, video: "Video | SandboxedVideo", fps: float
    ) -> Iterator[Frame]:
        """Report progress before each frame: the fraction of the declared duration, or else of the file's size."""
        self.report()
        expected_frames = (video.declared_duration_s or 0) * fps
        position = file.tell()
        size_bytes = file.seek(0, os.SEEK_END)
        file.seek(position)
        for index in count():
            start_s = time.monotonic()
            try:
                frame = next(frames, None)
            finally:
                self.decode_s += time.monotonic() - start_s
            if frame is None:
                return
            done, whole = (index, expected_frames) if expected_frames else (video.tell(), size_bytes)
            self._stage, self._fraction = "detecting", min(1.0, done / whole) if whole else 0.0
            self.report()
            yield frame
