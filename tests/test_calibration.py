"""Calibration of scores to probabilities."""

import numpy as np
import pytest

from model.bundle import Calibration
from model.segments import calibrate
from training.evaluation.calibration import expected_calibration_error, find_correct, fit_calibration
from training.instances import Instances


def instances(segments, scores) -> Instances:
    """Return instances, a hundred per video, as matching is quadratic in their number."""
    count = len(segments)
    video = np.arange(count) // 100
    names = tuple(map(str, range(video[-1] + 1)))
    return Instances(
        names, np.full(len(names), 1e5), video, np.array(segments, float), np.zeros(count, int), np.array(scores, float)
    )


def overconfident(seed: int, count: int = 3000) -> tuple[Instances, Instances]:
    """Return annotations and predictions that are correct half as often as scored."""
    rng = np.random.default_rng(seed)
    starts = 10.0 * np.arange(count)
    scores = rng.uniform(0, 1, count)
    hits = rng.random(count) < 0.5 * scores
    correct = np.stack([starts, starts + 4], 1)
    wrong = correct + 5
    return instances(correct, np.ones(count)), instances(np.where(hits[:, None], correct, wrong), scores)


def test_calibrated_scores_equal_precision():
    calibration = fit_calibration(*overconfident(0))
    truth, predictions = overconfident(1)
    hits = find_correct(truth, predictions)
    after = calibrate(predictions.scores.astype(np.float32), calibration)
    assert expected_calibration_error(predictions.scores, hits) > 0.2
    assert expected_calibration_error(after, hits) < 0.05
    assert calibrate(np.array([0.8], np.float32), calibration)[0] == pytest.approx(0.4, abs=0.08)


def test_calibration_preserves_order_of_scores():
    calibration = fit_calibration(*overconfident(0))
    scores = np.linspace(0, 1, 5000, dtype=np.float32)
    after = calibrate(scores, calibration)
    assert (np.diff(after) >= 0).all()
    assert len(np.unique(after)) > 0.9 * len(scores)
    assert after.min() >= 0
    assert after.max() <= 1


def test_too_few_predictions_are_not_calibrated():
    truth, predictions = overconfident(0, 100)
    assert fit_calibration(truth, predictions) is None
    none_correct = (
        instances(np.array([[0.0, 1.0]]), [1.0]),
        instances(np.tile([5.0, 6.0], (500, 1)), np.linspace(0, 1, 500)),
    )
    assert fit_calibration(*none_correct) is None
    scores = np.array([0.3], np.float32)
    assert calibrate(scores, None) is scores


@pytest.mark.parametrize(
    ("scores", "probabilities", "message"),
    [
        ((0.0, 1.0), (0.0, 0.5, 1.0), "2 scores do not fit 3"),
        ((0.0, 0.0), (0.0, 1.0), "scores must ascend"),
        ((0.0, 1.0), (0.5, 0.2), "probabilities must"),
    ],
)
def test_invalid_calibration_is_refused(scores, probabilities, message):
    with pytest.raises(ValueError, match=message):
        Calibration(scores=scores, probabilities=probabilities)
