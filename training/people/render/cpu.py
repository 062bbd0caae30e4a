"""Render a shot on the CPU, frame by frame."""

from collections.abc import Iterator

import numpy as np

from training.people.render.compiled import kernel
from training.people.render.pixels import encode, paint_room, paint_samples, room_pixel, sees_room
from training.people.render.raster import closeness_at, doubled_area, extent, is_drawn, make_key, project, to_shadow
from training.people.render.shot import SHADOW_SIZE, SUPERSAMPLING, Array, Shot
from training.people.render.vertices import deform_vertex, express_vertex, to_unit, triangle_normal


def render(shot: Shot) -> Iterator[Array]:
    """Yield the frames (height, width, 3) uint8 of a shot in order."""
    mesh = shot.mesh
    rows, columns = shot.height * SUPERSAMPLING, shot.width * SUPERSAMPLING
    keys = np.zeros((rows, columns), np.int64)
    shadow = np.zeros((SHADOW_SIZE, SHADOW_SIZE), np.float32)
    count = len(mesh.rest)
    world, normals, points, cast = (np.zeros((count, 3), np.float32) for _ in range(4))
    shaped = mesh.rest.copy()
    scenery = np.zeros((shot.height, shot.width, 8), np.float32)
    for frame in range(len(shot)):
        camera = shot.cameras[frame]
        express(mesh.rest, mesh.moved, mesh.expressions, shot.expressions[frame], shaped)
        deform(shaped, mesh.bones, mesh.weights, shot.transforms[frame], world)
        compute_normals(world, mesh.faces, normals)
        see(world, camera, points)
        cast_shadow(world, shot.light, cast)
        keys[:] = 0
        rasterise(points, mesh.faces, mesh.closed, keys)
        shadow[:] = 0
        rasterise_shadow(cast, mesh.faces, shadow)
        if frame > 0 and not np.array_equal(camera, shot.cameras[frame - 1]):
            scenery[:] = 0  # the room is cached while the camera stands still
        survey(keys, camera, shot.room, shot.panels, shot.backdrop, scenery)
        picture = np.empty((shot.height, shot.width, 3), np.uint8)
        paint(
            keys, find_bounding_box(keys), shadow, find_bounding_box(shadow), scenery, points, normals,
            mesh.template, mesh.colours, mesh.faces, mesh.parts,
            camera, shot.light, shot.dress, shot.room, shot.panels, shot.backdrop, picture,
        )  # fmt: skip
        yield picture


@kernel
def express(rest, moved, expressions, strengths, shaped):
    """Apply expressions to the vertices of the face."""
    for place in range(moved.shape[0]):
        vertex = moved[place]
        shaped[vertex, 0], shaped[vertex, 1], shaped[vertex, 2] = express_vertex(
            rest, expressions, strengths, vertex, place
        )


@kernel
def deform(rest, bones, weights, transforms, world):
    """Transform vertices from the rest pose to the world (linear blend skinning)."""
    for vertex in range(rest.shape[0]):
        world[vertex, 0], world[vertex, 1], world[vertex, 2] = deform_vertex(
            rest[vertex, 0], rest[vertex, 1], rest[vertex, 2], bones, weights, transforms, vertex
        )


@kernel
def compute_normals(world, faces, normals):
    """Compute unit vertex normals: the area-weighted mean of the normals of adjacent triangles."""
    normals[:] = 0.0
    for triangle in range(faces.shape[0]):
        a, b, c = faces[triangle, 0], faces[triangle, 1], faces[triangle, 2]
        x, y, z = triangle_normal(world, a, b, c)
        for vertex in (a, b, c):
            normals[vertex, 0] += x
            normals[vertex, 1] += y
            normals[vertex, 2] += z
    for vertex in range(normals.shape[0]):
        normals[vertex, 0], normals[vertex, 1], normals[vertex, 2] = to_unit(
            normals[vertex, 0], normals[vertex, 1], normals[vertex, 2]
        )


@kernel
def see(world, camera, points):
    """Project vertices to the screen."""
    for vertex in range(world.shape[0]):
        points[vertex, 0], points[vertex, 1], points[vertex, 2] = project(
            camera, world[vertex, 0], world[vertex, 1], world[vertex, 2]
        )


