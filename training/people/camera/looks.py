"""How one video's pictures are spoilt, drawn once a video.

Plain numbers; lengths are fractions, so that a look fits any size.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

Kind = Literal["blocks", "fine", "blur", "bar"]
Shape = Literal["table", "leaves", "shoulder"]


@dataclass(frozen=True)
class Mask:
    """What hides the face: a leaning rectangle that follows the head.

    Attributes:
        kind: flat blocks, a fine mosaic, a blur, a black bar.
        width, height: of the head box's.
        x, y: of its centre from the head box's, in head boxes.
        tilt: standard deviation of its lean, radians.
        jitter: standard deviation of its place, in head widths.
        lag_frames: how late it follows.
        hold_frames: it moves every so many frames.
        cell: of the mosaic, in head widths.
        anchored: the mosaic stays with the picture while the mask moves over it.
        flicker: standard deviation of a cell's brightness, as a logarithm.
        change: chance a frame that a cell takes its colour from another place.
        astray: how far that place is from the cell's middle, in cells.
        missing: share of the cells that are missing.
        off: chance a frame that the mask goes off for a moment.
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
    """Lens, sensor and the maker's processing.

    Attributes:
        blur: standard deviation, of the picture's shorter side.
        shrink: the picture was this many times smaller before.
        halo: strength of sharpening.
        gain, drift: exposure as a factor; the standard deviation of its logarithm over time.
        red, blue: white balance as factors.
        contrast: of an S curve, -1 to 1.
        black: what is added to black, of white; below zero shadows are crushed.
        saturation: a factor.
        grain, colour_grain: noise in grey levels, of brightness and of colours.
        vignette: share of the light that the corners lose.
        veil: stray light from one side, of white.
        bands, bands_wave, bands_speed: flicker of lamps: its strength as a factor, cycles over the picture's
            height, cycles a frame.
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
        shape: a table's edge, a plant's leaves, somebody's shoulder.
        side: -1 is the left, 1 the right; a table leans that way.
        reach: how far it comes into the picture, of its height (a table) or of its shorter side.
        blur: of its edge, of the shorter side.
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
class Look:
    """Everything that is drawn once a video."""

    camera: Camera
    mask: Mask | None
    occluder: Occluder | None


def draw_look(rng: np.random.Generator) -> Look:
    """A look: mostly mild, half of them with a mask, one in eight with something in front."""
    return Look(
        _draw_camera(rng),
        _draw_mask(rng) if rng.random() < 0.5 else None,
        _draw_occluder(rng) if rng.random() < 0.12 else None,
    )


def _mild(rng: np.random.Generator, most: float) -> float:
    """0 to most, mostly little."""
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
    tint = {"table": (1.15, 1.0, 0.8), "leaves": (0.5, 0.9, 0.45), "shoulder": rng.uniform(0.6, 1.3, 3)}[
        shape
    ]
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
