"""Renders a shot on the processor, one frame after another; see raster.py for what a sample is."""

from collections.abc import Iterator

import numba as nb
import numpy as np

from training.people.raster import (
    bounds,
    closeness_at,
    doubled_area,
    encode,
    illuminate,
    key_of,
    project,
    ray_of,
    room_pixel,
    shade,
    to_shadow,
)
from training.people.shot import SHADOW_SIZE, SUPERSAMPLING, Array, Shot


def render(shot: Shot) -> Iterator[Array]:
    """Frames (height, width, 3) uint8 of a shot, in order."""
    mesh = shot.mesh
    rows, columns = shot.height * SUPERSAMPLING, shot.width * SUPERSAMPLING
    keys = np.zeros((rows, columns), np.int64)
    shadow = np.zeros((SHADOW_SIZE, SHADOW_SIZE), np.float32)
    count = len(mesh.rest)
    world, normals, points, cast = (np.zeros((count, 3), np.float32) for _ in range(4))
    shaped = mesh.rest.copy()
    scenery = np.zeros((shot.height, shot.width, 8), np.float32)
    surveyed = np.full_like(shot.cameras[0], np.nan)
    for frame in range(len(shot)):
        express(mesh.rest, mesh.moved, mesh.expressions, shot.expressions[frame], shaped)
        deform(shaped, mesh.bones, mesh.weights, shot.transforms[frame], world)
        compute_normals(world, mesh.faces, normals)
        see(world, shot.cameras[frame], points)
        cast_shadow(world, shot.light, cast)
        keys[:] = 0
        rasterise(points, mesh.faces, mesh.closed, keys)
        shadow[:] = 0
        rasterise_shadow(cast, mesh.faces, shadow)
        if not np.array_equal(surveyed, shot.cameras[frame]):  # the room stays while the camera does
            survey(shot.cameras[frame], shot.room, shot.panels, shot.backdrop, scenery)
            surveyed = shot.cameras[frame]
        picture = np.empty((shot.height, shot.width, 3), np.uint8)
        paint(
            keys, scenery, points, normals, mesh.template, mesh.colours, mesh.faces, mesh.parts, shadow,
            shot.cameras[frame], shot.light, shot.dress, shot.room, shot.panels, shot.backdrop, picture,
        )  # fmt: skip
        yield picture


@nb.njit(cache=True)
def express(rest, moved, expressions, strengths, shaped):
    """Move the vertices of the face."""
    for place in range(moved.shape[0]):
        vertex = moved[place]
        for axis in range(3):
            value = rest[vertex, axis]
            for unit in range(expressions.shape[0]):
                value += strengths[unit] * expressions[unit, place, axis]
            shaped[vertex, axis] = value


@nb.njit(cache=True)
def deform(rest, bones, weights, transforms, world):
    """Linear blend skinning: rest to world."""
    for vertex in range(rest.shape[0]):
        deform_vertex(rest, bones, weights, transforms, world, vertex)


@nb.njit(inline="always")
def deform_vertex(rest, bones, weights, transforms, world, vertex):
    """Of one vertex."""
    x, y, z = rest[vertex, 0], rest[vertex, 1], rest[vertex, 2]
    a, b, c = 0.0, 0.0, 0.0
    for slot in range(4):
        weight = weights[vertex, slot]
        if weight > 0.0:
            bone = bones[vertex, slot]
            a += weight * (transforms[bone, 0, 0] * x + transforms[bone, 0, 1] * y + transforms[bone, 0, 2] * z + transforms[bone, 0, 3])
            b += weight * (transforms[bone, 1, 0] * x + transforms[bone, 1, 1] * y + transforms[bone, 1, 2] * z + transforms[bone, 1, 3])
            c += weight * (transforms[bone, 2, 0] * x + transforms[bone, 2, 1] * y + transforms[bone, 2, 2] * z + transforms[bone, 2, 3])
    world[vertex, 0], world[vertex, 1], world[vertex, 2] = a, b, c


@nb.njit(cache=True)
def compute_normals(world, faces, normals):
    """Of vertices: the sum of their triangles' normals, by area, not of unit length."""
    normals[:] = 0.0
    for triangle in range(faces.shape[0]):
        a, b, c = faces[triangle, 0], faces[triangle, 1], faces[triangle, 2]
        ux, uy, uz = world[b, 0] - world[a, 0], world[b, 1] - world[a, 1], world[b, 2] - world[a, 2]
        vx, vy, vz = world[c, 0] - world[a, 0], world[c, 1] - world[a, 1], world[c, 2] - world[a, 2]
        x, y, z = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
        for corner in range(3):
            vertex = faces[triangle, corner]
            normals[vertex, 0] += x
            normals[vertex, 1] += y
            normals[vertex, 2] += z
    for vertex in range(normals.shape[0]):
        x, y, z = normals[vertex, 0], normals[vertex, 1], normals[vertex, 2]
        size = np.sqrt(x * x + y * y + z * z) + 1e-20
        normals[vertex, 0], normals[vertex, 1], normals[vertex, 2] = x / size, y / size, z / size


