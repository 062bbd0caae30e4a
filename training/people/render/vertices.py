"""Vertex arithmetic shared by the CPU and CUDA renderers: expressions, skinning, normals. Lengths in metres."""

import math

import numba as nb


@nb.njit(inline="always")
def express_vertex(rest, expressions, strengths, vertex, place):
    """Return a face vertex in the rest pose with expressions applied.

    Args:
        rest: (n, 3). expressions: (e, m, 3). strengths: (e,).
        vertex: index into the n vertices.
        place: index into the m moved vertices.
    """
    x, y, z = rest[vertex, 0], rest[vertex, 1], rest[vertex, 2]
    for unit in range(expressions.shape[0]):
        x += strengths[unit] * expressions[unit, place, 0]
        y += strengths[unit] * expressions[unit, place, 1]
        z += strengths[unit] * expressions[unit, place, 2]
    return x, y, z


@nb.njit(inline="always")
def deform_vertex(x, y, z, bones, weights, transforms, vertex):
    """Transform a vertex to the world (linear blend skinning).

    Args:
        x, y, z: the vertex in the rest pose.
        bones, weights: (n, 4).
        transforms: (bones, 3, 4).
        vertex: index into the n vertices.
    """
    a, b, c = 0.0, 0.0, 0.0
    for slot in range(4):
        weight = weights[vertex, slot]
        if weight > 0.0:
            bone = bones[vertex, slot]
            a += weight * (
                transforms[bone, 0, 0] * x
                + transforms[bone, 0, 1] * y
                + transforms[bone, 0, 2] * z
                + transforms[bone, 0, 3]
            )
            b += weight * (
                transforms[bone, 1, 0] * x
                + transforms[bone, 1, 1] * y
                + transforms[bone, 1, 2] * z
                + transforms[bone, 1, 3]
            )
            c += weight * (
                transforms[bone, 2, 0] * x
                + transforms[bone, 2, 1] * y
                + transforms[bone, 2, 2] * z
                + transforms[bone, 2, 3]
            )
    return a, b, c


@nb.njit(inline="always")
def triangle_normal(world, a, b, c):
    """Return the outward normal of a triangle; its length is twice the area."""
    ux, uy, uz = world[b, 0] - world[a, 0], world[b, 1] - world[a, 1], world[b, 2] - world[a, 2]
    vx, vy, vz = world[c, 0] - world[a, 0], world[c, 1] - world[a, 1], world[c, 2] - world[a, 2]
    return uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx


@nb.njit(inline="always")
def to_unit(x, y, z):
    """Scale a vector to length 1; a zero vector stays zero."""
    size = math.sqrt(x * x + y * y + z * z) + 1e-20
    return x / size, y / size, z / size
