"""The score of every class over time, computed from the stored proposals: features for other models."""

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.merging import Floats
from service.results import StoredProposals
from service.schemas import FrameScores


@dataclass(frozen=True)
class ScoreTrack:
    """Scores over time; see FrameScores."""

    rate: float
    times_s: NDArray[np.float64]
    actions: list[str]
    action_scores: Floats  # (times, actions)
    bodies: list[str]
    body_scores: Floats  # (times, body parts)


def compute_score_track(stored: StoredProposals, rate: float) -> ScoreTrack:
    """Compute the scores of all classes, `rate` times per second."""
    labels, duration_s = stored.context.labels, stored.context.media.duration_s
    # Divided rather than accumulated, to avoid rounding errors.
    times_s = np.arange(int(np.ceil(duration_s * rate)) + 1) / rate
    times_s = times_s[times_s < duration_s]
    by_action = np.zeros((len(times_s), len(labels.actions)), np.float32)
    rows = np.searchsorted(times_s, stored.round_times())
    # In order of ascending score, so that the highest score is written last.
    for index in np.argsort(stored.scores, kind="stable"):
        first, end = rows[index]
        by_action[first:end, stored.labels[index]] = stored.scores[index]
    by_body = np.zeros((len(times_s), len(labels.bodies)), np.float32)
    for column, body in enumerate(labels.bodies):
        members = [index for index, action in enumerate(labels.actions) if action.body.id == body.id]
        by_body[:, column] = by_action[:, members].max(axis=1, initial=0)
    actions, bodies = ([label.code for label in level] for level in (labels.actions, labels.bodies))
    return ScoreTrack(float(rate), times_s, actions, by_action, bodies, by_body)


def make_frame_scores(stored: StoredProposals, rate: float) -> FrameScores:
    """Make the document for `level=frames`."""
    track = compute_score_track(stored, rate)
    return FrameScores(
        job_id=stored.context.job_id,
        rate=rate,
        times_s=np.round(track.times_s, 6).tolist(),
        actions=track.actions,
        action_scores=np.round(track.action_scores.astype(float), 4).tolist(),
        bodies=track.bodies,
        body_scores=np.round(track.body_scores.astype(float), 4).tolist(),
    )


def to_npz(track: ScoreTrack) -> bytes:
    """Serialize to a compressed .npz, with arrays named like the attributes and nothing pickled."""
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {name: np.asarray(value) for name, value in vars(track).items()}
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def to_csv(track: ScoreTrack) -> str:
    """Serialize to CSV in the layout of OpenFace: frame (from 1), timestamp (s), actions, body parts."""
    lines = [",".join(("frame", "timestamp", *track.actions, *track.bodies))]
    table = np.concatenate((track.action_scores, track.body_scores), axis=1)
    for number, (time_s, row) in enumerate(zip(track.times_s, table, strict=True), start=1):
        lines.append(f"{number},{time_s:.3f}," + ",".join(f"{score:.4f}" for score in row.tolist()))
    return "\n".join(lines) + "\n"
