"""Rendering of synthetic people: geometry against ray casting, light, and CPU against CUDA."""

import os
import pickle
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from training.people.body import load_anatomy
from training.people.film import Recipe, make_film
from training.people.props import Shape
from training.people.render import cpu, raster, room
from training.people.render.materials import DRESS_SIZE
from training.people.render.pixels import encode
from training.people.render.raster import get_closeness
from training.people.render.shot import SHADOW_SIZE, SUPERSAMPLING, Mesh, Shot

RED, GREEN, GREY = (0.7, 0.05, 0.05), (0.05, 0.7, 0.05), (0.5, 0.5, 0.5)
EYE = np.array([0.0, -4.0, 1.0])


def make_camera(size: int) -> np.ndarray:
    """Return a level camera at EYE looking along +y; 1.5 m fill the picture at a distance of 4 m."""
    camera = np.zeros(raster.CAMERA_SIZE, np.float32)
    camera[raster.EYE : raster.EYE + 3] = EYE
    camera[raster.ROTATION : raster.ROTATION + 9] = (1, 0, 0, 0, 0, -1, 0, 1, 0)
    camera[raster.FOCAL] = 4 / 1.5 * size * SUPERSAMPLING
    camera[[raster.CENTRE_X, raster.CENTRE_Y]] = size * SUPERSAMPLING / 2
    return camera


def make_light(direction: tuple[float, float, float], sun: float, span_m: float) -> np.ndarray:
    """Return a key light over ambient light; the shadow map is centred on (0, 0, 1)."""
    light = np.zeros(raster.LIGHT_SIZE, np.float32)
    toward = np.array(direction) / np.linalg.norm(direction)
    right = np.cross((0.0, 0.0, 1.0), toward)
    right /= np.linalg.norm(right)
    light[:3] = toward
    light[[raster.AMBIENT, raster.SUN, raster.SOFTNESS]] = 0.4, sun, 0.5
    scale = SHADOW_SIZE / span_m
    rows = ((right * scale, SHADOW_SIZE / 2), (-np.cross(toward, right) * scale, SHADOW_SIZE / 2), (toward, 10.0))
    for row, (axis, offset) in enumerate(rows):
        light[raster.TO_SHADOW + 4 * row : raster.TO_SHADOW + 4 * row + 4] = (*axis, offset - axis @ (0, 0, 1))
    return light


def make_shot(
    mesh: Mesh,
    size: int = 32,
    frames: int = 1,
    sun: float = 0.0,
    light: tuple[float, float, float] = (0.6, -1, 0.5),
    span_m: float = 2.8,
) -> Shot:
    """Return a mesh in a plain room with the back wall 1 m behind the origin, and a still camera."""
    walls = np.zeros(room.ROOM_SIZE, np.float32)
    walls[[room.BACK, room.LEFT, room.RIGHT, room.CEILING]] = 1.0, -5, 5, 5
    for colour in (room.FLOOR_COLOUR, room.WALL_COLOUR, room.SIDE_COLOUR):
        walls[colour : colour + 3] = GREY
    walls[[room.FLOOR_SCALE, room.WALL_SCALE]] = 1
    return Shot(
        mesh=mesh,
        transforms=np.tile(np.eye(3, 4, dtype=np.float32), (frames, 1, 1, 1)),
        expressions=np.zeros((frames, len(mesh.expressions)), np.float32),
        cameras=np.tile(make_camera(size), (frames, 1)),
        light=make_light(light, sun, span_m),
        dress=np.zeros(DRESS_SIZE, np.float32),
        room=walls,
        panels=np.zeros((1, room.PANEL_SIZE), np.float32),
        backdrop=np.zeros((2, 2, 3), np.float32),
        height=size,
        width=size,
    )


