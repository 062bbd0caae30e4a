"""What costs time when pictures are changed, compiled: one pass over them each."""

import numpy as np

from training.people.render.compiled import kernel


@kernel
def resample(pictures, down, across, out):
    """Bilinear samples.

    Args:
        pictures: (n, rows, columns, 3) uint8.
        down, across: (height,) and (width,) fractional places, within the picture.
        out: (n, height, width, 3) uint8, written.
    """
    rows, columns = pictures.shape[1:3]
    for frame in range(len(pictures)):
        for row in range(len(down)):
            top = int(down[row])
            below = min(top + 1, rows - 1)
            lower = np.float32(down[row] - top)
            for column in range(len(across)):
                left = int(across[column])
                right = min(left + 1, columns - 1)
                share = np.float32(across[column] - left)
                for channel in range(3):
                    first = np.float32(pictures[frame, top, left, channel])
                    first += (np.float32(pictures[frame, below, left, channel]) - first) * lower
                    second = np.float32(pictures[frame, top, right, channel])
                    second += (np.float32(pictures[frame, below, right, channel]) - second) * lower
                    out[frame, row, column, channel] = np.uint8(
                        first + (second - first) * share + np.float32(0.5)
                    )


@kernel
def colour(pictures, tables, grey, out):
    """Every value by its channel's table, then all channels their mean if wanted.

    Args:
        pictures: (n, rows, columns, 3) uint8, of any strides. tables: (3, 256) uint8. grey: bool.
        out: like pictures, written.
    """
    for frame in range(pictures.shape[0]):
        for row in range(pictures.shape[1]):
            for column in range(pictures.shape[2]):
                red = tables[0, pictures[frame, row, column, 0]]
                green = tables[1, pictures[frame, row, column, 1]]
                blue = tables[2, pictures[frame, row, column, 2]]
                if grey:
                    red = green = blue = np.uint8((int(red) + int(green) + int(blue)) // 3)
                out[frame, row, column, 0] = red
                out[frame, row, column, 1] = green
                out[frame, row, column, 2] = blue


@kernel
def add_sheet(pictures, sheet, shifts):
    """Add a part of a sheet of noise to each picture, in place.

    Args:
        pictures: (n, rows, columns, 3) uint8. sheet: (2 rows, 2 columns) int16. shifts: (n, 2) where a part begins.
    """
    for frame in range(pictures.shape[0]):
        first, left = shifts[frame]
        for row in range(pictures.shape[1]):
            for column in range(pictures.shape[2]):
                noise = int(sheet[first + row, left + column])
                for channel in range(3):
                    value = int(pictures[frame, row, column, channel]) + noise
                    pictures[frame, row, column, channel] = np.uint8(min(max(value, 0), 255))
