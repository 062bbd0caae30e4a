"""Post-processing of proposals: temporal NMS within a window, and merging of overlapping windows.

Merging two windows:

      window A  |-----------------------|
      window B                  |-----------------------|
      overlap                   |-------|

Two proposals with the same label describe the same action if their parts inside the overlap have a tIoU of at least
0.5, or if one of them is cut off by the edge of its window and they agree on the other boundary. The one with the
higher score is used. Its boundary, if cut off, is replaced by that of the best duplicate beyond the overlap.
"""

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from model.arrays import Booleans, Floats, Integers
from model.bundle import PostprocessingConfig
from model.segments import Proposals

# The tIoU from which proposals of two windows are duplicates.
DUPLICATE_TIOU = 0.5
# A boundary counts as cut off within this distance of its window's edge: a fraction of the overlap, limited in seconds.
EDGE_FRACTION = 0.1
MAX_EDGE_S = 0.5

# Avoids division by zero for two empty segments, as OpenTAD does.
_EPSILON = np.float32(1e-6)


def suppress(proposals: Proposals, config: PostprocessingConfig) -> Proposals:
    """Apply non-maximum suppression as configured in the bundle; return the remaining proposals, highest score first.

    Soft-NMS multiplies the scores of proposals that overlap a better one by exp(-tIoU^2 / sigma) (Bodla et al., ICCV
    2017, equation 2).
    """
    if not len(proposals):
        return proposals
    groups = [np.ones(len(proposals), bool)]
    if not config.class_agnostic:
        groups = [proposals.labels == label for label in np.unique(proposals.labels)]
    selected = Proposals.join([_suppress_group(proposals[group], config) for group in groups])
    selected = selected.by_score()[: config.proposals]
    if config.class_agnostic and config.voting_tiou > 0:
        selected = replace(selected, segments=vote(selected, proposals, config.voting_tiou))
    return selected


def vote(selected: Proposals, candidates: Proposals, tiou: float) -> Floats:
    """Return the selected segments (n, 2), each replaced by the mean, by score, of the candidates with this tIoU."""
    overlap = np.stack([overlaps(candidates.segments, segment) for segment in selected.segments])
    candidate_lengths = candidates.segments[:, 1] - candidates.segments[:, 0]
    lengths = (selected.segments[:, 1] - selected.segments[:, 0])[:, None]
    votes = overlap >= tiou * (candidate_lengths + lengths - overlap)
    weights = votes * candidates.scores
    total: Floats = weights.sum(axis=1, keepdims=True)
    # The total is zero if all overlapping candidates have score 0.
    voted = (weights @ candidates.segments) / np.maximum(total, np.finfo(np.float32).tiny)
    return np.where(total > 0, voted, selected.segments).astype(np.float32)


def _suppress_group(group: Proposals, config: PostprocessingConfig) -> Proposals:
    if config.nms == "hard":
        if config.proposal_score:
            group = group[group.scores > config.proposal_score]
        return group[_hard(group, config.hard_nms_tiou)]
    index, scores = _soft(group, config.soft_nms_sigma, config.proposal_score)
    return Proposals(group.segments[index], scores, group.labels[index])


def _hard(group: Proposals, tiou: float) -> Integers:
    order = np.argsort(-group.scores, kind="stable")
    selected: list[int] = []
    while len(order):
        best, order = int(order[0]), order[1:]
        selected.append(best)
        order = order[tious(group.segments[order], group.segments[best]) < tiou]
    return np.array(selected, np.int64)


def _soft(group: Proposals, sigma: float, min_score: float) -> tuple[list[int], Floats]:
    scores = group.scores.copy()
    order: list[int] = []
    final: list[np.float32] = []
    while scores.max() >= min_score:
        best = int(np.argmax(scores))
        order.append(best)
        final.append(scores[best])
        tiou = tious(group.segments, group.segments[best])
        remaining = scores > -np.inf  # 0 * -inf would be NaN
        scores[remaining] *= np.exp(-(tiou[remaining] * tiou[remaining]) / np.float32(sigma))
        scores[best] = -np.inf
    return order, np.array(final, np.float32)


class WindowOverlap(NamedTuple):
    """The time from the start of a window to the end of the previous one, in seconds."""

    start_s: float
    end_s: float

    @property
    def edge_s(self) -> float:
        """The distance from a window's edge within which a boundary counts as cut off."""
        return min(EDGE_FRACTION * (self.end_s - self.start_s), MAX_EDGE_S)


def merge_windows(earlier: Proposals, later: Proposals, overlap: WindowOverlap) -> Proposals:
    """Merge the proposals of all windows so far with those of the next, so that each action appears once."""
    both = Proposals.join([earlier, later])
    is_later = np.arange(len(both)) >= len(earlier)
    overlap_segment = np.array(overlap, np.float32)
    in_overlap = np.flatnonzero(overlaps(both.segments, overlap_segment) > 0)
    # An earlier proposal may be cut off at the end of the overlap, a later one at its start.
    near_start, near_end = overlap.edge_s >= np.abs(both.segments - overlap_segment).T
    is_cut = np.where(is_later, near_start, near_end)
    segments, remaining = both.segments.copy(), np.ones(len(both), bool)
    for best in in_overlap[np.argsort(-both.scores[in_overlap], kind="stable")]:
        if not remaining[best]:
            continue
        others = in_overlap[remaining[in_overlap] & (is_later[in_overlap] != is_later[best])]
        others = others[both.labels[others] == both.labels[best]]
        duplicates = others[
            _are_duplicates(both.segments[others], is_cut[others], both.segments[best], is_cut[best], overlap)
        ]
        remaining[duplicates] = False
        if is_cut[best]:
            segments[best] = _extend(segments[best], both[duplicates], is_later[best], overlap)
    return Proposals(segments, both.scores, both.labels)[remaining]


def _are_duplicates(
    others: Floats, others_cut: Booleans, best: Floats, best_cut: bool, overlap: WindowOverlap
) -> Booleans:
    start, end = np.array(overlap, np.float32)
    matches = tious(np.clip(others, start, end), np.clip(best, start, end)) >= DUPLICATE_TIOU
    shares_boundary = (np.abs(others - best) <= overlap.edge_s).any(axis=1)
    duplicates: Booleans = matches | ((others_cut | best_cut) & shares_boundary)
    return duplicates


def _extend(best: Floats, duplicates: Proposals, is_later: bool, overlap: WindowOverlap) -> Floats:
    """Replace the boundary that was cut off by that of the best duplicate that extends beyond the overlap."""
    side = 0 if is_later else 1
    boundary = duplicates.segments[:, side]
    longer = duplicates[boundary < overlap.start_s if is_later else boundary > overlap.end_s]
    if len(longer):
        best = best.copy()
        best[side] = longer.segments[np.argmax(longer.scores), side]
    return best


def overlaps(segments: Floats, other: Floats) -> Floats:
    """Return the length (n,) that each of (n, 2) segments shares with one segment (2,)."""
    shared: Floats = np.minimum(segments[:, 1], other[1]) - np.maximum(segments[:, 0], other[0])
    return np.maximum(shared, np.float32(0))


def tious(segments: Floats, other: Floats) -> Floats:
    """Return the temporal IoU (n,) of each of (n, 2) segments with one segment (2,)."""
    shared = overlaps(segments, other)
    lengths = segments[:, 1] - segments[:, 0] + _EPSILON
    return shared / (lengths + (other[1] - other[0] + _EPSILON) - shared)  # type: ignore[no-any-return]