def add_motion(shot: Shot) -> Shot:
    """Move the mesh sideways and, from the third frame, the camera; the wall is of bricks."""
    transforms, cameras = shot.transforms.copy(), shot.cameras.copy()
    transforms[:, 0, 0, 3] = 0.1 * np.arange(len(shot))
    cameras[2:, raster.CENTRE_X] += 1.25
    walls = shot.room.copy()
    walls[[room.WALL_KIND, room.WALL_SCALE]] = room.BRICKS, 3
    return replace(shot, transforms=transforms, cameras=cameras, room=walls)


def draw(shot: Shot) -> np.ndarray:
    return np.stack(list(cpu.render(shot)))


def sample_keys(shot: Shot) -> np.ndarray:
    """Return the depth and triangle keys of a still mesh's samples."""
    points = np.zeros_like(shot.mesh.rest)
    keys = np.zeros((shot.height * SUPERSAMPLING, shot.width * SUPERSAMPLING), np.int64)
    cpu.see(shot.mesh.rest, shot.cameras[0], points)
    cpu.rasterise(points, shot.mesh.faces, shot.mesh.closed, keys)
    return keys


def cast_rays(shot: Shot) -> tuple[np.ndarray, np.ndarray]:
    """Return the triangle (-1: none) and depth at each sample by Möller-Trumbore ray casting."""
    side = shot.height * SUPERSAMPLING
    across = (np.arange(side) + 0.5 - side / 2) / float(shot.cameras[0, raster.FOCAL])
    rays = np.stack(
        [np.broadcast_to(across, (side, side)), np.ones((side, side)), np.broadcast_to(-across[:, None], (side, side))],
        -1,
    )
    nearest, triangle = np.full((side, side), np.inf), np.full((side, side), -1)
    for index, (a, b, c) in enumerate(shot.mesh.rest[shot.mesh.faces].astype(float)):
        edge, other, offset = b - a, c - a, EYE - a
        normal = np.cross(rays, other)
        size = normal @ edge
        size[np.abs(size) < 1e-12] = np.nan
        second = normal @ offset / size
        cross = np.cross(offset, edge)
        third, depth = rays @ cross / size, other @ cross / size
        hit = (second >= 0) & (third >= 0) & (second + third <= 1) & (depth > 0) & (depth < nearest)
        nearest[hit], triangle[hit] = depth[hit], index
    return triangle, nearest


def crossing_scene() -> Mesh:
    """Return boxes and a slanted tube that intersect."""
    shape = Shape()
    shape.block((0.1, 0.0, 1.0), (0.3, 0.3, 0.2), RED)
    shape.block((-0.2, -0.2, 1.1), (0.2, 0.25, 0.3), GREEN, widen=0.5)
    shape.tube((-0.6, -0.7, 0.6), (0.6, 0.6, 1.4), 0.06, GREY)
    return shape.mesh(0)


def test_rasterised_samples_agree_with_ray_casting() -> None:
    shot = make_shot(crossing_scene(), 64)
    keys, (triangle, depth) = sample_keys(shot), cast_rays(shot)
    rasterised = (keys & 0xFFFFFFFF) - 1
    # Samples on an edge shared by two triangles may go to either.
    assert (rasterised != triangle).mean() < 0.003
    agreeing = (rasterised == triangle) & (triangle >= 0)
    assert agreeing.mean() > 0.15
    depths = 1 / np.vectorize(get_closeness.py_func)(keys[agreeing])
    np.testing.assert_allclose(depths, depth[agreeing], rtol=2e-6)


