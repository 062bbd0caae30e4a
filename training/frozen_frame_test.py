"""On real clips: is an action seen because somebody moves, or would a still picture have scored as high?

Each clip is run as the service runs it. Every window is given to the network twice: as it is, and with one of its
frames repeated from start to end, for some frames of it. What a class scores on the moving clip beyond its best still
is what movement added; a class that a posture, a person or a room suggests keeps its score on the still.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.bundle import Bundle, Manifest
from model.detector import Detector
from model.engines import Engine, RawPoints
from model.errors import DetectorError
from model.segments import point_grid
from model.taxonomy import Taxonomy
from model.video import UNLIMITED

Floats = NDArray[np.float64]

STILLS = 3
TOP = 5


class ControlError(Exception):
    """A clip that cannot be read, or whose name begins with no class of the bundle."""


class Ranks(NamedTuple):
    """Of the true class: 1 is best. By the highest score in the clip, and by that less the best still's."""

    raw: float
    moving: float


class Level(NamedTuple):
    """(classes,) highest scores: of the clip, and of the best still; and the ranks of the true class."""

    clip: Floats
    still: Floats
    ranks: Ranks

    @property
    def gain(self) -> Floats:
        """(classes,): what movement adds."""
        return self.clip - self.still


@dataclass(frozen=True)
class Seen:
    """What one clip's control found; `label` is its action. Of no windows, as nobody was found, ranks are tied."""

    clip: str
    label: int
    windows: int
    action: Level
    body: Level


class Listener:
    """An engine that passes windows on, and keeps what each class scores at most: as they are, and held still."""

    def __init__(self, engine: Engine, manifest: Manifest, stills: int) -> None:
        self.name, self.device, self.precision = engine.name, engine.device, engine.precision
        self._engine, self._stills = engine, stills
        self._positions, _ = point_grid(manifest.input.window_frames, manifest.architecture.head.strides)
        self.windows = 0
        self.clip = np.zeros(len(manifest.taxonomy.actions))
        self.still = np.zeros(len(manifest.taxonomy.actions))

    def run(self, clips: NDArray[np.uint8], mask: NDArray[np.bool_]) -> RawPoints:
        """See Engine."""
        self.windows += 1
        points = self._engine.run(clips, mask)
        self.clip = np.maximum(self.clip, self._highest(points, mask))
        frames = clips.reshape(-1, *clips.shape[2:])
        for index in still_frames(int(mask.sum()), self._stills):
            held = np.ascontiguousarray(np.broadcast_to(frames[index], frames.shape)).reshape(clips.shape)
            self.still = np.maximum(self.still, self._highest(self._engine.run(held, mask), mask))
        return points

    def _highest(self, points: RawPoints, mask: NDArray[np.bool_]) -> Floats:
        """(classes,): of all points that stand on a frame."""
        logits = points.logits[mask[self._positions]].max(axis=0).astype(float)
        return np.asarray(1 / (1 + np.exp(-logits)))


def still_frames(frames: int, stills: int) -> list[int]:
    """The middles of equal parts of a window: of one part, its middle frame."""
    return [(2 * part + 1) * frames // (2 * stills) for part in range(stills)]


def control(
    bundle: Bundle, engine: Engine, clip: Path, label: int | None = None, stills: int = STILLS
) -> Seen:
    """Rank a clip's true class among all, with and without what its stills score.

    Args:
        bundle: what is controlled. engine: runs its network. clip: a video of one action.
        label: the action; by default the one whose code the file's name begins with, as A2_turning_around.mp4.
        stills: how many frames of each window are repeated.

    Raises:
        ControlError: see there.
    """
    taxonomy = bundle.manifest.taxonomy
    truth = label_of(clip, taxonomy) if label is None else label
    listener = Listener(engine, bundle.manifest, stills)
    try:
        with clip.open("rb") as file:
            Detector(bundle, listener).detect(file, limits=UNLIMITED)
    except (DetectorError, OSError) as error:
        raise ControlError(f"{clip}: {error}") from error
    parts = [np.array(taxonomy.body_of) == body.id for body in taxonomy.bodies]
    clip_parts, still_parts = (
        np.array([scores[part].max(initial=0) for part in parts])
        for scores in (listener.clip, listener.still)
    )
    return Seen(
        clip.name,
        truth,
        listener.windows,
        _level(listener.clip, listener.still, truth),
        _level(clip_parts, still_parts, taxonomy.body_of[truth]),
    )


def label_of(clip: Path, taxonomy: Taxonomy) -> int:
    """The action whose code a file's name begins with."""
    code = clip.stem.split("_")[0]
    for action in taxonomy.actions:
        if action.code == code:
            return action.id
    raise ControlError(
        f"{clip}: {code!r} is no class of the bundle; begin the file's name with one, as A2_turning_around.mp4, "
        "or give --action"
    )


def _level(clip: Floats, still: Floats, truth: int) -> Level:
    return Level(clip, still, Ranks(rank(clip, truth), rank(clip - still, truth)))


def rank(scores: Floats, truth: int) -> float:
    """1 for the highest; equal ones share the middle of their places, so that knowing nothing is worth chance."""
    others = np.delete(scores, truth)
    return float(1 + (others > scores[truth]).sum() + (others == scores[truth]).sum() / 2)


def chance(classes: int, clips: int) -> tuple[float, float]:
    """Mean rank of guesses over so many clips, and its standard deviation."""
    return (classes + 1) / 2, float(np.sqrt((classes**2 - 1) / 12 / clips))


def to_document(seen: Sequence[Seen], taxonomy: Taxonomy) -> dict[str, object]:
    """What `mmad control --json` prints."""
    levels = {"action": taxonomy.actions, "body": taxonomy.bodies}
    mean = {}
    for name, classes in levels.items():
        ranks = np.array([getattr(one, name).ranks for one in seen])
        guessed, spread = chance(len(classes), len(seen))
        mean[name] = {
            "raw": float(ranks[:, 0].mean()),
            "moving": float(ranks[:, 1].mean()),
            "chance": guessed,
            "chance_deviation": spread,
        }
    return {"clips": [_clip_document(one, taxonomy) for one in seen], "mean_rank": mean}


def _clip_document(seen: Seen, taxonomy: Taxonomy) -> dict[str, object]:
    return {
        "clip": seen.clip,
        "action": taxonomy.actions[seen.label].code,
        "windows": seen.windows,
        "action_ranks": seen.action.ranks._asdict(),
        "body_ranks": seen.body.ranks._asdict(),
        "action_scores": _scores(seen.action, [one.code for one in taxonomy.actions]),
        "body_scores": _scores(seen.body, [one.code for one in taxonomy.bodies]),
    }


def _scores(level: Level, codes: list[str]) -> dict[str, dict[str, float]]:
    return {
        code: {"clip": float(level.clip[place]), "still": float(level.still[place])}
        for place, code in enumerate(codes)
    }