@kernel
def cast_shadow(world, light, cast):
    """Project vertices to the shadow map."""
    for vertex in range(world.shape[0]):
        cast[vertex, 0], cast[vertex, 1], cast[vertex, 2] = to_shadow(
            light, world[vertex, 0], world[vertex, 1], world[vertex, 2]
        )


@kernel
def rasterise(points, faces, closed, keys):
    """Write the key of the nearest triangle to every sample; samples without a triangle keep 0."""
    height, width = keys.shape
    for triangle in range(faces.shape[0]):
        a, b, c = faces[triangle, 0], faces[triangle, 1], faces[triangle, 2]
        area = doubled_area(points, a, b, c)
        if not is_drawn(points, a, b, c, area, triangle < closed):
            continue
        share = 1.0 / area
        left, right, top, bottom = extent(points, a, b, c, height, width)
        for y in range(top, bottom + 1):
            for x in range(left, right + 1):
                closeness = closeness_at(points, a, b, c, share, x, y)
                if closeness > 0.0:
                    keys[y, x] = max(keys[y, x], make_key(closeness, triangle))


@kernel
def rasterise_shadow(cast, faces, shadow):
    """Write the greatest closeness to the light, in metres, to every shadow map sample; 0 if empty."""
    height, width = shadow.shape
    for triangle in range(faces.shape[0]):
        a, b, c = faces[triangle, 0], faces[triangle, 1], faces[triangle, 2]
        area = doubled_area(cast, a, b, c)
        if not is_drawn(cast, a, b, c, area, False):
            continue
        share = 1.0 / area
        left, right, top, bottom = extent(cast, a, b, c, height, width)
        for y in range(top, bottom + 1):
            for x in range(left, right + 1):
                closeness = closeness_at(cast, a, b, c, share, x, y)
                if closeness > shadow[y, x]:
                    shadow[y, x] = closeness


@kernel
def find_bounding_box(values):
    """Return first and last column, first and last row of non-zero values; an inverted box if there are none."""
    height, width = values.shape
    left, right, top, bottom = width, -1, height, -1
    for y in range(height):
        first, last = 0, width - 1
        while first < width and values[y, first] == 0:
            first += 1
        if first == width:
            continue
        while values[y, last] == 0:
            last -= 1
        left, right, top, bottom = min(left, first), max(right, last), min(top, y), y
    return left, right, top, bottom


@kernel
def survey(keys, camera, room, panels, backdrop, scenery):
    """Fill scenery (rows, columns, 8) with room_pixel for pixels that see only the room and are not yet cached."""
    for row in range(scenery.shape[0]):
        for column in range(scenery.shape[1]):
            if scenery[row, column, 7] == 0.0 and sees_room(keys, row, column):
                seen = room_pixel(camera, room, panels, backdrop, row, column)
                for place in range(8):
                    scenery[row, column, place] = seen[place]


@kernel
def paint(
    keys, box, shadow, cast_box, scenery, points, normals, template, colours, faces, parts,
    camera, light, dress, room, panels, backdrop, picture,
):  # fmt: skip
    """Shade all pixels: once per pixel if it sees only the room, else per sample."""
    for row in range(picture.shape[0]):
        for column in range(picture.shape[1]):
            if sees_room(keys, row, column):
                seen = (
                    scenery[row, column, 0], scenery[row, column, 1], scenery[row, column, 2], scenery[row, column, 3],
                    scenery[row, column, 4], scenery[row, column, 5], scenery[row, column, 6], scenery[row, column, 7],
                )  # fmt: skip
                red, green, blue = paint_room(seen, keys, box, shadow, cast_box, camera, light, row, column)
            else:
                red, green, blue = paint_samples(
                    keys, box, shadow, cast_box, points, normals, template, colours, faces, parts,
                    camera, light, dress, room, panels, backdrop, row, column,
                )  # fmt: skip
            picture[row, column, 0] = int(encode(red))
            picture[row, column, 1] = int(encode(green))
            picture[row, column, 2] = int(encode(blue))