def test_interpolation_on_slanted_triangle_is_perspective_correct() -> None:
    """Vertices that carry their own depth give that depth at every sample."""
    from training.people.render.pixels import mesh_sample

    corners = np.array([[-0.5, -2.5, 0.7], [0.5, -2.5, 0.7], [0.0, 0.5, 1.3]], np.float32)
    shape = Shape()
    shape._add(corners, np.array([[0, 1, 2]]), GREY)
    shot = make_shot(shape.mesh(0), 48)
    keys, (_, depth) = sample_keys(shot), cast_rays(shot)
    points, camera = np.zeros((3, 3), np.float32), shot.cameras[0].astype(float)
    cpu.see(shot.mesh.rest, shot.cameras[0], points)
    # Normals stand for any vertex attribute; they are normalised, but keep their proportions.
    normals = np.stack([corners[:, 1], np.full(3, -1.0), np.zeros(3)], 1).astype(np.float32)
    for y, x in zip(*np.nonzero(keys), strict=True):
        u, v = (
            (x + 0.5 - camera[raster.CENTRE_X]) / camera[raster.FOCAL],
            (y + 0.5 - camera[raster.CENTRE_Y]) / camera[raster.FOCAL],
        )
        _, _, _, nx, ny, _, _, closeness = mesh_sample.py_func(
            0,
            x,
            y,
            u,
            1.0,
            -v,
            points,
            normals,
            corners,
            shot.mesh.colours,
            shot.mesh.faces,
            shot.mesh.parts,
            shot.dress,
        )
        assert 1 / closeness == pytest.approx(depth[y, x], rel=1e-5)
        assert abs(nx / ny) == pytest.approx(abs(depth[y, x] + EYE[1]), abs=1e-4)


def test_nearer_box_hides_farther_one() -> None:
    shape = Shape()
    shape.block((0, -0.5, 1.0), (0.15, 0.1, 0.15), RED)
    shape.block((0, 0.0, 1.0), (0.4, 0.1, 0.4), GREEN)
    picture = draw(make_shot(shape.mesh(0)))[0].astype(int)
    assert picture[16, 16, 0] > 2 * picture[16, 16, 1]
    assert picture[16, 8, 1] > 2 * picture[16, 8, 0]
    assert np.ptp(picture[1, 1]) < 8  # the wall is grey


def test_mesh_behind_camera_is_not_drawn() -> None:
    shape = Shape()
    shape.block((0, -5.5, 1.0), (0.5, 0.5, 0.5), RED)
    shape.block((0, -4.0, 1.0), (0.1, 0.05, 0.1), RED)  # around the camera
    assert not sample_keys(make_shot(shape.mesh(0))).any()


def test_shadow_position_follows_light_direction() -> None:
    """With light from the front right, the box's shadow on the wall lies to its left."""
    shape = Shape()
    shape.block((0.3, 0.0, 1.0), (0.1, 0.1, 0.1), RED)
    size, light = 64, (0.5, -1.0, 0.0001)
    sunny, overcast = (
        draw(make_shot(shape.mesh(0), size, sun=sun, light=light))[0].astype(int)[..., 0] for sun in (0.5, 0.0)
    )

    def pixel(x: float, y: float, z: float) -> tuple[int, int]:
        scale = 4 / 1.5 * size / (y - EYE[1])
        return int(size / 2 - (z - 1.0) * scale), int(size / 2 + x * scale)

    shaded, lit, above = pixel(0.3 - 0.5, 1.0, 1.0), pixel(-0.6, 1.0, 1.0), pixel(0.3 - 0.5, 1.0, 1.25)
    assert sunny[lit] - sunny[shaded] > 30
    assert abs(sunny[shaded] - overcast[shaded]) < 6  # no sun reaches it
    assert abs(sunny[above] - sunny[lit]) < 6


def test_tone_encoding_is_monotonic_up_to_white() -> None:
    values = [int(encode.py_func(value)) for value in np.concatenate([np.linspace(-1, 4, 2000), [10.0, 100.0]])]
    assert values == sorted(values)
    assert (values[0], values[-1]) == (0, 255)


def test_frames_render_the_same_repeatedly_and_alone() -> None:
    shot = add_motion(make_shot(crossing_scene(), frames=4, sun=0.4))
    frames = draw(shot)
    assert (frames == draw(shot)).all()
    assert (frames[0] != frames[1]).any()
    for frame in range(4):
        index = slice(frame, frame + 1)
        alone = replace(
            shot, transforms=shot.transforms[index], expressions=shot.expressions[index], cameras=shot.cameras[index]
        )
        assert (draw(alone)[0] == frames[frame]).all()


