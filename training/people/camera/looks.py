"""Parameters of camera effects, face masks and occluders, drawn once per video.

Lengths are fractions, so that the parameters apply to any frame size.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

Kind = Literal["blocks", "fine", "blur", "bar"]
Shape = Literal["table", "leaves", "shoulder"]


@dataclass(frozen=True)
class Mask:
    """A face mask: a tilted rectangle that follows the head.

    Attributes:
        kind: flat blocks, a fine mosaic, a blur, or a black bar.
        width, height: as a share of the head box's.
        x, y: offset of the centre from the head box's centre, in units of the head box's size.
        tilt: standard deviation of the tilt angle, radians.
        jitter: standard deviation of the position, in head widths.
        lag_frames: delay behind the head.
        hold_frames: the mask moves only every so many frames.
        cell: size of a mosaic block, in head widths.
        anchored: the mosaic's grid is fixed in the frame while the mask moves over it.
        flicker: standard deviation of the logarithm of a block's brightness.
        change: probability per frame that a block samples its colour from another position.
        astray: standard deviation of that position's offset from the block's centre, in blocks.
        missing: share of blocks that are missing.
        off: probability per frame that the mask disappears for a moment.
    """

    kind: Kind
    width: float
    height: float
    x: float
    y: float
    tilt: float
    jitter: float
    lag_frames: int
    hold_frames: int
    cell: float
    anchored: bool
    flicker: float
    change: float
    astray: float
    missing: float
    off: float


@dataclass(frozen=True)
class Camera:
    """Lens, sensor and in-camera processing.

    Attributes:
        blur: standard deviation, as a share of the frame's shorter side.
        shrink: factor by which the frame is scaled down and up again.
        halo: strength of sharpening.
        gain: exposure factor.
        drift: standard deviation of the exposure's logarithm over time.
        red, blue: white balance factors.
        contrast: strength of an S curve, -1 to 1.
        black: added to black, as a share of white; negative values crush shadows.
        saturation: factor.
        grain, colour_grain: standard deviation of brightness and colour noise, in grey levels.
        vignette: share of light lost in the corners.
        veil: stray light from one side, as a share of white.
        bands, bands_wave, bands_speed: flicker of lamps: amplitude, cycles per frame height, cycles per frame.
    """

    blur: float
    shrink: float
    halo: float
    gain: float
    drift: float
    red: float
    blue: float
    contrast: float
    black: float
    saturation: float
    grain: float
    colour_grain: float
    vignette: float
    veil: float
    bands: float
    bands_wave: float
    bands_speed: float


@dataclass(frozen=True)
class Occluder:
    """Something near the camera, out of focus.

    Attributes:
        shape: a table's edge, a plant's leaves, or a shoulder.
        side: edge where it enters, -1 left or 1 right; for a table, the direction of its slope.
        reach: extent into the frame, as a share of its height (table) or of its shorter side.
        blur: standard deviation of the edge's blur, as a share of the shorter side.
        red, green, blue: grey levels.
    """

    shape: Shape
    side: int
    reach: float
    blur: float
    red: float
    green: float
    blue: float


@dataclass(frozen=True)
class Effects:
    """Parameters of all effects of one video; None for an absent effect."""

    camera: Camera
    mask: Mask | None
    occluder: Occluder | None


def draw_effects(rng: np.random.Generator) -> Effects:
    """Draw effects: mostly mild, a mask in half of the videos, an occluder in about one in eight."""
    return Effects(
        _draw_camera(rng),
        _draw_mask(rng) if rng.random() < 0.5 else None,
        _draw_occluder(rng) if rng.random() < 0.12 else None,
    )


def _mild(rng: np.random.Generator, most: float) -> float:
    """Draw a value from 0 to `most`, skewed towards 0."""
    return float(most * rng.random() ** 2.5)


def _sometimes(rng: np.random.Generator, chance: float, low: float, high: float) -> float:
    return float(rng.uniform(low, high)) if rng.random() < chance else 0.0


def _draw_camera(rng: np.random.Generator) -> Camera:
    grain = _mild(rng, 5)
    return Camera(
        blur=_mild(rng, 0.006),
        shrink=1 + _sometimes(rng, 0.25, 0.15, 1.0),
        halo=_sometimes(rng, 0.3, 0.2, 1.0),
        gain=float(np.exp(rng.normal(0, 0.09))),
        drift=_mild(rng, 0.04),
        red=float(np.exp(rng.normal(0, 0.04))),
        blue=float(np.exp(rng.normal(0, 0.05))),
        contrast=float(np.clip(rng.normal(0.15, 0.25), -0.4, 0.8)),
        black=float(np.clip(rng.normal(-0.01, 0.025), -0.06, 0.06)),
        saturation=float(np.clip(rng.normal(1.0, 0.16), 0.5, 1.4)),
        grain=grain,
        colour_grain=grain * float(rng.uniform(0.1, 0.7)),
        vignette=_sometimes(rng, 0.3, 0.05, 0.3),
        veil=_sometimes(rng, 0.15, 0.04, 0.18),
        bands=_sometimes(rng, 0.1, 0.004, 0.025),
        bands_wave=float(rng.uniform(0.5, 2.5)),
        bands_speed=float(rng.uniform(-0.15, 0.15)),
    )


def _draw_mask(rng: np.random.Generator) -> Mask:
    kinds: tuple[Kind, ...] = ("blocks", "fine", "blur", "bar")
    kind = kinds[rng.choice(4, p=(0.7, 0.1, 0.12, 0.08))]
    coarse = kind == "blocks"
    cells: dict[Kind, tuple[float, float]] = {
        "blocks": (0.35, 0.75),
        "fine": (0.1, 0.25),
        "blur": (0.12, 0.3),
        "bar": (1.0, 1.0),
    }
    return Mask(
        kind=kind,
        width=float(rng.uniform(0.6, 1.0) if kind != "bar" else rng.uniform(0.8, 1.2)),
        height=float(rng.uniform(0.5, 0.85) if kind != "bar" else rng.uniform(0.15, 0.28)),
        x=float(np.clip(rng.normal(0, 0.08), -0.15, 0.15)),
        y=float(rng.uniform(0.0, 0.15) if kind != "bar" else rng.uniform(-0.06, 0.04)),
        tilt=float(rng.uniform(0, 0.12)),
        jitter=float(rng.uniform(0.005, 0.06)),
        lag_frames=int(rng.integers(0, 3)),
        hold_frames=int(rng.choice((1, 2, 3, 5), p=(0.55, 0.2, 0.15, 0.1))),
        cell=float(rng.uniform(*cells[kind])),
        anchored=bool(rng.random() < 0.75),
        flicker=float(rng.uniform(0.05, 0.3)) if coarse else 0.03,
        change=float(rng.uniform(0.02, 0.3)) if coarse else 0.0,
        astray=float(rng.uniform(0.2, 0.7)) if coarse else 0.0,
        missing=_sometimes(rng, 0.3, 0.02, 0.12) if coarse else 0.0,
        off=_sometimes(rng, 0.3, 0.002, 0.015),
    )


def _draw_occluder(rng: np.random.Generator) -> Occluder:
    shape: Shape = ("table", "leaves", "shoulder")[rng.integers(3)]
    low, high = {"table": (0.06, 0.3), "leaves": (0.15, 0.35), "shoulder": (0.12, 0.3)}[shape]
    grey = rng.uniform(15, 190)
    tint = {"table": (1.15, 1.0, 0.8), "leaves": (0.5, 0.9, 0.45), "shoulder": rng.uniform(0.6, 1.3, 3)}[shape]
    red, green, blue = np.clip(grey * np.asarray(tint), 0, 255)
    return Occluder(
        shape=shape,
        side=int(rng.choice((-1, 1))),
        reach=float(rng.uniform(low, high)),
        blur=float(rng.uniform(0.004, 0.03)),
        red=float(red),
        green=float(green),
        blue=float(blue),
    )
