"""Read .eaf files of ELAN: annotations of all tiers with their times in the video."""

import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import NamedTuple
from urllib.parse import unquote

from pympi.Elan import Eaf

from training.files import AnnotationError, NameIndex

# Score that mmad's exports append to a label: "nodding (0.83)".
_SCORE = re.compile(r"\s\([01]\.\d\d\)$")
_KINDS_WITH_SCORES = ("action", "body part")


class Annotation(NamedTuple):
    """One annotation, in the time of the file; `kind` is its tier's linguistic type, an empty label its tier's name."""

    tier: str
    kind: str
    id: str
    start_s: float
    end_s: float
    label: str


@dataclass(frozen=True)
class Elan:
    """Annotations of one .eaf file; `media` has its linked files, and the second of each at which its time begins."""

    media: dict[str, float]
    annotations: tuple[Annotation, ...]

    def shift_s(self, video: str) -> float:
        """Return the seconds to add for times of a video, by its file name; a single linked file may have any name."""
        only = next(iter(self.media.values())) if len(self.media) == 1 else 0.0
        linked = NameIndex((name, name) for name in self.media).find(video)
        return self.media[linked] if linked else only


def read_eaf(path: Path, tiers: Sequence[str] = ()) -> Elan:
    """Read these tiers of an .eaf file, all if none are named. Raises AnnotationError."""
    eaf = _parse(path)
    missing = [name for name in tiers if name not in eaf.tiers]
    if missing:
        raise AnnotationError(
            f"{path}: there is no tier {missing[0]!r}; its tiers are {', '.join(map(repr, eaf.tiers))}"
        )
    media = {
        PureWindowsPath(unquote(one.get("MEDIA_URL", ""))).name: int(one.get("TIME_ORIGIN") or 0) / 1000  # takes / too
        for one in eaf.media_descriptors
    }
    return Elan(media, tuple(_annotations(path, eaf, tiers or tuple(eaf.tiers))))


def _parse(path: Path) -> Eaf:
    with warnings.catch_warnings():
        # pympi warns of newer versions of the format, which differ in parts that are not read here.
        warnings.simplefilter("ignore")
        try:
            return Eaf(str(path))
        except Exception as error:  # pympi raises Exception, KeyError and ValueError for invalid files
            raise AnnotationError(
                f"{path} is no .eaf file of ELAN ({error}): open it in ELAN and save it anew"
            ) from error


def _annotations(path: Path, eaf: Eaf, tiers: Sequence[str]) -> Iterator[Annotation]:
    for tier in tiers:
        aligned, referring, attributes, _ = eaf.tiers[tier]
        kind = attributes.get("LINGUISTIC_TYPE_REF", "")
        values = {id: entry[2] for id, entry in aligned.items()} | {id: entry[1] for id, entry in referring.items()}
        for id, value in values.items():
            start, end = (eaf.timeslots.get(slot) for slot in _find_slots(eaf, id))
            if start is None or end is None:
                raise AnnotationError(
                    f"{path}: tier {tier!r}, annotation {id} ({value!r}) has no time of its own: align it in ELAN"
                )
            label = value.strip()
            if kind in _KINDS_WITH_SCORES:
                label = _SCORE.sub("", label)
            yield Annotation(tier, kind, id, start / 1000, end / 1000, label or tier)


def _find_slots(eaf: Eaf, id: str) -> tuple[str, str]:
    """Return the time slots of an annotation; a referring annotation has those of the one it refers to."""
    aligned, referring = eaf.tiers[eaf.annotations[id]][:2]
    if id in aligned:
        start, end, *_ = aligned[id]
        return start, end
    return _find_slots(eaf, referring[id][0])
