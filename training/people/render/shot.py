"""The input of the renderers: a scene, animated over the frames of a video, as plain arrays."""

from dataclasses import dataclass

import numpy as np

from model.arrays import Array

SUPERSAMPLING = 2  # samples per pixel, along each side
SHADOW_SIZE = 192


@dataclass(frozen=True)
class Mesh:
    """Triangles skinned to bones. Lengths in metres.

    Attributes:
        rest: (n, 3) float32 vertices in the rest pose.
        template: (n, 3) float32 positions on the standard body.
        colours: (n, 3) float32 linear light, used for props; a triangle has the colour of its first vertex.
        bones, weights: (n, 4) int32 and float32.
        faces: (triangles, 3) int32, counter-clockwise seen from outside.
        parts: (triangles,) int32, body.Part.
        closed: number of leading triangles that belong to closed surfaces: their back faces are culled.
        moved: (m,) int32 vertices that expressions move.
        expressions: (e, m, 3) float32 displacements of these vertices at full strength.
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
    """One video to render, before camera effects.

    Attributes:
        mesh: person, furniture and props.
        transforms: (frames, bones, 3, 4) float32, rest pose to world.
        expressions: (frames, e) float32 strengths.
        cameras: (frames, raster.CAMERA_SIZE) float32, see raster.py; lengths in samples.
        light, dress, room, panels: float32 parameter arrays; layouts in raster.py, materials.py and room.py.
        backdrop: (rows, columns, 3) float32 linear light, an image on the back wall.
        height, width: of a frame in pixels.
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
    """Join meshes into one; only the first may have closed triangles and expressions."""
    first = meshes[0]
    starts = np.cumsum([0, *(len(mesh.rest) for mesh in meshes[:-1])])
    return Mesh(
        rest=np.concatenate([mesh.rest for mesh in meshes]),
        template=np.concatenate([mesh.template for mesh in meshes]),
        colours=np.concatenate([mesh.colours for mesh in meshes]),
        bones=np.concatenate([mesh.bones for mesh in meshes]),
        weights=np.concatenate([mesh.weights for mesh in meshes]),
        faces=np.concatenate([mesh.faces + start for mesh, start in zip(meshes, starts, strict=True)]).astype(np.int32),
        parts=np.concatenate([mesh.parts for mesh in meshes]),
        closed=first.closed,
        moved=first.moved,
        expressions=first.expressions,
    )
