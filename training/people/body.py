"""The body model: rest shape, skeleton and skin weights of every person, from a small linear model on disk."""

from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from pathlib import Path

import numpy as np

from model.arrays import Array

CACHE = Path(__file__).with_name("body.npz")


class Part(IntEnum):
    """Body part or object that a triangle belongs to; selects its material."""

    SKIN = 0  # head and hands
    TIGHTS = 1  # the rest of the body, bare or clothed
    EYE = 2
    HAIR = 3  # long hair
    PROP = 4  # furniture and props, one colour each


@dataclass(frozen=True)
class Anatomy:
    """The body model shared by all people.

    Lengths in metres; z is up, a person faces -y, and +x is the person's left.

    Attributes:
        faces: (triangles, 3) vertex indices, counter-clockwise seen from outside.
        parts: (triangles,) Part.
        template: (n, 3) vertices of the standard body; gives a vertex the same coordinates for every person.
        bones, weights: (n, 4) bones that move a vertex, and their skinning weights.
        names: of the bones.
        index: bone name -> index.
        parents: (bones,) index of each bone's parent, -1 for the root; parents precede children.
        expressions: name -> (n, 3) displacement at full strength.
        phenotypes: (people, 3) gender (0 male, 1 female), age (0.67 young to 1 old), weight (0 to 1).
    """

    faces: Array
    parts: Array
    template: Array
    bones: Array
    weights: Array
    names: tuple[str, ...]
    index: dict[str, int]
    parents: Array
    expressions: dict[str, Array]
    phenotypes: Array
    _mean: Array
    _basis: Array
    _scores: Array

    @property
    def people(self) -> int:
        """Number of bodies."""
        return len(self._scores)

    def rest(self, person: int) -> tuple[Array, Array]:
        """Return vertices (n, 3) and bone heads (bones, 3) of a person in the rest pose (standing)."""
        # Not a matrix product: its rounding depends on the number of threads.
        values = (self._mean + np.einsum("c,cv->v", self._scores[person], self._basis)).reshape(-1, 3)
        return values[: len(self.template)], values[len(self.template) :]

    def nearest(self, position: tuple[float, float, float]) -> int:
        """Return the index of the skin or clothing vertex nearest to a point on the standard body."""
        far = np.square(self.template - np.array(position)).sum(axis=1)
        far[np.unique(self.faces[self.parts > Part.TIGHTS])] = np.inf
        return int(far.argmin())


@cache
def load_anatomy(path: Path = CACHE) -> Anatomy:
    """Load the shipped body model, or one written by `mmad synth --cache`."""
    with np.load(path, allow_pickle=False) as file:
        stored = dict(file)
    names = tuple(str(name) for name in stored["bone_names"])
    basis = stored["basis"] * stored["basis_scale"][:, None]
    expressions = stored["expressions"] * stored["expressions_scale"][:, None, None]
    weights = stored["weights"].astype(np.float32)
    return Anatomy(
        faces=stored["faces"].astype(np.int32),
        parts=stored["parts"].astype(np.int32),
        template=stored["template"],
        bones=stored["bones"].astype(np.int32),
        weights=weights / weights.sum(axis=1, keepdims=True),
        names=names,
        index={name: index for index, name in enumerate(names)},
        parents=stored["bone_parents"],
        expressions=dict(zip(stored["expression_names"].tolist(), expressions, strict=True)),
        phenotypes=stored["phenotypes"].astype(np.float64),
        _mean=stored["mean"],
        _basis=basis.astype(np.float32),
        _scores=stored["scores"].astype(np.float32),
    )
