"""Frozen frame test: measure how much of a class score is due to motion and not to a static image.

Every window of a clip is run as it is, and again with one of its frames repeated from start to end, for several of its
frames. The gain of a class is its highest score on the clip minus its highest score on a frozen frame: near 0 if the
class is predicted from posture, appearance or background.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from model.arrays import Booleans, Doubles, Images
from model.bundle import Bundle, Manifest
from model.detector import Detector
from model.engines import Engine, RawPoints
from model.errors import DetectorError
from model.segments import point_grid
from model.taxonomy import Taxonomy
from model.video import UNLIMITED

FROZEN_FRAMES = 3


class FrozenFrameTestError(Exception):
    """Raised for a clip that cannot be read, or whose file name does not begin with the code of a class."""


class Ranks(NamedTuple):
    """Ranks of the true class, 1 is best: by score (`raw`) and by gain over frozen frames (`moving`)."""

    raw: float
    moving: float


class LevelScores(NamedTuple):
    """Highest scores (classes,) on the clip and on its frozen frames, and the ranks of the true class."""

    clip: Doubles
    still: Doubles
    ranks: Ranks

    @property
    def gain(self) -> Doubles:
        """Scores on the clip minus scores on frozen frames, (classes,)."""
        return self.clip - self.still


@dataclass(frozen=True)
class ClipResult:
    """Result of one clip; `label` is its action. If no person is detected, `windows` is 0 and all ranks are tied."""

    clip: str
    label: int
    windows: int
    action: LevelScores
    body: LevelScores


class FrozenFrameEngine:
    """Engine that delegates to another one and records the highest score of each class, on clip and frozen frames."""

    def __init__(self, engine: Engine, manifest: Manifest, stills: int) -> None:
        self.name, self.device, self.precision = engine.name, engine.device, engine.precision
        self._engine, self._stills = engine, stills
        self._positions, _ = point_grid(manifest.input.window_frames, manifest.architecture.head.strides)
        self.windows = 0
        self.clip = np.zeros(len(manifest.taxonomy.actions))
        self.still = np.zeros(len(manifest.taxonomy.actions))

    def run(self, clips: Images, mask: Booleans) -> RawPoints:
        """Run the network on the window and on its frozen frames; return the points of the window."""
        self.windows += 1
        points = self._engine.run(clips, mask)
        self.clip = np.maximum(self.clip, self._highest(points, mask))
        frames = clips.reshape(-1, *clips.shape[2:])
        for index in choose_frozen_frames(int(mask.sum()), self._stills):
            frozen = np.ascontiguousarray(np.broadcast_to(frames[index], frames.shape)).reshape(clips.shape)
            self.still = np.maximum(self.still, self._highest(self._engine.run(frozen, mask), mask))
        return points

    def _highest(self, points: RawPoints, mask: Booleans) -> Doubles:
        """Return the highest scores (classes,) of all points that lie on a frame of the video."""
        logits = points.logits[mask[self._positions]].max(axis=0).astype(float)
        return np.asarray(1 / (1 + np.exp(-logits)))


def choose_frozen_frames(frames: int, stills: int) -> list[int]:
    """Return the middle frames of `stills` equal parts of a window."""
    return [(2 * part + 1) * frames // (2 * stills) for part in range(stills)]


def run_frozen_frame_test(
    bundle: Bundle, engine: Engine, clip: Path, label: int | None = None, stills: int = FROZEN_FRAMES
) -> ClipResult:
    """Rank the true class of a clip, parsed from its name by default, with `stills` frozen frames of each window."""
    taxonomy = bundle.manifest.taxonomy
    truth = parse_action(clip, taxonomy) if label is None else label
    recorder = FrozenFrameEngine(engine, bundle.manifest, stills)
    try:
        with clip.open("rb") as file:
            Detector(bundle, recorder).detect(file, limits=UNLIMITED)
    except (DetectorError, OSError) as error:
        raise FrozenFrameTestError(f"{clip}: {error}") from error
    scores = np.stack([recorder.clip, recorder.still])
    parts = [scores[:, np.array(taxonomy.body_ids) == body.id].max(axis=1, initial=0) for body in taxonomy.bodies]
    action, body = (
        LevelScores(clip_scores, still_scores, Ranks(rank(clip_scores, own), rank(clip_scores - still_scores, own)))
        for (clip_scores, still_scores), own in ((scores, truth), (np.stack(parts, axis=1), taxonomy.body_ids[truth]))
    )
    return ClipResult(clip.name, truth, recorder.windows, action, body)


def parse_action(clip: Path, taxonomy: Taxonomy) -> int:
    """Return the action whose code the file name begins with. Raises FrozenFrameTestError if there is none."""
    code = clip.stem.split("_")[0]
    for action in taxonomy.actions:
        if action.code == code:
            return action.id
    raise FrozenFrameTestError(
        f"{clip}: {code!r} is no class of the bundle; begin the file's name with one, as A2_turning_around.mp4, "
        "or give --action"
    )


def rank(scores: Doubles, truth: int) -> float:
    """Return the rank of a score, 1 for the highest; ties get their mean rank, so that equal scores rank as chance."""
    others = np.delete(scores, truth)
    return float(1 + (others > scores[truth]).sum() + (others == scores[truth]).sum() / 2)


def chance_rank(classes: int, clips: int) -> tuple[float, float]:
    """Return the expected mean rank of random guesses over `clips` clips, and its standard deviation."""
    return (classes + 1) / 2, float(np.sqrt((classes**2 - 1) / 12 / clips))


def to_document(results: Sequence[ClipResult], taxonomy: Taxonomy) -> dict[str, object]:
    """Return the JSON document that `mmad control --json` prints."""
    levels = {"action": taxonomy.actions, "body": taxonomy.bodies}
    mean = {}
    for name, classes in levels.items():
        raw, moving = np.mean([getattr(one, name).ranks for one in results], axis=0).tolist()
        expected, deviation = chance_rank(len(classes), len(results))
        mean[name] = {"raw": raw, "moving": moving, "chance": expected, "chance_deviation": deviation}
    return {"clips": [_clip_document(one, taxonomy) for one in results], "mean_rank": mean}


def _clip_document(result: ClipResult, taxonomy: Taxonomy) -> dict[str, object]:
    document: dict[str, object] = {
        "clip": result.clip, "action": taxonomy.actions[result.label].code, "windows": result.windows,
        "action_ranks": result.action.ranks._asdict(), "body_ranks": result.body.ranks._asdict(),
    }  # fmt: skip
    for name, level, classes in (("action", result.action, taxonomy.actions), ("body", result.body, taxonomy.bodies)):
        scores = zip(classes, level.clip.tolist(), level.still.tolist(), strict=True)
        document[f"{name}_scores"] = {one.code: {"clip": clip, "still": still} for one, clip, still in scores}
    return document
