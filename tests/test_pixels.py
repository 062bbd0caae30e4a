"""Compiled pixel operations compared with NumPy."""

import numpy as np
import pytest

from training import pixels
from training.dataset import _map_array


@pytest.fixture
def pictures():
    return np.random.default_rng(0).integers(0, 256, (3, 9, 7, 3), dtype=np.uint8)


def interpolate(values, positions, axis):
    low = np.floor(positions).astype(int)
    high = np.minimum(low + 1, values.shape[axis] - 1)
    fraction = np.expand_dims(positions - low, tuple(range(1, values.ndim - axis)))
    first, second = (np.take(values, index, axis).astype(float) for index in (low, high))
    return first + (second - first) * fraction


def test_resampling_is_linear(pictures):
    down, across = np.array([0.0, 0.25, 3.5, 8.0]), np.array([0.0, 5.75, 6.0])
    out = np.zeros((3, 4, 3, 3), np.uint8)
    pixels.resample(pictures, down, across, out)
    expected = interpolate(interpolate(pictures, down, 1), across, 2)
    assert np.abs(out - expected).max() <= 0.5 + 1e-4


@pytest.mark.parametrize("mirrored", [False, True])
def test_each_channel_uses_its_table(pictures, mirrored):
    pixels_in = pictures[:, :, ::-1] if mirrored else pictures
    tables = np.random.default_rng(1).integers(0, 256, (3, 256), dtype=np.uint8)
    out = np.zeros(pixels_in.shape, np.uint8)
    pixels.colour(pixels_in, tables, False, out)
    expected = np.stack([tables[channel][pixels_in[..., channel]] for channel in range(3)], -1)
    assert (out == expected).all()
    pixels.colour(pixels_in, tables, True, out)
    assert (out == expected.mean(axis=-1, keepdims=True).astype(np.uint8)).all()


def test_noise_is_clipped_to_range(pictures):
    sheet = np.random.default_rng(2).integers(-90, 90, (18, 14)).astype(np.int16)
    shifts = np.array([[0, 0], [8, 6], [3, 2]])
    noise = np.stack([sheet[y : y + 9, x : x + 7] for y, x in shifts])[..., None]
    expected = np.clip(pictures.astype(int) + noise, 0, 255)
    pixels.add_noise(pictures, sheet, shifts)
    assert (pictures == expected).all()


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_uncompressed_frames_are_memory_mapped(tmp_path, pictures, save):
    path = tmp_path / "one.npz"
    save(path, fps=np.float64(15), frames=pictures, more=np.arange(5))
    read = _map_array(path, "frames")
    assert (read == pictures).all()
    assert isinstance(read, np.memmap) == (save is np.savez)
