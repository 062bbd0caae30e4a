"""Benchmark of decoding and of every installed engine on one clip: interleaved runs, medians and ratios."""

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from fractions import Fraction
from functools import partial
from pathlib import Path

import av
import numpy as np

from mmad.models import Json
from model.bundle import Bundle
from model.detector import Decoder, Detector
from model.engines import EngineName, load_engine
from model.errors import EngineError
from model.sandbox.sandbox import make_decoder
from model.transforms import Region
from model.video import UNLIMITED, InProcessDecoder, Video

DECODE = "decode alone"
SANDBOXED = "decode alone, sandboxed"
ENGINES: tuple[EngineName, ...] = ("openvino", "onnx", "torch")
_CLIP_FPS = 30


def write_clip(path: Path, *, seconds: float, width: int = 1080, height: int = 1296) -> None:
    """Write an MPEG-4 clip of a bright square moving over noise, so that every frame costs decoding time."""
    grain = np.random.default_rng(0).integers(0, 60, (height, width, 3), np.uint8)
    side = min(width, height) // 4
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=Fraction(_CLIP_FPS))
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = width, height, "yuv420p", 8_000_000
        for index in range(round(seconds * _CLIP_FPS)):
            frame = np.roll(grain, index * 7, axis=index % 2)
            x, y = (
                round((1 + np.sin(index / _CLIP_FPS * speed)) / 2 * span)
                for speed, span in ((2.1, width - side), (1.3, height - side))
            )
            frame[y : y + side, x : x + side] = 220
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def run(
    bundle: Bundle, clip: Path, rounds: int, notify: Callable[[str], None], show: Callable[[str, float], None]
) -> Json:
    """Time decoding, in this process and in the sandbox, and detection with every installed engine.

    The candidates take turns for `rounds` rounds, after a warm-up round. `notify` is called with a message for each
    engine that is not installed, `show` with the current round and the fraction done, 0..1. Returns the report as JSON;
    `ratio` is a candidate's median divided by that of the first engine. Raises EngineError if no engine can be loaded.
    """
    with clip.open("rb") as file, closing(Video(file, UNLIMITED)) as video:
        duration_s = video.declared_duration_s or 0.0
    detectors: dict[str, Detector] = {}
    for engine in ENGINES:
        try:
            detectors[f"whole way, {engine}"] = Detector(bundle, load_engine(bundle, engine))
        except EngineError as error:
            notify(str(error))
    if not detectors:
        raise EngineError("no engine can be loaded: install openvino, onnxruntime or torch")
    with closing(make_decoder("auto")) as sandbox:
        candidates = {
            DECODE: partial(_decode, bundle, clip, InProcessDecoder()),
            SANDBOXED: partial(_decode, bundle, clip, sandbox),
            **{name: partial(_detect, detector, clip) for name, detector in detectors.items()},
        }
        times = _time_in_turns(candidates, rounds, show)
    medians = {name: statistics.median(taken) for name, taken in times.items()}
    first = medians[next(iter(detectors))]
    rows = [
        {
            "name": name,
            "median_s": medians[name],
            "min_s": min(taken),
            "max_s": max(taken),
            "times_real_time": duration_s / medians[name],
            "ratio": medians[name] / first,
        }
        for name, taken in times.items()
    ]
    return {
        "clip": f"{clip.name}, {duration_s:g} s",
        "rounds": rounds,
        "bundle": f"{bundle.manifest.name} {bundle.manifest.version}",
        "machine": platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "rows": rows,
    }


def _time_in_turns(
    candidates: Mapping[str, Callable[[], None]], rounds: int, show: Callable[[str, float], None]
) -> dict[str, list[float]]:
    """Return the seconds of each candidate in each round."""
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for turn in range(rounds + 1):
        for index, (name, run_once) in enumerate(candidates.items()):
            stage = f"round {turn} of {rounds}" if turn else "warm-up"
            show(f"{stage}, {name}", (turn + index / len(candidates)) / (rounds + 1))
            start = time.perf_counter()
            run_once()
            if turn:
                times[name].append(time.perf_counter() - start)
    return times


def _decode(bundle: Bundle, clip: Path, decoder: Decoder) -> None:
    config = bundle.manifest.input
    with clip.open("rb") as file, closing(decoder.open(file, UNLIMITED)) as video:
        for _ in video.frames(config.fps, config.width, config.height):
            pass


def _detect(detector: Detector, clip: Path) -> None:
    with clip.open("rb") as file:
        # A region, because the locator would find no person in a generated clip.
        detector.detect(file, region=Region(), limits=UNLIMITED)