def test_film_shows_person_in_its_box() -> None:
    film = make_film(Recipe(seed=1, height=64, width=64), 0, load_anatomy())
    first_frame = slice(0, 1)
    shot = replace(
        film.shot,
        transforms=film.shot.transforms[first_frame],
        expressions=film.shot.expressions[first_frame],
        cameras=film.shot.cameras[first_frame],
    )
    empty = replace(shot, mesh=replace(shot.mesh, faces=shot.mesh.faces[:0], parts=shot.mesh.parts[:0]))
    changed = np.abs(draw(shot)[0].astype(int) - draw(empty)[0]).max(axis=-1) > 12
    left, top, right, bottom = np.clip(film.person_box[0], 0, 64).astype(int)
    inside = np.zeros((64, 64), bool)
    inside[top : bottom + 1, left : right + 1] = True
    assert changed[inside].mean() > 0.3
    keypoints = film.keypoints[0][film.keypoint_visible[0]].astype(int)
    assert changed[keypoints[:, 1], keypoints[:, 0]].mean() > 0.7
    assert changed[inside].mean() > 4 * changed[~inside].mean()


SIMULATED = """
import pickle, sys
import numpy as np
from training.people.render.cuda import Renderer
with open(sys.argv[1], "rb") as file:
    shot = pickle.load(file)
np.save(sys.argv[2], Renderer(shot, at_once=1).render(0, 2).copy_to_host())
"""


def add_expressions(mesh: Mesh) -> Mesh:
    """Let some vertices move with two expressions."""
    moved = np.arange(4, dtype=np.int32)
    expressions = np.zeros((2, 4, 3), np.float32)
    expressions[0, :, 2], expressions[1, :, 0] = 0.08, -0.06
    return replace(mesh, moved=moved, expressions=expressions)


def test_cuda_kernels_in_simulator_render_like_cpu(tmp_path: Path) -> None:
    shape = Shape()
    shape.block((0.1, 0.0, 1.0), (0.3, 0.3, 0.2), RED)
    shape.block((-0.25, -0.2, 1.1), (0.2, 0.25, 0.3), GREEN, widen=0.5)
    shot = add_motion(make_shot(add_expressions(shape.mesh(0)), 16, frames=2, sun=0.4, span_m=12))
    shot.expressions[:] = (0.5, 1.0), (1.0, 0.0)
    shot.transforms[1, 0, 1, 3] = 0.1
    (tmp_path / "shot").write_bytes(pickle.dumps(shot))
    environment = {**os.environ, "NUMBA_ENABLE_CUDASIM": "1", "NUMBA_DISABLE_JIT": "1"}
    command = [sys.executable, "-c", SIMULATED, str(tmp_path / "shot"), str(tmp_path / "out.npy")]
    subprocess.run(command, env=environment, check=True, cwd=Path(__file__).parents[1], timeout=120)
    simulated, expected = np.load(tmp_path / "out.npy"), draw(shot)
    assert (expected[0] != expected[1]).any()
    assert np.abs(simulated.astype(int) - expected).mean() < 0.5


def has_gpu() -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from numba import cuda

        return bool(cuda.is_available())


@pytest.mark.skipif(not has_gpu(), reason="Numba finds no CUDA GPU")
def test_gpu_renders_like_cpu() -> None:
    from training.people.render.cuda import Renderer

    shot = make_film(Recipe(seed=1), 0, load_anatomy()).shot
    short = replace(shot, transforms=shot.transforms[:4], expressions=shot.expressions[:4], cameras=shot.cameras[:4])
    pictures = Renderer(short, at_once=3).render().copy_to_host()
    assert np.abs(pictures.astype(int) - draw(short)).mean() < 2
