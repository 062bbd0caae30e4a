"""Non-maximum suppression over time: soft or hard, for each action or across all, with segment voting."""

from dataclasses import replace

import numpy as np

from model.bundle import PostprocessingConfig
from model.segments import Floats, Integers, Proposals

# Keeps the tIoU of two empty segments finite, as the field's evaluators do.
_EPSILON = np.float32(1e-6)


def suppress(proposals: Proposals, config: PostprocessingConfig) -> Proposals:
    """Non-maximum suppression as a bundle wants it.

    Soft-NMS lowers the score of what overlaps a better proposal by exp(-tIoU^2 / sigma); a smaller sigma suppresses
    more (Bodla et al., ICCV 2017, equation 2).

    Args:
        proposals: candidates, in any order.
        config: kind, sigma or tIoU, whether actions suppress each other, voting, and what is kept.

    Returns:
        The proposals kept, soft-NMS with lowered scores, best first.
    """
    if not len(proposals):
        return proposals
    groups = [np.ones(len(proposals), bool)]
    if not config.class_agnostic:
        groups = [proposals.labels == label for label in np.unique(proposals.labels)]
    kept = Proposals.join([_suppress_group(proposals[group], config) for group in groups])
    kept = kept.by_score()[: config.proposals]
    if config.class_agnostic and config.voting_tiou > 0:
        kept = replace(kept, segments=vote(kept, proposals, config.voting_tiou))
    return kept


def vote(kept: Proposals, candidates: Proposals, tiou: float) -> Floats:
    """Segments (n, 2) of the kept, each the mean of all candidates that overlap it by `tiou`, weighted by score.

    The overlap of every pair is held at once: n times the candidates.
    """
    overlap = np.stack([overlaps(candidates.segments, segment) for segment in kept.segments])
    lengths = candidates.segments[:, 1] - candidates.segments[:, 0]
    own = (kept.segments[:, 1] - kept.segments[:, 0])[:, None]
    near = overlap >= tiou * (lengths + own - overlap)
    weights = near * candidates.scores
    total: Floats = weights.sum(axis=1, keepdims=True)
    # A segment of score 0 may have no voter but itself.
    voted = (weights @ candidates.segments) / np.maximum(total, np.finfo(np.float32).tiny)
    return np.where(total > 0, voted, kept.segments).astype(np.float32)


def _suppress_group(group: Proposals, config: PostprocessingConfig) -> Proposals:
    if config.nms == "hard":
        group = group[group.scores > config.proposal_score] if config.proposal_score else group
        return group[_hard(group, config.hard_nms_tiou)]
    index, scores = _soft(group, config.soft_nms_sigma, config.proposal_score)
    return Proposals(group.segments[index], scores, group.labels[index])


def _hard(group: Proposals, tiou: float) -> Integers:
    order = np.argsort(-group.scores, kind="stable")
    kept: list[int] = []
    while len(order):
        best, order = int(order[0]), order[1:]
        kept.append(best)
        order = order[tious(group.segments[order], group.segments[best]) < tiou]
    return np.array(kept, np.int64)


def _soft(group: Proposals, sigma: float, min_score: float) -> tuple[list[int], Floats]:
    scores = group.scores.copy()
    order: list[int] = []
    final: list[np.float32] = []
    for _ in range(len(scores)):
        best = int(np.argmax(scores))
        score = scores[best]
        if score < min_score:
            break
        order.append(best)
        final.append(score)
        tiou = tious(group.segments, group.segments[best])
        waiting = scores > -np.inf  # 0 * -inf would be no number
        scores[waiting] *= np.exp(-(tiou[waiting] * tiou[waiting]) / np.float32(sigma))
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