@nb.njit(cache=True)
def see(world, camera, points):
    """Vertices on the screen."""
    for vertex in range(world.shape[0]):
        column, row, closeness = project(camera, world[vertex, 0], world[vertex, 1], world[vertex, 2])
        points[vertex, 0], points[vertex, 1], points[vertex, 2] = column, row, closeness


@nb.njit(cache=True)
def cast_shadow(world, light, cast):
    """Vertices in the shadow map."""
    for vertex in range(world.shape[0]):
        column, row, closeness = to_shadow(light, world[vertex, 0], world[vertex, 1], world[vertex, 2])
        cast[vertex, 0], cast[vertex, 1], cast[vertex, 2] = column, row, closeness


@nb.njit(cache=True)
def rasterise(points, faces, closed, keys):
    """For every sample the key of the nearest triangle, 0 where there is none."""
    height, width = keys.shape
    for triangle in range(faces.shape[0]):
        a, b, c = faces[triangle, 0], faces[triangle, 1], faces[triangle, 2]
        area = doubled_area(points, a, b, c)
        if (area > -1e-9 and triangle < closed) or abs(area) < 1e-9:
            continue
        if points[a, 2] <= 0.0 or points[b, 2] <= 0.0 or points[c, 2] <= 0.0:
            continue
        left, right = bounds(min(points[a, 0], points[b, 0], points[c, 0]), max(points[a, 0], points[b, 0], points[c, 0]), width)
        top, bottom = bounds(min(points[a, 1], points[b, 1], points[c, 1]), max(points[a, 1], points[b, 1], points[c, 1]), height)
        for y in range(top, bottom + 1):
            for x in range(left, right + 1):
                closeness = closeness_at(points, a, b, c, area, x, y)
                if closeness > 0.0:
                    key = key_of(closeness, triangle)
                    if key > keys[y, x]:
                        keys[y, x] = key


@nb.njit(cache=True)
def rasterise_shadow(cast, faces, shadow):
    """For every sample of the shadow map how close to the light something stands."""
    height, width = shadow.shape
    for triangle in range(faces.shape[0]):
        a, b, c = faces[triangle, 0], faces[triangle, 1], faces[triangle, 2]
        area = doubled_area(cast, a, b, c)
        if abs(area) < 1e-9:
            continue
        left, right = bounds(min(cast[a, 0], cast[b, 0], cast[c, 0]), max(cast[a, 0], cast[b, 0], cast[c, 0]), width)
        top, bottom = bounds(min(cast[a, 1], cast[b, 1], cast[c, 1]), max(cast[a, 1], cast[b, 1], cast[c, 1]), height)
        for y in range(top, bottom + 1):
            for x in range(left, right + 1):
                closeness = closeness_at(cast, a, b, c, area, x, y)
                if closeness > shadow[y, x]:
                    shadow[y, x] = closeness


@nb.njit(cache=True)
def survey(camera, room, panels, backdrop, scenery):
    """The room alone, pixel by pixel, into scenery (rows, columns, 8)."""
    for row in range(scenery.shape[0]):
        for column in range(scenery.shape[1]):
            seen = room_pixel(camera, room, panels, backdrop, row, column, SUPERSAMPLING)
            for place in range(8):
                scenery[row, column, place] = seen[place]


@nb.njit(cache=True)
def paint(keys, scenery, points, normals, template, colours, faces, parts, shadow, camera, light, dress, room, panels, backdrop, picture):
    """Shade the pixels: those that see the room alone once, the others sample by sample."""
    side = SUPERSAMPLING
    share = 1.0 / (side * side)
    for row in range(picture.shape[0]):
        for column in range(picture.shape[1]):
            first = keys[row * side : row * side + side, column * side : column * side + side]
            red, green, blue = 0.0, 0.0, 0.0
            if first.max() == 0:
                here = scenery[row, column]
                rx, ry, rz = ray_of(camera, (column + 0.5) * side, (row + 0.5) * side)
                reds, greens, blues, shine = illuminate(
                    keys, shadow, camera, light, column * side, row * side, here[7], rx, ry, rz, here[3], here[4], here[5], here[6]
                )  # fmt: skip
                red, green, blue = here[0] * reds + shine, here[1] * greens + shine, here[2] * blues + shine
            else:
                for sample in range(side * side):
                    r, g, b = shade(
                        column * side + sample % side, row * side + sample // side, keys, points, normals, template,
                        colours, faces, parts, shadow, camera, light, dress, room, panels, backdrop,
                    )  # fmt: skip
                    red, green, blue = red + share * r, green + share * g, blue + share * b
            picture[row, column, 0] = int(encode(red))
            picture[row, column, 1] = int(encode(green))
            picture[row, column, 2] = int(encode(blue))
