"""Render a shot on a CUDA device, many frames at once, with the arithmetic of cpu.py.

Frames stay in device memory; `torch.as_tensor(renderer.render(0, 16), device="cuda")` shares it without a copy.
"""

from typing import Any

import numpy as np
from numba import cuda

from training.people.render.pixels import encode, paint_room, paint_samples, room_pixel, sees_room
from training.people.render.raster import closeness_at, doubled_area, extent, is_drawn, make_key, project, to_shadow
from training.people.render.shot import SHADOW_SIZE, SUPERSAMPLING, Array, Shot
from training.people.render.vertices import deform_vertex, express_vertex, to_unit, triangle_normal

_THREADS = 128  # per block, along vertices, triangles or pixels of one frame
_CLEAR_THREADS = 1024  # per frame, to clear its buffers


class Renderer:
    """Renders the frames of one shot on a CUDA device.

    A frame of 160 x 160 pixels needs about 1.6 MB of device memory while it is rendered.

    Args:
        shot: what to render. Unlike on the CPU, a static camera is no faster than a moving one.
        at_once: frames per batch.
        stream: CUDA stream on which work is queued, for instance
            `numba.cuda.external_stream(torch_stream.cuda_stream)`; by default the default stream, as in PyTorch.

    Raises:
        ValueError: at_once is not positive.
    """

    def __init__(self, shot: Shot, at_once: int = 64, stream: Any = 0) -> None:
        if at_once < 1:
            raise ValueError(f"at_once is {at_once}, at least 1 frame has to be rendered at a time")
        self.shot = shot
        self._stream = stream
        mesh = shot.mesh
        places = np.full(len(mesh.rest), -1, np.int32)
        places[mesh.moved] = np.arange(len(mesh.moved), dtype=np.int32)
        self._rest, self._template, self._colours = self._send(mesh.rest, mesh.template, mesh.colours)
        self._bones, self._weights, self._faces, self._parts = self._send(
            mesh.bones, mesh.weights, mesh.faces, mesh.parts
        )
        self._places, self._expressions = self._send(places, mesh.expressions)
        self._transforms, self._strengths, self._cameras = self._send(shot.transforms, shot.expressions, shot.cameras)
        self._scene = self._send(shot.light, shot.dress, shot.room, shot.panels, shot.backdrop)
        frames, vertices = min(at_once, len(shot)), len(mesh.rest)
        self._world, self._normals, self._points, self._cast = (
            cuda.device_array((frames, vertices, 3), np.float32, stream=stream) for _ in range(4)
        )
        samples = (frames, shot.height * SUPERSAMPLING, shot.width * SUPERSAMPLING)
        self._keys = cuda.device_array(samples, np.int64, stream=stream)
        self._shadow = cuda.device_array((frames, SHADOW_SIZE, SHADOW_SIZE), np.float32, stream=stream)

    def _send(self, *arrays: Array) -> list[Any]:
        """Copy arrays to the device; an empty array is replaced by a single 0, which no thread reads."""
        filled = (array if array.size else np.zeros((1,) * array.ndim, array.dtype) for array in arrays)
        return [cuda.to_device(np.ascontiguousarray(array), stream=self._stream) for array in filled]

    def render(self, first: int = 0, last: int | None = None, out: Any = None) -> Any:
        """Queue the rendering of frames first to last (exclusive) on the stream and return without waiting.

        Args:
            first, last: frames of the shot; by default up to the end.
            out: (frames, height, width, 3) uint8 on the device, contiguous, to be filled: a numba array, or any object
                with __cuda_array_interface__, such as a PyTorch tensor.

        Returns:
            `out`, or a new array with __cuda_array_interface__.

        Raises:
            ValueError: frames outside the shot, or `out` has the wrong shape or type.
        """
        last = len(self.shot) if last is None else last
        if not 0 <= first < last <= len(self.shot):
            raise ValueError(f"frames {first} to {last} are not in a shot of {len(self.shot)} frames")
        shape = (last - first, self.shot.height, self.shot.width, 3)
        if out is None:
            out = cuda.device_array(shape, np.uint8, stream=self._stream)
        pictures = cuda.as_cuda_array(out) if not hasattr(out, "copy_to_host") else out
        if pictures.shape != shape or pictures.dtype != np.uint8:
            raise ValueError(f"out is {pictures.dtype} {pictures.shape}, these frames are uint8 {shape}")
        for start in range(first, last, len(self._keys)):
            end = min(start + len(self._keys), last)
            self._queue(start, end, pictures[start - first : end - first])
        return out

    def _queue(self, first: int, last: int, pictures: Any) -> None:
        """Start the kernels for one batch of frames."""
        frames, vertices, triangles = last - first, len(self.shot.mesh.rest), len(self.shot.mesh.faces)
        pixels = self.shot.height * self.shot.width
        strengths, transforms, cameras = (
            values[first:last] for values in (self._strengths, self._transforms, self._cameras)
        )
        light, dress, room, panels, backdrop = self._scene
        world, normals, points, cast = self._world, self._normals, self._points, self._cast

        def start(kernel: Any, items: int) -> Any:
            return kernel[((items + _THREADS - 1) // _THREADS, frames), (_THREADS, 1), self._stream]

        start(clear, _CLEAR_THREADS)(self._keys, self._shadow)
        start(move, vertices)(
            self._rest,
            self._places,
            self._expressions,
            strengths,
            self._bones,
            self._weights,
            transforms,
            world,
            normals,
        )
        start(add_normals, triangles)(world, self._faces, normals)
        start(see, vertices)(world, normals, cameras, light, points, cast)
        start(rasterise, triangles)(points, self._faces, self.shot.mesh.closed, self._keys)
        start(rasterise_shadow, triangles)(cast, self._faces, self._shadow)
        start(paint, pixels)(
            self._keys, self._shadow, points, normals, self._template, self._colours, self._faces, self._parts,
            cameras, light, dress, room, panels, backdrop, pictures,
        )  # fmt: skip


# All kernels except `clear` use one thread per item (vertex, triangle or pixel) of each frame.


@cuda.jit
def clear(keys, shadow):
    """Set depth keys and shadow maps to 0."""
    thread, frame = cuda.grid(2)
    threads = cuda.gridDim.x * cuda.blockDim.x
    height, width = keys.shape[1], keys.shape[2]
    for item in range(thread, height * width, threads):
        keys[frame, item // width, item % width] = 0
    height, width = shadow.shape[1], shadow.shape[2]
    for item in range(thread, height * width, threads):
        shadow[frame, item // width, item % width] = 0.0


@cuda.jit
def move(rest, places, expressions, strengths, bones, weights, transforms, world, normals):
    """Transform vertices from the rest pose to the world, and set their normals to 0."""
    vertex, frame = cuda.grid(2)
    if vertex >= rest.shape[0]:
        return
    x, y, z = rest[vertex, 0], rest[vertex, 1], rest[vertex, 2]
    if places[vertex] >= 0:
        x, y, z = express_vertex(rest, expressions, strengths[frame], vertex, places[vertex])
    a, b, c = deform_vertex(x, y, z, bones, weights, transforms[frame], vertex)
    world[frame, vertex, 0], world[frame, vertex, 1], world[frame, vertex, 2] = a, b, c
    for axis in range(3):
        normals[frame, vertex, axis] = 0.0


@cuda.jit
def add_normals(world, faces, normals):
    """Add each triangle's normal to its vertices; the order varies, so sums differ in their last bits."""
    triangle, frame = cuda.grid(2)
    if triangle >= faces.shape[0]:
        return
    x, y, z = triangle_normal(world[frame], faces[triangle, 0], faces[triangle, 1], faces[triangle, 2])
    for corner in range(3):
        vertex = faces[triangle, corner]
        cuda.atomic.add(normals, (frame, vertex, 0), x)
        cuda.atomic.add(normals, (frame, vertex, 1), y)
        cuda.atomic.add(normals, (frame, vertex, 2), z)


@cuda.jit
def see(world, normals, cameras, light, points, cast):
    """Project vertices to the screen and the shadow map, and normalise the normals."""
    vertex, frame = cuda.grid(2)
    if vertex >= world.shape[1]:
        return
    x, y, z = world[frame, vertex, 0], world[frame, vertex, 1], world[frame, vertex, 2]
    column, row, closeness = project(cameras[frame], x, y, z)
    points[frame, vertex, 0], points[frame, vertex, 1], points[frame, vertex, 2] = column, row, closeness
    column, row, closeness = to_shadow(light, x, y, z)
    cast[frame, vertex, 0], cast[frame, vertex, 1], cast[frame, vertex, 2] = column, row, closeness
    x, y, z = to_unit(normals[frame, vertex, 0], normals[frame, vertex, 1], normals[frame, vertex, 2])
    normals[frame, vertex, 0], normals[frame, vertex, 1], normals[frame, vertex, 2] = x, y, z


@cuda.jit
def rasterise(points, faces, closed, keys):
    """Write the key of the nearest triangle to every sample (atomic maximum, independent of thread order)."""
    triangle, frame = cuda.grid(2)
    if triangle >= faces.shape[0]:
        return
    a, b, c = faces[triangle, 0], faces[triangle, 1], faces[triangle, 2]
    own = points[frame]
    area = doubled_area(own, a, b, c)
    if not is_drawn(own, a, b, c, area, triangle < closed):
        return
    share = 1.0 / area
    left, right, top, bottom = extent(own, a, b, c, keys.shape[1], keys.shape[2])
    for y in range(top, bottom + 1):
        for x in range(left, right + 1):
            closeness = closeness_at(own, a, b, c, share, x, y)
            if closeness > 0.0:
                cuda.atomic.max(keys, (frame, y, x), make_key(closeness, triangle))


@cuda.jit
def rasterise_shadow(cast, faces, shadow):
    """Write the greatest closeness to the light to every shadow map sample."""
    triangle, frame = cuda.grid(2)
    if triangle >= faces.shape[0]:
        return
    a, b, c = faces[triangle, 0], faces[triangle, 1], faces[triangle, 2]
    own = cast[frame]
    area = doubled_area(own, a, b, c)
    if not is_drawn(own, a, b, c, area, False):
        return
    share = 1.0 / area
    left, right, top, bottom = extent(own, a, b, c, shadow.shape[1], shadow.shape[2])
    for y in range(top, bottom + 1):
        for x in range(left, right + 1):
            closeness = closeness_at(own, a, b, c, share, x, y)
            if closeness > shadow[frame, y, x]:  # a stale read only causes a redundant atomic
                cuda.atomic.max(shadow, (frame, y, x), closeness)


@cuda.jit
def paint(
    keys, shadow, points, normals, template, colours, faces, parts,
    cameras, light, dress, room, panels, backdrop, pictures,
):  # fmt: skip
    """Shade a pixel: once if it sees only the room, else per sample."""
    pixel, frame = cuda.grid(2)
    height, width = pictures.shape[1], pictures.shape[2]
    if pixel >= height * width:
        return
    row, column = pixel // width, pixel % width
    camera, own = cameras[frame], keys[frame]
    # The boxes cover the whole frame: skipping empty parts does not pay on a GPU.
    box = (0, keys.shape[2] - 1, 0, keys.shape[1] - 1)
    cast_box = (0, shadow.shape[2] - 1, 0, shadow.shape[1] - 1)
    if sees_room(own, row, column):
        seen = room_pixel(camera, room, panels, backdrop, row, column)
        red, green, blue = paint_room(seen, own, box, shadow[frame], cast_box, camera, light, row, column)
    else:
        red, green, blue = paint_samples(
            own, box, shadow[frame], cast_box, points[frame], normals[frame], template, colours, faces, parts,
            camera, light, dress, room, panels, backdrop, row, column,
        )  # fmt: skip
    pictures[frame, row, column, 0] = int(encode(red))
    pictures[frame, row, column, 1] = int(encode(green))
    pictures[frame, row, column, 2] = int(encode(blue))
