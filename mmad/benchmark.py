"""How fast the whole way is here: engine against engine on a generated clip, interleaved, medians and ratios."""

import os
import platform
import statistics
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from model.bundle import Bundle
from model.decoder import Decoder, InProcess
from model.detector import Detector
from model.engines import EngineName, load_engine
from model.errors import EngineError
from model.sandbox.sandbox import make_decoder
from model.transforms import Region
from model.video import UNLIMITED, Video

DECODE = "decode alone"
SANDBOXED = "decode alone, sandboxed"
ENGINES: tuple[EngineName, ...] = ("openvino", "onnx", "torch")


@dataclass(frozen=True)
class Row:
    """One thing measured; `ratio` is its median over the first engine's."""

    name: str
    median_s: float
    min_s: float
    max_s: float
    times_real_time: float
    ratio: float


@dataclass(frozen=True)
class Report:
    """Rows, and what they were measured on."""

    clip: str
    rounds: int
    bundle: str
    machine: str
    cores: int
    rows: list[Row]

    def to_json(self) -> dict[str, object]:
        """As plain values."""
        return asdict(self)


def write_clip(
    path: Path, *, seconds: float, width: int = 1080, height: int = 1296, fps: int = 30, seed: int = 0
) -> None:
    """A clip of a bright square that wanders over grainy noise, in MPEG-4: every frame has something to decode."""
    generator = np.random.default_rng(seed)
    grain = generator.integers(0, 60, (height, width, 3), np.uint8)
    side = min(width, height) // 4
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=Fraction(fps))
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = width, height, "yuv420p", 8_000_000
        for index in range(round(seconds * fps)):
            picture = np.roll(grain, index * 7, axis=index % 2)
            x, y = (
                round((1 + np.sin(index / fps * speed)) / 2 * room)
                for speed, room in ((2.1, width - side), (1.3, height - side))
            )
            picture[y : y + side, x : x + side] = 220
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def run(
    bundle: Bundle, clip: Path, rounds: int, say: Callable[[str], None], show: Callable[[str, float], None]
) -> Report:
    """Time decoding alone, here and in the sandbox, and the whole way with every engine installed.

    In turn, `rounds` times, after a warm-up.

    Args:
        bundle: whose input and network are timed. clip: what is decoded.
        rounds: how often each is timed.
        say: called with a note for each engine that is not installed.
        show: called with the current round and the fraction done, 0..1.
    """
    with clip.open("rb") as file, closing(Video(file, UNLIMITED)) as video:
        duration_s = video.declared_duration_s or 0.0
    ways: dict[str, Callable[[], None]] = {DECODE: lambda: _decode(bundle, clip, InProcess())}
    sandbox = make_decoder("auto")
    ways[SANDBOXED] = lambda: _decode(bundle, clip, sandbox)
    for engine in ENGINES:
        try:
            detector = Detector(bundle, load_engine(bundle, engine))
        except EngineError as error:
            say(str(error))
            continue
        ways[f"whole way, {engine}"] = lambda detector=detector: _detect(detector, clip)  # type: ignore[misc]
    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for place, (name, way) in enumerate(ways.items()):
            words = f"round {turn} of {rounds}" if turn else "warm-up"
            show(f"{words}, {name}", (turn + place / len(ways)) / (rounds + 1))
            began = time.perf_counter()
            way()
            if turn:
                times[name].append(time.perf_counter() - began)
    sandbox.close()
    medians = {name: statistics.median(taken) for name, taken in times.items()}
    first = next(median for name, median in medians.items() if name not in (DECODE, SANDBOXED))
    rows = [
        Row(name, medians[name], min(taken), max(taken), duration_s / medians[name], medians[name] / first)
        for name, taken in times.items()
    ]
    label = f"{bundle.manifest.name} {bundle.manifest.version}"
    return Report(
        f"{clip.name}, {duration_s:g} s",
        rounds,
        label,
        platform.machine(),
        len(os.sched_getaffinity(0)),
        rows,
    )


def _decode(bundle: Bundle, clip: Path, decoder: Decoder) -> None:
    seen = bundle.manifest.input
    with clip.open("rb") as file, closing(decoder.open(file, UNLIMITED)) as video:
        for _ in video.frames(seen.fps, seen.width, seen.height):
            pass


def _detect(detector: Detector, clip: Path) -> None:
    with clip.open("rb") as file:
        detector.detect(
            file, region=Region(), limits=UNLIMITED
        )  # the clip shows nobody, whom a locator would miss
