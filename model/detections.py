"""What the detector found in one video."""

from dataclasses import dataclass
from typing import Literal

from model.segments import Proposals
from model.video import Media


@dataclass(frozen=True)
class Stretch:
    """A part of the video and what became of it."""

    start_s: float
    end_s: float
    status: Literal["analysed", "no_person", "damaged"]


@dataclass(frozen=True)
class Notice:
    """Something the caller should know; `code` is stable."""

    code: str
    detail: str


@dataclass(frozen=True)
class Detections:
    """Every proposal of the detector, best first, with what was looked at. No threshold is applied."""

    proposals: Proposals
    media: Media
    coverage: tuple[Stretch, ...]
    notices: tuple[Notice, ...] = ()
    decode_s: float = 0.0
    """How long the detector waited for frames, of all the seconds it took."""
