"""Collision surface of trunk, head and legs: sampled points with normals, used to push hands and arms out."""

from dataclasses import dataclass

import numpy as np

from model.arrays import Array
from training.people.body import Anatomy, Part
from training.people.render.cpu import compute_normals

_SPACING_M = 0.07  # between points; 0.6 of it on the head
_REACH_M = 0.035  # over which neighbouring points are averaged
_FAR_M = 0.16  # points farther than this from the surface are never inside
_ARMS = ("upperarm", "lowerarm", "wrist", "finger", "metacarpal", "toe", "shoulder")


@dataclass
class PosedSurface:
    """The surface posed in every frame.

    Attributes:
        points, normals: (frames, 3, n) float32.
    """

    points: Array
    normals: Array

    def __post_init__(self) -> None:
        """Precompute (frames, 1, n) terms that all queries share."""
        self._squares = np.einsum("fcn,fcn->fn", self.points, self.points)[:, None]
        self._heights = np.einsum("fcn,fcn->fn", self.points, self.normals)[:, None]

    def signed_distance(self, points: Array) -> tuple[Array, Array]:
        """Return signed distances (frames, q) of points (frames, q, 3), negative inside, and unit vectors outwards.

        Distances to the tangent planes of nearby surface points are averaged with smooth weights (moving least
        squares), so that they change continuously.
        """
        queries = points.astype(np.float32)
        squared = np.square(queries).sum(-1, keepdims=True) - 2 * (queries @ self.points) + self._squares
        nearest = squared.min(axis=-1, keepdims=True)
        weights = np.exp((nearest - squared) / (2 * _REACH_M**2))
        weights /= weights.sum(axis=-1, keepdims=True)
        heights = queries @ self.normals - self._heights
        distance = np.einsum("fqn,fqn->fq", weights, heights)
        way = weights @ self.normals.transpose(0, 2, 1)
        way /= np.maximum(np.linalg.norm(way, axis=-1, keepdims=True), 1e-6)
        return np.where(nearest[..., 0] > _FAR_M**2, np.inf, distance), way

    def push_out(self, points: Array, radii: Array) -> Array:
        """Return shifts (frames, q, 3) that move spheres at points (frames, q, 3) of radii (q,) out of the surface."""
        distance, way = self.signed_distance(points)
        return np.asarray(np.maximum(radii - distance, 0)[..., None] * way, float)


class Surface:
    """The surface of one person in the rest pose."""

    def __init__(self, anatomy: Anatomy, vertices: Array) -> None:
        """Args:
        anatomy: the body model.
        vertices: (n, 3) of the person in the rest pose, clothes included.
        """  # fmt: skip
        chosen, self.bones, self._weights = _sample_vertices(anatomy)
        normals = np.zeros(vertices.shape, np.float32)
        compute_normals(vertices.astype(np.float32), anatomy.faces[anatomy.parts <= Part.TIGHTS], normals)
        self._points, self._normals = vertices[chosen].astype(np.float32), normals[chosen]

    def pose(self, rotations: Array, positions: Array, heads: Array) -> PosedSurface:
        """Pose the surface.

        Args:
            rotations, positions: (frames, bones, 3, 3) and (frames, bones, 3) of `bones`.
            heads: (bones, 3) their heads in the rest pose.
        """
        shift = positions - (rotations @ heads[:, :, None])[..., 0]
        moves = np.concatenate([rotations.reshape(*rotations.shape[:2], 9), shift], -1).astype(np.float32)
        blended = self._weights @ moves
        turn = blended[..., :9].reshape(*blended.shape[:2], 3, 3)
        points = np.einsum("fnij,nj->fin", turn, self._points) + blended[..., 9:].transpose(0, 2, 1)
        normals = np.einsum("fnij,nj->fin", turn, self._normals)
        return PosedSurface(points, normals / np.linalg.norm(normals, axis=1, keepdims=True))


def _sample_vertices(anatomy: Anatomy) -> tuple[Array, tuple[int, ...], Array]:
    """Select evenly spaced vertices (n,); return them, the bones that move them and skinning weights (n, bones)."""
    used = np.unique(anatomy.faces[anatomy.parts <= Part.TIGHTS])
    arms = np.array([name.startswith(_ARMS) for name in anatomy.names])
    used = used[~arms[anatomy.bones[used, 0]]]
    spacing = np.where(anatomy.template[used, 2:] > 0.59, 0.6 * _SPACING_M, _SPACING_M)
    voxels = np.floor(anatomy.template[used] / spacing)
    # Take the vertex nearest to the centre of each voxel.
    away = np.square(anatomy.template[used] / spacing - voxels - 0.5).sum(axis=1)
    order = np.argsort(away, kind="stable")
    _, first = np.unique(voxels[order], axis=0, return_index=True)
    chosen = used[order[np.sort(first)]]
    bones = tuple(int(bone) for bone in np.unique(anatomy.bones[chosen]) if not arms[bone])
    weights = np.zeros((len(chosen), len(anatomy.names)), np.float32)
    for column in range(4):
        np.add.at(weights, (np.arange(len(chosen)), anatomy.bones[chosen, column]), anatomy.weights[chosen, column])
    weights = weights[:, list(bones)]
    return chosen, bones, weights / weights.sum(axis=1, keepdims=True)
