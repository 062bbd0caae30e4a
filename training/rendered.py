"""Synthetic videos that are rendered while a network trains on them: as many as it takes, none for long.

There are `films` of them at a time. Each is drawn `uses` times, then another takes its place; they do so one after the
other, so that rendering goes on evenly. Which film an example shows follows from its number alone.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np

from model.taxonomy import Taxonomy
from training.dataset import Corpus, Item, rarity
from training.people.annotations import name_of
from training.people.film import JOINT_NAMES, VALIDATION_EVERY, VIDEOS_PER_PERSON, Recipe
from training.people.options import Storage, Subset
from training.people.studio import Order, make_video
from training.recipe import RenderConfig

_ROUND = VALIDATION_EVERY * VIDEOS_PER_PERSON  # so many films in a row show each subset's people once


@dataclass(frozen=True)
class Rendered:
    """Films in the place of a corpus.

    Attributes:
        config: what is rendered. folder: where films are kept as long as they are used, by what they are made of.
        taxonomy: of the labels.
    """

    config: RenderConfig
    folder: Path
    taxonomy: Taxonomy

    def draw(self, rng: np.random.Generator, number: int) -> Item:
        """The film of the example with this number, rendered now if nobody has yet; nothing is drawn at random."""
        turn, position = divmod(number, self.config.films)
        order = np.random.default_rng((self.config.seed, turn)).permutation(self.config.films)
        place = int(order[position])  # neighbours show the same person: not in one batch
        ahead = place * self.config.uses // self.config.films  # places change their films at different times
        generation = (turn + ahead) // self.config.uses
        for old in range(generation - 2, max(generation - 4, -1), -1):  # others may still read the last one
            self._forget(place + old * self.config.films)
        return self._item(film_number(place + generation * self.config.films, Subset.TRAIN))

    def count_joints(self) -> int:
        """How many joints sidecars have."""
        return len(JOINT_NAMES)

    def with_pictures(self) -> "Rendered":
        """See Source: all have some."""
        return self

    def digest(self) -> str:
        """Of the settings and the version that make them."""
        return hashlib.sha256(f"{self.config!r} {version('mmad')}".encode()).hexdigest()

    @property
    def place(self) -> Path:
        """The folder of the films of these settings."""
        return self.folder / self.digest()[:12]

    def held_out(self, watch: Callable[[int, int], None]) -> Corpus:
        """Films of people that training does not show, all rendered."""
        items = []
        for index in range(self.config.held_out):
            watch(index, self.config.held_out)
            items.append(self._item(film_number(index, Subset.VAL)))
        weights = rarity(items, len(self.taxonomy.actions), 0.0)
        return Corpus(tuple(items), weights / weights.sum())

    def _order(self) -> Order:
        config = self.config
        recipe = Recipe(config.seed, config.fps, config.height, config.width, config.mix, crop=config.crop)
        return Order(recipe, self.place, Storage.NPZ, videos=0)

    def _item(self, number: int) -> Item:
        name = name_of(number)
        path = self.place / "records" / f"{name}.json"
        if not path.exists():
            for part in ("frames", "sidecars", "records"):
                (self.place / part).mkdir(parents=True, exist_ok=True)
            make_video(self._order(), number)
        record = json.loads(path.read_text("utf-8"))
        actions = np.array(record["actions"], float).reshape(-1, 3)
        return Item(
            name, self.place / "frames" / f"{name}.npz", self.place / "sidecars" / f"{name}.npz",
            record["duration"], actions[:, 1:], actions[:, 0].astype(int),
        )  # fmt: skip

    def _forget(self, index: int) -> None:
        name = name_of(film_number(index, Subset.TRAIN))
        (self.place / "records" / f"{name}.json").unlink(missing_ok=True)  # what has one is whole
        for part in ("frames", "sidecars"):
            (self.place / part / f"{name}.npz").unlink(missing_ok=True)


def film_number(index: int, subset: Subset) -> int:
    """Of the films of a seed, the one that is so many-th in its subset, training or validation."""
    held_out = VIDEOS_PER_PERSON  # of a round, the last person's
    shown = _ROUND - held_out
    if subset is Subset.VAL:
        return index // held_out * _ROUND + shown + index % held_out
    return index // shown * _ROUND + index % shown
