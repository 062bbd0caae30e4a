"""How often a proposal is right, by its score: what makes scores readable as probabilities."""

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

from model.bundle import Calibration
from training.evaluate import match
from training.instances import Instances

Floats = NDArray[np.float64]
Booleans = NDArray[np.bool_]

TIOU = 0.5
_POINTS = 24
_LEAST_STEP = 1e-5  # between points, so that no two scores become one
_ENOUGH = 200  # predictions; of fewer nothing is learned
_BINS = 15


def right(truth: Instances, predictions: Instances) -> Booleans:
    """(predictions,): which take a ground truth at a tIoU of at least 0.5."""
    return np.asarray(match(truth, predictions, (TIOU,))[0])


def fit(truth: Instances, predictions: Instances) -> Calibration | None:
    """Isotonic regression of being right on the score (Zadrozny and Elkan, 2002); None where there is too little."""
    hits = right(truth, predictions)
    if len(hits) < _ENOUGH or not hits.any():
        return None
    order = np.argsort(predictions.scores, kind="stable")
    scores = predictions.scores[order]
    fitted = isotonic_regression(hits[order].astype(float)).x
    # A few points, denser where scores are high: there predictions are few, and looked at.
    places = np.unique((len(scores) - 1) * (1 - (1 - np.linspace(0, 1, _POINTS)) ** 3)).astype(int)
    knots = np.concatenate([[0.0], scores[places], [1.0]])
    values = np.concatenate([[0.0], fitted[places], [fitted[-1]]])
    knots, first = np.unique(knots, return_index=True)
    steps = _LEAST_STEP * np.arange(len(knots))
    probabilities = np.minimum(np.maximum.accumulate(values[first]), 1 - _LEAST_STEP * len(knots)) + steps
    return Calibration(scores=tuple(knots.tolist()), probabilities=tuple(probabilities.tolist()))


def expected_error(scores: Floats, hits: Booleans) -> float:
    """Expected calibration error: how far scores are from how often they are right, over bins of equal count."""
    if not len(scores):
        return 0.0
    order = np.argsort(scores, kind="stable")
    bins = np.array_split(order, min(_BINS, len(order)))
    gaps = [len(members) * abs(scores[members].mean() - hits[members].mean()) for members in bins]
    return float(np.sum(gaps) / len(order))
