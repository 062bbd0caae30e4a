"""All that a picture is made of, as plain arrays: what engines render."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

SUPERSAMPLING = 2  # samples a pixel, along each side
SHADOW_SIZE = 192


@dataclass(frozen=True)
class Mesh:
    """Triangles that move with bones. Lengths in metres.

    Attributes:
        rest: (n, 3) float32 vertices at rest.
        template: (n, 3) float32, where each lies on the standard body.
        colours: (n, 3) float32 linear light, of things; a triangle has the colour of its first vertex.
        bones, weights: (n, 4) int32 and float32.
        faces: (triangles, 3) int32, counter-clockwise from outside.
        parts: (triangles,) int32, body.Part.
        closed: how many triangles, from the first, are only seen from their front.
        moved: (m,) int32 vertices that expressions move, `expressions` (e, m, 3) float32 by how much.
    """

    rest: Array
    template: Array
    colours: Array
    bones: Array
    weights: Array
    faces: Array
    parts: Array
    closed: int
    moved: Array
    expressions: Array


@dataclass(frozen=True)
class Shot:
    """One video before the camera's faults.

    Attributes:
        mesh: person, furniture and props.
        transforms: (frames, bones, 3, 4) float32, rest to world.
        expressions: (frames, e) float32 strengths.
        cameras: (frames, raster.CAMERA_SIZE) float32, in samples (see raster).
        light, dress, room, panels: vectors of raster, materials and room, float32.
        backdrop: (rows, columns, 3) float32 linear light, a picture on the back wall.
        height, width: of the picture in pixels.
    """

    mesh: Mesh
    transforms: Array
    expressions: Array
    cameras: Array
    light: Array
    dress: Array
    room: Array
    panels: Array
    backdrop: Array
    height: int
    width: int

    def __len__(self) -> int:
        return len(self.transforms)


def join(meshes: list[Mesh]) -> Mesh:
    """Several meshes as one; only the first may have closed triangles and expressions."""
    first = meshes[0]
    starts = np.cumsum([0, *(len(mesh.rest) for mesh in meshes[:-1])])
    return Mesh(
        rest=np.concatenate([mesh.rest for mesh in meshes]),
        template=np.concatenate([mesh.template for mesh in meshes]),
        colours=np.concatenate([mesh.colours for mesh in meshes]),
        bones=np.concatenate([mesh.bones for mesh in meshes]),
        weights=np.concatenate([mesh.weights for mesh in meshes]),
        faces=np.concatenate([mesh.faces + start for mesh, start in zip(meshes, starts, strict=True)]).astype(
            np.int32
        ),
        parts=np.concatenate([mesh.parts for mesh in meshes]),
        closed=first.closed,
        moved=first.moved,
        expressions=first.expressions,
    )
