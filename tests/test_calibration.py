"""Scores that can be read as probabilities."""

import numpy as np
import pytest

from model.bundle import Calibration
from model.segments import calibrate
from training.evaluation.calibration import expected_calibration_error, find_correct, fit_calibration
from training.instances import Instances


def instances(segments, scores) -> Instances:
    """A hundred to a video: matching takes the square of their number."""
    count = len(segments)
    video = np.arange(count) // 100
    names = tuple(map(str, range(video[-1] + 1)))
    return Instances(
        names, np.full(len(names), 1e5), video, np.array(segments, float), np.zeros(count, int), np.array(scores, float)
    )


def overconfident(seed: int, count: int = 3000) -> tuple[Instances, Instances]:
    """Predictions that are right half as often as they say."""
    rng = np.random.default_rng(seed)
    starts = 10.0 * np.arange(count)
    scores = rng.uniform(0, 1, count)
    hits = rng.random(count) < 0.5 * scores
    there = np.stack([starts, starts + 4], 1)
    away = there + 5
    return instances(there, np.ones(count)), instances(np.where(hits[:, None], there, away), scores)


def test_scores_become_how_often_they_are_right():
    calibration = fit_calibration(*overconfident(0))
    truth, found = overconfident(1)
    hits = find_correct(truth, found)
    after = calibrate(found.scores.astype(np.float32), calibration)
    assert expected_calibration_error(found.scores, hits) > 0.2
    assert expected_calibration_error(after, hits) < 0.05
    assert calibrate(np.array([0.8], np.float32), calibration)[0] == pytest.approx(0.4, abs=0.08)


def test_the_order_of_predictions_stays():
    calibration = fit_calibration(*overconfident(0))
    scores = np.linspace(0, 1, 5000, dtype=np.float32)
    after = calibrate(scores, calibration)
    assert (np.diff(after) >= 0).all()
    assert len(np.unique(after)) > 0.9 * len(scores)
    assert after.min() >= 0
    assert after.max() <= 1


def test_too_little_is_not_calibrated():
    truth, found = overconfident(0, 100)
    assert fit_calibration(truth, found) is None
    none_right = (
        instances(np.array([[0.0, 1.0]]), [1.0]),
        instances(np.tile([5.0, 6.0], (500, 1)), np.linspace(0, 1, 500)),
    )
    assert fit_calibration(*none_right) is None
    scores = np.array([0.3], np.float32)
    assert calibrate(scores, None) is scores


@pytest.mark.parametrize(
    ("scores", "probabilities", "words"),
    [
        ((0.0, 1.0), (0.0, 0.5, 1.0), "2 scores do not fit 3"),
        ((0.0, 0.0), (0.0, 1.0), "scores must ascend"),
        ((0.0, 1.0), (0.5, 0.2), "probabilities must"),
    ],
)
def test_calibrations_that_would_mix_up_the_order_are_refused(scores, probabilities, words):
    with pytest.raises(ValueError, match=words):
        Calibration(scores=scores, probabilities=probabilities)
