"""The results of the detector for one video."""

from dataclasses import dataclass
from typing import Literal

from model.segments import Proposals
from model.video import Media


@dataclass(frozen=True)
class CoverageInterval:
    """An interval of the video, and whether it was analysed."""

    start_s: float
    end_s: float
    status: Literal["analysed", "no_person", "damaged"]


@dataclass(frozen=True)
class Notice:
    """A notice for the caller; `code` is stable."""

    code: str
    detail: str


@dataclass(frozen=True)
class Detections:
    """All proposals of the detector, highest score first, without a threshold, and the coverage of the video."""

    proposals: Proposals
    media: Media
    coverage: tuple[CoverageInterval, ...]
    notices: tuple[Notice, ...] = ()
    decode_s: float = 0.0
    """The part of the detector's time that it waited for frames."""
