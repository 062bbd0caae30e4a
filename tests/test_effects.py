"""Camera effects, face masks and occluders of synthetic videos; writing and reading of frames."""

from dataclasses import asdict, replace
from fractions import Fraction
from typing import get_args

import av
import numpy as np
import pytest

from model.video import Video
from training.people.camera.effects import develop, draw_effects, mask_faces, occlude
from training.people.camera.footage import read_frames, write_frames, write_video
from training.people.camera.looks import Camera, Effects, Kind, Mask, Occluder, Shape

COUNT = 8
PLAIN = Camera(
    blur=0, shrink=1, halo=0, gain=1, drift=0, red=1, blue=1, contrast=0, black=0, saturation=1, grain=0,
    colour_grain=0, vignette=0, veil=0, bands=0, bands_wave=1, bands_speed=0,
)  # fmt: skip
STEADY = Mask(
    kind="blocks", width=0.8, height=0.8, x=0, y=0, tilt=0, jitter=0, lag_frames=0, hold_frames=1, cell=0.5,
    anchored=True, flicker=0, change=0, astray=0, missing=0, off=0,
)  # fmt: skip
OCCLUDER = Occluder("table", 1, 0.2, 0.01, 40, 30, 20)


def rng(seed=0):
    return np.random.default_rng(seed)


