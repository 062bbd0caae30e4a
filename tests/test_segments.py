"""Decoding of points to proposals, compared with a public implementation."""

from pathlib import Path

import numpy as np
import pytest

from model.architecture import HeadConfig
from model.bundle import Bundle, Manifest, PostprocessingConfig
from model.nms import suppress
from model.segments import Proposals, decode_points, point_grid


def with_input(manifest: Manifest, **changes: object) -> Manifest:
    return manifest.model_copy(update={"input": manifest.input.model_copy(update=changes)})


def empty_points(manifest: Manifest) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    positions, _ = point_grid(manifest.input.window_frames, manifest.architecture.head.strides)
    logits = np.full((len(positions), len(manifest.taxonomy.actions)), -20, np.float32)
    return logits, np.zeros((len(positions), 2), np.float32), np.ones(manifest.input.window_frames, bool)


def test_offsets_are_in_strides_and_times_from_video_start(bundle: Bundle) -> None:
    manifest = bundle.manifest
    logits, offsets, mask = empty_points(manifest)
    point = 192 + 96 + 3  # the fourth point of the level with stride 4: step 12
    logits[point, 7] = 20
    offsets[point] = [2, 5]
    proposals = decode_points(logits, offsets, mask, manifest, start_frame=150)
    assert proposals.labels.tolist() == [7]
    np.testing.assert_allclose(proposals.segments, [[(150 + 12 - 8) / 15, (150 + 12 + 20) / 15]], rtol=1e-6)


def test_points_outside_mask_give_no_proposals(bundle: Bundle) -> None:
    logits, offsets, mask = empty_points(bundle.manifest)
    logits[100], offsets[100], mask[90:] = 20, 1, False
    assert len(decode_points(logits, offsets, mask, bundle.manifest, 0)) == 0


def test_candidates_are_limited_to_best(bundle: Bundle) -> None:
    logits, offsets, mask = empty_points(bundle.manifest)
    logits[:] = np.random.default_rng(0).normal(size=logits.shape)
    config = bundle.manifest.postprocessing.model_copy(update={"candidates": 10})
    proposals = decode_points(
        logits, offsets + 1, mask, bundle.manifest.model_copy(update={"postprocessing": config}), 0
    )
    assert len(proposals) == 10
    np.testing.assert_allclose(proposals.scores, np.sort(1 / (1 + np.exp(-logits.ravel())))[::-1][:10], rtol=1e-6)


def test_clipping_removes_empty_segments() -> None:
    proposals = Proposals(np.array([[-1, 2], [3, 9], [6, 7]], np.float32), np.ones(3, np.float32), np.arange(3))
    assert proposals.clipped(0, 5).segments.tolist() == [[0, 2], [3, 5]]


def test_proposals_check_shapes() -> None:
    with pytest.raises(ValueError, match="3 scores"):
        Proposals(np.zeros((2, 2), np.float32), np.zeros(3, np.float32), np.zeros(3, np.int64))


@pytest.mark.shared("reference/actionformer.pt")
def test_points_and_results_equal_published_code(shared: Path, bundle: Bundle) -> None:
    """From the reference's scores and offsets to its results: points, top-k, soft-NMS, seconds."""
    import torch

    reference = torch.load(shared / "reference/actionformer.pt", weights_only=True)
    positions, strides = point_grid(192, HeadConfig(branch_blocks=5).strides)
    np.testing.assert_array_equal(positions, reference["points"][:, 0].numpy())
    np.testing.assert_array_equal(strides, reference["points"][:, 3].numpy())
    for row, meta in enumerate(reference["metas"]):
        mask = reference["masks"][row].numpy()
        valid = mask[positions]
        scores = np.zeros((len(positions), 52), np.float32)
        scores[valid] = reference["scores"][row].numpy()
        segments = np.zeros((len(positions), 2), np.float32)
        segments[valid] = reference["proposals"][row].numpy()
        offsets = np.stack([positions - segments[:, 0], segments[:, 1] - positions], axis=1) / strides[:, None]
        # The reference's steps are every second frame.
        manifest = with_input(bundle.manifest, fps=meta["fps"] / meta["snippet_stride"])
        with np.errstate(divide="ignore"):
            logits = np.log(scores / (1 - scores))
        proposals = decode_points(logits, offsets.astype(np.float32), mask, manifest, 0)
        suppressed = suppress(proposals, PostprocessingConfig()).clipped(0, meta["duration"])
        expected = reference["results"][meta["video_name"]]
        # Results have two decimals of seconds and four of the score; equal scores may be in another order.
        ours = sorted(
            (round(float(score), 3), int(label))
            for score, label in zip(suppressed.scores, suppressed.labels, strict=True)
        )
        theirs = sorted(
            (round(expected_row["score"], 3), int(expected_row["label"]))
            for expected_row in expected
            if expected_row["segment"][1] > expected_row["segment"][0]
        )
        assert len(suppressed) >= len(theirs)
        np.testing.assert_allclose(
            [score for score, _ in ours[-len(theirs) :]], [score for score, _ in theirs], atol=1e-3
        )
        for expected_row in expected[:50]:
            same = (suppressed.labels == int(expected_row["label"])) & (
                np.abs(suppressed.scores - expected_row["score"]) < 1e-4
            )
            assert np.abs(suppressed.segments[same] - expected_row["segment"]).max(axis=1).min() < 0.0051
