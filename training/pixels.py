"""Compiled kernels for image augmentation; each makes one pass over the images."""

import numpy as np

from training.people.render.compiled import kernel


@kernel
def resample(images, down, across, out):
    """Resample images (n, rows, columns, 3) bilinearly at fractional rows (height,) and columns (width,)."""
    rows, columns = images.shape[1:3]
    for frame in range(len(images)):
        for row in range(len(down)):
            top = int(down[row])
            below = min(top + 1, rows - 1)
            lower = np.float32(down[row] - top)
            for column in range(len(across)):
                left = int(across[column])
                right = min(left + 1, columns - 1)
                fraction = np.float32(across[column] - left)
                for channel in range(3):
                    first = np.float32(images[frame, top, left, channel])
                    first += (np.float32(images[frame, below, left, channel]) - first) * lower
                    second = np.float32(images[frame, top, right, channel])
                    second += (np.float32(images[frame, below, right, channel]) - second) * lower
                    out[frame, row, column, channel] = np.uint8(first + (second - first) * fraction + np.float32(0.5))


@kernel
def colour(images, tables, grey, out):
    """Apply a lookup table (3, 256) to each channel of images of any strides, then convert to grey if `grey`."""
    for frame in range(images.shape[0]):
        for row in range(images.shape[1]):
            for column in range(images.shape[2]):
                red = tables[0, images[frame, row, column, 0]]
                green = tables[1, images[frame, row, column, 1]]
                blue = tables[2, images[frame, row, column, 2]]
                if grey:
                    red = green = blue = np.uint8((int(red) + int(green) + int(blue)) // 3)
                out[frame, row, column, 0] = red
                out[frame, row, column, 1] = green
                out[frame, row, column, 2] = blue


@kernel
def add_noise(images, noise, shifts):
    """Add to each image, in place, the part of a noise image (2 rows, 2 columns) that begins at its `shifts`."""
    for frame in range(images.shape[0]):
        first, left = shifts[frame]
        for row in range(images.shape[1]):
            for column in range(images.shape[2]):
                added = int(noise[first + row, left + column])
                for channel in range(3):
                    value = int(images[frame, row, column, channel]) + added
                    images[frame, row, column, channel] = np.uint8(min(max(value, 0), 255))