def scene(height=96, width=80, seed=0):
    """Return frames with a wall, a floor and a patterned head, and the head's box in each frame."""
    frames = np.full((COUNT, height, width, 3), 110, np.uint8)
    frames[:, height * 3 // 4 :] = 150
    boxes = np.empty((COUNT, 4))
    size = width // 4
    for index in range(COUNT):
        left, top = width // 3 + index, height // 5
        frames[index, top : top + size, left : left + size] = rng(seed).integers(20, 100, (size, size, 3))
        boxes[index] = left, top, left + size, top + size
    return frames, boxes


def apply_effects(look, frames, boxes, seed):
    noise = rng(seed)
    pictures, hidden = occlude(frames, look, noise)
    return mask_faces(develop(pictures, look, noise), boxes, look, noise), hidden


def mean_change(one, other):
    return float(np.abs(one.astype(int) - other).mean())


def inside_boxes(boxes, shape):
    """Return for each pixel (frames, height, width) whether it lies in the head's box."""
    y, x = np.mgrid[0 : shape[1], 0 : shape[2]] + 0.5
    left, top, right, bottom = boxes.T[..., None, None]
    return (x > left) & (x < right) & (y > top) & (y < bottom)


FULL = Effects(replace(PLAIN, grain=3, colour_grain=1, blur=0.01, halo=0.3, drift=0.02, bands=0.02), STEADY, OCCLUDER)


def test_effects_depend_on_seed_only():
    frames, boxes = scene()
    assert draw_effects(rng(3)) == draw_effects(rng(3)) != draw_effects(rng(4))
    first, second, other = (apply_effects(FULL, frames, boxes, seed)[0] for seed in (5, 5, 6))
    assert np.array_equal(first, second)
    assert not np.array_equal(first, other)


def test_effect_frequencies_are_as_configured():
    drawn = [draw_effects(rng(seed)) for seed in range(400)]
    masks = [effects.mask for effects in drawn if effects.mask]
    assert 0.42 < len(masks) / 400 < 0.58
    assert 0.07 < sum(effects.occluder is not None for effects in drawn) / 400 < 0.18
    assert 0.6 < sum(mask.kind == "blocks" for mask in masks) / len(masks) < 0.8
    assert {mask.kind for mask in masks} == set(get_args(Kind))
    assert all(0.35 <= mask.cell <= 0.75 for mask in masks if mask.kind == "blocks")
    for effects in drawn:
        for part in (effects.camera, effects.mask, effects.occluder):
            assert all(type(value) in (int, float, bool, str) for value in asdict(part).values()) if part else True


@pytest.mark.parametrize(("height", "width"), [(64, 64), (180, 320), (101, 75)])
def test_effects_work_at_any_size_and_keep_input(height, width):
    frames, boxes = scene(height, width)
    before = frames.copy()
    for seed in range(12):
        effects = replace(draw_effects(rng(seed)), occluder=OCCLUDER)
        out, hidden = apply_effects(effects, frames, boxes, seed)
        assert (out.shape, out.dtype, hidden.shape, hidden.dtype) == (frames.shape, np.uint8, (height, width), bool)
        assert np.array_equal(frames, before)


def test_absent_effects_change_nothing():
    frames, boxes = scene()
    no_effects = Effects(PLAIN, None, None)
    out, hidden = occlude(frames, no_effects, rng())
    assert out is frames
    assert not hidden.any()
    assert mask_faces(frames, boxes, no_effects, rng()) is frames
    # These frames have no highlights to roll off.
    assert np.array_equal(develop(frames, no_effects, rng()), frames)


def test_camera_effects_keep_pictures_recognisable():
    frames, _ = scene()
    changes = []
    for seed in range(60):
        out = develop(frames, draw_effects(rng(seed)), rng(seed))
        changes.append(mean_change(out, frames))
        assert np.corrcoef(out.ravel(), frames.ravel())[0, 1] > 0.6
    assert 2 < np.median(changes) < 20
    assert max(changes) < 60


@pytest.mark.parametrize(
    ("part", "low", "high"),
    [
        ({"grain": 4.0}, 1.5, 4),
        ({"colour_grain": 4.0}, 0.5, 4),
        ({"gain": 1.2}, 10, 30),
        ({"drift": 0.03}, 0.3, 10),
        ({"red": 1.1}, 2, 6),
        ({"contrast": 0.5}, 1, 15),
        ({"black": 0.05}, 4, 10),
        ({"vignette": 0.3}, 2, 20),
        ({"veil": 0.15}, 4, 30),
        ({"bands": 0.02}, 0.5, 3),
        ({"blur": 0.01}, 0.5, 6),
        ({"shrink": 1.8}, 0.3, 6),
        ({"halo": 0.8}, 0.3, 8),
        ({"saturation": 0.5}, 0.2, 5),
    ],
)
def test_each_camera_effect_has_bounded_strength(part, low, high):
    frames, _ = scene()
    assert low < mean_change(develop(frames, Effects(replace(PLAIN, **part), None, None), rng(1)), frames) < high


def test_grain_differs_by_frame_and_is_strongest_in_shadows():
    frames = np.full((40, 64, 64, 3), 40, np.uint8)
    frames[:, 32:] = 220
    # The roll-off of highlights weakens their grain too.
    out = develop(frames, Effects(replace(PLAIN, grain=5), None, None), rng()).astype(float)
    deviation = out.std(0).mean((1, 2))
    assert 4 < deviation[:30].mean() < 7
    assert 2 < deviation[34:].mean() < 0.75 * deviation[:30].mean()
    assert abs(np.corrcoef(out[0, :30].ravel(), out[1, :30].ravel())[0, 1]) < 0.05


def test_blur_preserves_brightness_and_removes_detail():
    frames, _ = scene()
    for part in ({"blur": 0.02}, {"shrink": 2.0}):
        out = develop(frames, Effects(replace(PLAIN, **part), None, None), rng()).astype(float)
        assert abs(out.mean() - frames.mean()) < 0.6
        assert np.abs(np.diff(out, axis=2)).mean() < 0.7 * np.abs(np.diff(frames.astype(float), axis=2)).mean()


@pytest.mark.parametrize("kind", get_args(Kind))
def test_masks_cover_middle_of_head_only(kind):
    frames, boxes = scene()
    cell = {"blocks": 0.5, "fine": 0.15, "blur": 0.25, "bar": 1.0}[kind]
    out = mask_faces(frames, boxes, Effects(PLAIN, replace(STEADY, kind=kind, cell=cell), None), rng())
    changed = (out != frames).any(3)
    head = inside_boxes(boxes, frames.shape)
    centre = inside_boxes((boxes + boxes[:, [2, 3, 0, 1]]) / 2 + np.array([-3, -3, 3, 3]), frames.shape)
    # A cell does not change its own sample pixel.
    assert changed[centre].mean() > 0.85
    assert not changed[~head].any()


def test_drawn_masks_mostly_cover_middle_of_head():
    frames, boxes = scene()
    centre = inside_boxes((boxes + boxes[:, [2, 3, 0, 1]]) / 2 + np.array([-2, -2, 2, 2]), frames.shape)
    shares = []
    for seed in range(100):
        effects = draw_effects(rng(seed))
        if effects.mask and effects.mask.kind != "bar":
            shares.append((mask_faces(frames, boxes, effects, rng(seed)) != frames).any(3)[centre].mean())
    assert np.mean(shares) > 0.85


def test_block_masks_are_flat_cells_anchored_to_picture():
    frames, boxes = scene(240, 200)
    out = mask_faces(frames, boxes, Effects(PLAIN, STEADY, None), rng())
    # The 80 % of a head 50 pixels wide, in cells of 25 pixels: two or three each way.
    left, top, right, bottom = (boxes[0] + np.array([6, 6, -6, -6])).astype(int)
    face = out[0, top:bottom, left:right].astype(int)
    assert 4 <= len(np.unique(face.reshape(-1, 3), axis=0)) <= 9
    edges = [set(np.flatnonzero(np.abs(np.diff(row[80:100].astype(int), axis=0)).sum(1))) for row in out[:, 70]]
    assert edges[0] == edges[1] == edges[2]


def test_mask_flicker_and_missing_cells():
    frames, boxes = scene()
    frames, boxes = frames[[0] * COUNT], boxes[[0] * COUNT]
    steady = mask_faces(frames, boxes, Effects(PLAIN, STEADY, None), rng())
    assert (steady == steady[0]).all()
    for part in ({"flicker": 0.3}, {"change": 0.5, "astray": 0.6}, {"change": 0.5, "missing": 0.5}, {"off": 0.5}):
        out = mask_faces(frames, boxes, Effects(PLAIN, replace(STEADY, **part), None), rng(2))
        assert (out != out[0]).any(), part
    off = mask_faces(frames, boxes, Effects(PLAIN, replace(STEADY, off=1.0), None), rng())
    assert np.array_equal(off, frames)


def test_masks_lag_and_hold_positions():
    frames, boxes = scene()
    boxes[:, [0, 2]] += 3 * np.arange(COUNT)[:, None]
    bar = replace(STEADY, kind="bar")
    now = mask_faces(frames * 0 + 200, boxes, Effects(PLAIN, bar, None), rng())
    late = mask_faces(frames * 0 + 200, boxes, Effects(PLAIN, replace(bar, lag_frames=2), None), rng())
    held = mask_faces(frames * 0 + 200, boxes, Effects(PLAIN, replace(bar, hold_frames=3), None), rng())
    assert np.array_equal(late[2:], now[:-2])
    assert np.array_equal(held, now[[0, 0, 0, 3, 3, 3, 6, 6]])


@pytest.mark.parametrize("kind", get_args(Kind))
@pytest.mark.parametrize("box", [(-60, -60, -20, -20), (500, 10, 540, 50), (30, -90, 50, -50), (30, 500, 50, 540)])
def test_heads_outside_picture_are_not_masked(kind, box):
    frames, boxes = scene()
    boxes[3] = box
    out = mask_faces(frames, boxes, Effects(PLAIN, replace(STEADY, kind=kind), None), rng())
    assert np.array_equal(out[3], frames[3])
    assert not np.array_equal(out[4], frames[4])


@pytest.mark.parametrize("kind", get_args(Kind))
@pytest.mark.parametrize("box", [(np.nan,) * 4, (np.inf,) * 4, (30, 30, 30, 30), (40, 40, 30, 30)])
def test_invalid_boxes_mask_nothing(kind, box):
    frames, boxes = scene()
    boxes[3] = box
    effects = Effects(PLAIN, replace(STEADY, kind=kind, lag_frames=1), None)
    out = mask_faces(frames, boxes, effects, rng())
    assert np.array_equal(out[3], frames[3])
    assert not np.array_equal(out[5], frames[5])
    assert np.array_equal(mask_faces(frames, np.tile(box, (COUNT, 1)), effects, rng()), frames)


@pytest.mark.parametrize("kind", get_args(Kind))
def test_head_larger_than_picture_is_masked(kind):
    frames, boxes = scene()
    boxes[:] = (-1e6, -1e6, 1e6, 1e6)
    out = mask_faces(frames, boxes, Effects(PLAIN, replace(STEADY, kind=kind), None), rng())
    assert (out != frames).any(3).mean() > 0.5


@pytest.mark.parametrize("shape", get_args(Shape))
@pytest.mark.parametrize("side", [-1, 1])
def test_hidden_map_matches_changed_pixels(shape, side):
    frames, _ = scene()
    occluder = Occluder(shape, side, 0.25, 0.01, 250, 0, 250)
    out, hidden = occlude(frames, Effects(PLAIN, None, occluder), rng())
    changed = (out != frames).any(3)
    assert (changed == changed[0]).all()
    assert changed[0][hidden].all()
    assert 0.02 < hidden.mean() < 0.5
    # Changed pixels that are not hidden are the blurred edge.
    assert (changed[0] & ~hidden).mean() < 0.12
    if shape != "table":
        half = np.s_[:, :40] if side < 0 else np.s_[:, 40:]
        assert hidden[half].sum() > 0.9 * hidden.sum()
    # The occluder has no green: the rest comes from behind it.
    opacity = 1 - out[0, ..., 1] / frames[0, ..., 1]
    assert opacity[hidden].min() > 0.45
    assert opacity[~hidden].max() < 0.55


def soft_frames():
    """Return frames of smooth colours, which 4:2:0 subsampling hardly changes."""
    y, x = np.mgrid[0:96, 0:80]
    waves = [np.sin((x + 2 * t) / 15 + c) + np.cos(y / 20 + c) for t in range(COUNT) for c in range(3)]
    return (128 + 55 * np.array(waves).reshape(COUNT, 3, 96, 80).transpose(0, 2, 3, 1)).astype(np.uint8)


@pytest.mark.parametrize("fps", [15, 30000 / 1001, 30])
def test_written_video_decodes_to_same_frames(tmp_path, fps):
    frames = soft_frames()
    write_video(tmp_path / "a.mp4", frames, fps, 18)
    with av.open(str(tmp_path / "a.mp4")) as container:
        stream = container.streams.video[0]
        decoded = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(stream)])
        assert stream.average_rate == Fraction(fps).limit_denominator(1001)
        context = stream.codec_context
        assert (context.name, context.pix_fmt) == ("h264", "yuv420p")
        assert (context.color_range, context.colorspace, context.color_primaries, context.color_trc) == (1, 1, 1, 1)
    assert decoded.shape == frames.shape
    assert mean_change(decoded, frames) < 2.5
    assert np.abs((decoded.astype(int) - frames).mean((0, 1, 2))).max() < 1.5
    with (tmp_path / "a.mp4").open("rb") as file:
        by_decoder = np.stack(list(Video(file).frames(fps, 80, 96)))
    assert by_decoder.shape == frames.shape
    assert mean_change(by_decoder, frames) < 2.5


