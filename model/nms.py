"""Soft non-maximum suppression over time."""

import numpy as np

from model.segments import Floats, Proposals

# Keeps the tIoU of two empty segments finite, as the field's evaluators do.
_EPSILON = np.float32(1e-6)


def soft_nms(proposals: Proposals, sigma: float, min_score: float, limit: int) -> Proposals:
    """Lower the score of what overlaps a better proposal of the same action by exp(-tIoU^2 / sigma).

    Args:
        proposals: candidates, in any order.
        sigma: of the Gaussian; smaller suppresses more (Bodla et al., ICCV 2017, equation 2).
        min_score: proposals that fall below are dropped.
        limit: the most proposals returned.

    Returns:
        The proposals kept, with their lowered scores, best first.
    """
    kept = []
    for label in np.unique(proposals.labels):
        mine = proposals[proposals.labels == label]
        index, scores = _suppress_one_class(mine.segments, mine.scores, sigma, min_score)
        kept.append(Proposals(mine.segments[index], scores, mine.labels[index]))
    return Proposals.join(kept).by_score()[:limit]


def _suppress_one_class(
    segments: Floats, scores: Floats, sigma: float, min_score: float
) -> tuple[list[int], Floats]:
    scores = scores.copy()
    order: list[int] = []
    final: list[np.float32] = []
    for _ in range(len(scores)):
        best = int(np.argmax(scores))
        score = scores[best]
        if score < min_score:
            break
        order.append(best)
        final.append(score)
        tiou = tious(segments, segments[best])
        scores *= np.exp(-(tiou * tiou) / np.float32(sigma))
        scores[best] = -np.inf
    return order, np.array(final, np.float32)


def overlaps(segments: Floats, other: Floats) -> Floats:
    """Length shared by each of (n, 2) segments with one segment (2,), in their unit: (n,)."""
    shared = np.minimum(segments[:, 1], other[1]) - np.maximum(segments[:, 0], other[0])
    positive: Floats = np.maximum(shared, np.float32(0))
    return positive


def tious(segments: Floats, other: Floats) -> Floats:
    """Temporal intersection over union of each of (n, 2) segments with one segment (2,): (n,)."""
    shared = overlaps(segments, other)
    lengths = segments[:, 1] - segments[:, 0] + _EPSILON
    fractions: Floats = shared / (lengths + (other[1] - other[0] + _EPSILON) - shared)
    return fractions
