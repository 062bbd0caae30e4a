"""Soft-NMS by its definition and compared with a public implementation in C++."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.bundle import PostprocessingConfig
from model.nms import suppress, tious
from model.segments import Proposals


def proposals(*rows: tuple[float, float, float, int]) -> Proposals:
    table = np.array(rows, np.float32).reshape(-1, 4)
    return Proposals(table[:, :2], table[:, 2], table[:, 3].astype(np.int64))


def soft_nms(given: Proposals, sigma: float, min_score: float, limit: int) -> Proposals:
    return suppress(given, PostprocessingConfig(soft_nms_sigma=sigma, proposal_score=min_score, proposals=limit))


def test_soft_nms_decays_score_by_gaussian_of_tiou() -> None:
    suppressed = soft_nms(proposals((0, 4, 0.9, 1), (2, 6, 0.8, 1)), sigma=0.5, min_score=0, limit=10)
    np.testing.assert_allclose(suppressed.scores, [0.9, 0.8 * np.exp(-((2 / 6) ** 2) / 0.5)], rtol=1e-5)


def test_other_actions_are_not_suppressed() -> None:
    suppressed = soft_nms(proposals((0, 4, 0.9, 1), (0, 4, 0.8, 2)), sigma=0.5, min_score=0, limit=10)
    np.testing.assert_allclose(suppressed.scores, [0.9, 0.8])


def test_limit_and_min_score_apply() -> None:
    many = proposals(*((index, index + 0.5, 0.1 + index / 100, 0) for index in range(20)))
    assert len(soft_nms(many, sigma=0.5, min_score=0.2, limit=100)) == 10
    assert soft_nms(many, sigma=0.5, min_score=0, limit=3).scores.tolist() == pytest.approx([0.29, 0.28, 0.27])


def test_no_proposals_give_none() -> None:
    assert len(soft_nms(Proposals.empty(), 0.5, 0, 10)) == 0


interval = st.tuples(st.floats(0, 100, width=32), st.floats(0.125, 50, width=32)).map(lambda pair: (pair[0], sum(pair)))


@given(st.lists(interval, min_size=1, max_size=20), interval)
def test_tiou_is_between_0_and_1_and_1_for_itself(
    segments: list[tuple[float, float]], other: tuple[float, float]
) -> None:
    values = tious(np.array([*segments, other], np.float32), np.array(other, np.float32))
    assert (values >= 0).all()
    assert (values <= 1).all()
    assert values[-1] == pytest.approx(1, abs=1e-4)


def make_config(reference: dict[str, Any]) -> PostprocessingConfig:
    """Convert OpenTAD's settings."""
    return PostprocessingConfig(
        nms="soft" if reference["use_soft_nms"] else "hard",
        soft_nms_sigma=reference.get("sigma", 0.5),
        hard_nms_tiou=reference.get("iou_threshold", 0.5),
        class_agnostic=not reference["multiclass"],
        voting_tiou=reference.get("voting_thresh", 0.0),
        proposal_score=reference["min_score"],
        proposals=reference["max_seg_num"],
    )


@pytest.mark.shared("reference/nms.npz")
@pytest.mark.parametrize("name", ["soft07_mc", "soft05_mc", "soft07_mc_nocut", "soft07_agn_vote", "hard05_mc"])
@pytest.mark.parametrize("case", range(10))
def test_suppression_equals_published_code(shared: Path, name: str, case: int) -> None:
    config = json.loads((shared / "reference/nms.json").read_text())["configs"][name]
    with np.load(shared / "reference/nms.npz") as values:
        given = Proposals(*(values[f"in{case}_{part}"] for part in ("segs", "scores", "labels")))
        segments, scores, labels = (values[f"out{case}_{name}_{part}"] for part in ("segs", "scores", "labels"))
    suppressed = suppress(given, make_config(config))
    assert len(suppressed) == len(scores)
    np.testing.assert_allclose(suppressed.scores, -np.sort(-scores), atol=1e-5)
    # Rows with equal scores may be in another order.
    actual = np.column_stack([suppressed.labels, suppressed.segments, suppressed.scores])
    expected = np.column_stack([labels, segments, scores])
    np.testing.assert_allclose(rows_in_order(actual), rows_in_order(expected), atol=1e-4)


def rows_in_order(table: np.ndarray) -> np.ndarray:
    return table[np.lexsort(np.round(table.T[::-1], 3))]


def test_hard_nms_removes_overlapping_proposals() -> None:
    given = proposals((0, 4, 0.9, 1), (2, 6, 0.8, 1), (0, 3, 0.7, 1), (0, 4, 0.1, 2))
    suppressed = suppress(given, PostprocessingConfig(nms="hard", hard_nms_tiou=0.5))
    assert suppressed.scores.tolist() == pytest.approx([0.9, 0.8, 0.1])
    across = suppress(given, PostprocessingConfig(nms="hard", hard_nms_tiou=0.5, class_agnostic=True))
    assert across.scores.tolist() == pytest.approx([0.9, 0.8])


def test_hard_nms_removes_proposal_at_exact_tiou() -> None:
    given = proposals((0, 4, 0.9, 1), (2, 6, 0.8, 1))
    limit = float(tious(given.segments[1:], given.segments[0])[0])
    assert len(suppress(given, PostprocessingConfig(nms="hard", hard_nms_tiou=limit))) == 1
    assert len(suppress(given, PostprocessingConfig(nms="hard", hard_nms_tiou=limit * 1.001))) == 2


def test_voting_averages_overlapping_candidates_by_score() -> None:
    given = proposals((0, 10, 0.6, 1), (1, 10, 0.3, 2), (50, 60, 0.5, 1))
    config = PostprocessingConfig(nms="hard", hard_nms_tiou=0.5, class_agnostic=True, voting_tiou=0.7)
    suppressed = suppress(given, config)
    np.testing.assert_allclose(suppressed.segments, [[1 / 3, 10], [50, 60]], rtol=1e-5)


def test_empty_and_zero_length_segments_are_accepted() -> None:
    for config in (PostprocessingConfig(), PostprocessingConfig(class_agnostic=True, voting_tiou=0.5)):
        assert len(suppress(Proposals.empty(), config)) == 0
        suppressed = suppress(proposals((3, 3, 0.9, 1), (3, 3, 0.8, 1)), config)
        assert np.isfinite(suppressed.segments).all()
        np.testing.assert_allclose(suppressed.segments, 3, rtol=1e-6)
