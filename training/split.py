"""Split annotated videos into training and held-out videos, for early stopping and evaluation."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from training.dataset import Sample
from training.files import NameIndex, decode

_NO_ACTION = -1  # class of videos without actions


class SplitError(Exception):
    """Raised for videos that cannot be split as requested."""


def split(samples: Sequence[Sample], share: float, seed: int) -> tuple[list[Sample], list[Sample]]:
    """Split videos so that actions in two or more videos occur on both sides, as far as possible.

    Videos are held out greedily: of those that leave a training example of every action, the one is chosen that has
    the most actions with too few held-out videos, and the fewest with enough, weighted by rarity; ties at random.
    Returns training videos and `share` of the videos (at least one) to hold out, each in the given order.
    """
    if len(samples) < 2:
        raise SplitError(f"{len(samples)} annotated video: at least two are needed, one to train on, one held out")
    classes = [frozenset(sample.labels.tolist()) or frozenset({_NO_ACTION}) for sample in samples]
    count = min(max(round(share * len(samples)), 1), len(samples) - 1)
    remaining = dict.fromkeys(np.random.default_rng(seed).permutation(len(samples)).tolist())
    total = Counter(label for video in classes for label in video)
    missing = {label: max(share * number, 1.0) if number > 1 else 0.0 for label, number in total.items()}
    training = dict(total)

    def rate(index: int) -> tuple[int, float]:
        lost = sum(training[label] == 1 for label in classes[index])
        gains = {label: min(missing[label], 1.0) if missing[label] > 0 else -1.0 for label in classes[index]}
        return -lost, sum(gain / total[label] for label, gain in gains.items())

    held: set[int] = set()
    while len(held) < count:
        chosen = max(remaining, key=rate)
        del remaining[chosen]
        held.add(chosen)
        for label in classes[chosen]:
            training[label] -= 1
            missing[label] -= 1
    return [samples[index] for index in sorted(remaining)], [samples[index] for index in sorted(held)]


def split_by_list(samples: Sequence[Sample], listed: Path) -> tuple[list[Sample], list[Sample]]:
    """Hold out the videos listed in a file, one name per line, with or without ending. Raises SplitError."""
    known = NameIndex((name, sample.name) for sample in samples for name in (sample.name, sample.path.name))
    held: set[str] = set()
    for number, line in enumerate(decode(listed.read_bytes()).splitlines(), 1):
        if name := line.strip():
            if (match := known.find(name)) is None:
                raise SplitError(
                    f"{listed}: line {number}: {name!r} is no annotated video; the first is {samples[0].name!r}"
                )
            held.add(match)
    if not 0 < len(held) < len(samples):
        raise SplitError(
            f"{listed} holds out {len(held)} of {len(samples)} annotated videos: one at least must be on either side"
        )
    training = [sample for sample in samples if sample.name not in held]
    return training, [sample for sample in samples if sample.name in held]
