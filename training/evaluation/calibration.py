"""Calibration of scores, so that they are the probability that a proposal is correct."""

import numpy as np
from scipy.optimize import isotonic_regression

from model.arrays import Booleans, Doubles
from model.bundle import Calibration
from training.evaluation.metrics import find_correct
from training.instances import Instances

_KNOTS = 24
_MIN_STEP = 1e-5  # between knots, so that the calibration is strictly increasing
_MIN_PREDICTIONS = 200  # nothing is fitted on fewer
_BINS = 15


def fit_calibration(truth: Instances, predictions: Instances) -> Calibration | None:
    """Fit isotonic regression of correctness on the score (Zadrozny and Elkan, 2002); None if too few are correct."""
    correct = find_correct(truth, predictions)
    if len(correct) < _MIN_PREDICTIONS or not correct.any():
        return None
    order = np.argsort(predictions.scores, kind="stable")
    scores = predictions.scores[order]
    fitted = isotonic_regression(correct[order].astype(float)).x
    # Few knots, denser at high scores: predictions are rare there, and are the ones displayed.
    positions = np.unique((len(scores) - 1) * (1 - (1 - np.linspace(0, 1, _KNOTS)) ** 3)).astype(int)
    knots = np.concatenate([[0.0], scores[positions], [1.0]])
    values = np.concatenate([[0.0], fitted[positions], [fitted[-1]]])
    knots, first = np.unique(knots, return_index=True)
    steps = _MIN_STEP * np.arange(len(knots))
    probabilities = np.minimum(np.maximum.accumulate(values[first]), 1 - _MIN_STEP * len(knots)) + steps
    return Calibration(scores=tuple(knots.tolist()), probabilities=tuple(probabilities.tolist()))


def expected_calibration_error(scores: Doubles, correct: Booleans) -> float:
    """Return the mean distance between score and precision, over bins of equal count."""
    if not len(scores):
        return 0.0
    order = np.argsort(scores, kind="stable")
    bins = np.array_split(order, min(_BINS, len(order)))
    gaps = [len(members) * abs(scores[members].mean() - correct[members].mean()) for members in bins]
    return float(np.sum(gaps) / len(order))