def test_writing_is_deterministic_and_leaves_no_other_files(tmp_path):
    frames = soft_frames()
    for name in ("a", "b"):
        write_video(tmp_path / f"{name}.mp4", frames, 15, 28)
        write_frames(tmp_path / f"{name}.npz", frames, 15)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"a.mp4", "b.mp4", "a.npz", "b.npz"}


def test_index_comes_first_and_quality_decides_size(tmp_path):
    frames = rng().integers(0, 256, (COUNT, 96, 80, 3)).astype(np.uint8)
    write_video(tmp_path / "good.mp4", frames, 15, 20)
    write_video(tmp_path / "bad.mp4", frames, 15, 36)
    good = (tmp_path / "good.mp4").read_bytes()
    assert 0 < good.index(b"moov") < good.index(b"mdat")
    assert len(good) > 1.3 * (tmp_path / "bad.mp4").stat().st_size


def test_unwritable_frames_are_refused_and_leave_no_file(tmp_path):
    frames = soft_frames()
    path = tmp_path / "a.mp4"
    with pytest.raises(ValueError, match="79 x 96"):
        write_video(path, frames[:, :, :79], 15, 20)
    with pytest.raises(ValueError, match="80 x 95"):
        write_video(path, frames[:, :95], 15, 20)
    with pytest.raises(ValueError, match="quality 52"):
        write_video(path, frames, 15, 52)
    with pytest.raises(ValueError, match="-1 frames a second"):
        write_video(path, frames, -1, 20)
    with pytest.raises(ValueError, match="float64"):
        write_frames(path, frames.astype(float), 15)
    with pytest.raises(ValueError, match="not empty"):
        write_frames(path, frames[:0], 15)
    assert not list(tmp_path.iterdir())


def test_failed_write_leaves_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.npz"
    write_frames(path, soft_frames(), 15)
    before = path.read_bytes()

    def raise_disk_full(*_, **__):
        raise OSError("no space left")

    monkeypatch.setattr(np, "savez", raise_disk_full)
    with pytest.raises(OSError, match="no space"):
        write_frames(path, soft_frames()[:2], 15)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.npz"]


def test_written_frames_are_read_back(tmp_path):
    frames = soft_frames()
    write_frames(tmp_path / "a.npz", frames, 29.97)
    restored = read_frames(tmp_path / "a.npz")
    assert np.array_equal(restored.frames, frames)
    assert restored.frames.dtype == np.uint8
    assert restored.fps == 29.97
