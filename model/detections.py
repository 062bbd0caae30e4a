"""What the detector found in one video, at both levels."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from model.segments import Proposals
from model.taxonomy import Taxonomy
from model.video import Media


@dataclass(frozen=True)
class Stretch:
    """A part of the video and what became of it."""

    start_s: float
    end_s: float
    status: Literal["analysed"]


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


def to_body_level(proposals: Proposals, taxonomy: Taxonomy) -> Proposals:
    """The same proposals with the id of their action's body part as label (paper, section 4.1)."""
    body_of = np.array([action.body_id for action in taxonomy.actions])
    return Proposals(proposals.segments, proposals.scores, body_of[proposals.labels])
