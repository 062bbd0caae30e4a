"""Which annotated videos are held out from training, to tell when to stop and what the result is worth."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from training.dataset import Item
from training.files import Names, decode

_NOTHING = -1  # stands for the class of videos without any action


class SplitError(Exception):
    """Videos that cannot be divided as asked."""


def split(items: Sequence[Item], share: float, seed: int) -> tuple[list[Item], list[Item]]:
    """Divide by video, so that actions of two videos or more are on both sides as far as that is possible.

    One video after the other is held out: of those that leave every action an example to train on, the one with most
    actions that too few held out videos have yet, and fewest that enough have, rare ones first; the seed decides
    between equals.

    Args:
        items: at least two videos.
        share: of the videos that is held out, above 0 and below 1; one at least.
        seed: same seed, same parts.

    Returns:
        Videos to train on and videos held out, each in the order given.

    Raises:
        SplitError: there are fewer than two videos.
    """
    if len(items) < 2:
        raise SplitError(
            f"{len(items)} annotated video: at least two are needed, one to train on, one held out"
        )
    kinds = [frozenset(item.labels.tolist()) or frozenset({_NOTHING}) for item in items]
    count = min(max(round(share * len(items)), 1), len(items) - 1)
    left = dict.fromkeys(np.random.default_rng(seed).permutation(len(items)).tolist())
    total = _count(kinds)
    wanted = {kind: max(share * number, 1.0) if number > 1 else 0.0 for kind, number in total.items()}
    training = dict(total)

    def merit(index: int) -> tuple[int, float]:
        lost = sum(training[kind] == 1 for kind in kinds[index])
        gains = {kind: min(wanted[kind], 1.0) if wanted[kind] > 0 else -1.0 for kind in kinds[index]}
        return -lost, sum(gain / total[kind] for kind, gain in gains.items())

    held: set[int] = set()
    while len(held) < count:
        chosen = max(left, key=merit)
        del left[chosen]
        held.add(chosen)
        for kind in kinds[chosen]:
            training[kind] -= 1
            wanted[kind] -= 1
    return [items[index] for index in sorted(left)], [items[index] for index in sorted(held)]


def _count(kinds: Sequence[frozenset[int]]) -> dict[int, int]:
    """How many videos have each action."""
    return dict(Counter(kind for mine in kinds for kind in mine))


def divide(items: Sequence[Item], listed: Path) -> tuple[list[Item], list[Item]]:
    """Divide by a file that names a video to hold out on every line, with or without its ending.

    Raises:
        SplitError: the file names a video that is not annotated, or leaves nothing on one side.
    """
    known = Names((name, item.name) for item in items for name in (item.name, item.path.name))
    held: set[str] = set()
    for number, line in enumerate(decode(listed.read_bytes()).splitlines(), 1):
        if name := line.strip():
            if (found := known.find(name)) is None:
                raise SplitError(
                    f"{listed}: line {number}: {name!r} is no annotated video; the first is {items[0].name!r}"
                )
            held.add(found.name)
    if not 0 < len(held) < len(items):
        raise SplitError(
            f"{listed} holds out {len(held)} of {len(items)} annotated videos: one at least must be on either side"
        )
    return [item for item in items if item.name not in held], [item for item in items if item.name in held]
