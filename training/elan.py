"""ELAN's .eaf files: annotations of all tiers with their times in the video."""

import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import NamedTuple
from urllib.parse import unquote

from pympi.Elan import Eaf

from training.files import Names

# As mmad's exports write it behind a name: "nodding (0.83)".
_SCORE = re.compile(r"\s\([01]\.\d\d\)$")
_KINDS_WITH_SCORES = ("action", "body part")


class ElanError(Exception):
    """A file that ELAN did not write, or that it could not open again."""


class Annotation(NamedTuple):
    """One annotation, in the file's own time; its label as written, or its tier's name where nothing is.

    Attributes:
        kind: the linguistic type of its tier.
    """

    tier: str
    kind: str
    id: str
    start_s: float
    end_s: float
    label: str


@dataclass(frozen=True)
class Elan:
    """One file.

    Attributes:
        media: names of the linked files, without folders, and how far into each of them the file's time begins (s).
        annotations: of the tiers that were asked for.
    """

    media: dict[str, float]
    annotations: tuple[Annotation, ...]

    def shift_s(self, video: str) -> float:
        """What to add to times for those of a video, by its file name; one that was renamed is the only one linked."""
        only = next(iter(self.media.values())) if len(self.media) == 1 else 0.0
        linked = Names((name, name) for name in self.media).find(video)
        return self.media[linked.name] if linked else only


def read_eaf(path: Path, tiers: Sequence[str] = ()) -> Elan:
    """Read an .eaf.

    Args:
        path: of the file.
        tiers: only these are read; all without any.

    Raises:
        ElanError: the file cannot be read, lacks one of the tiers, or has annotations without times.
    """
    eaf = _parse(path)
    missing = [name for name in tiers if name not in eaf.tiers]
    if missing:
        raise ElanError(
            f"{path}: there is no tier {missing[0]!r}; its tiers are {', '.join(map(repr, eaf.tiers))}"
        )
    media = {
        _name_of(one.get("MEDIA_URL", "")): int(one.get("TIME_ORIGIN") or 0) / 1000
        for one in eaf.media_descriptors
    }
    return Elan(media, tuple(_annotations(path, eaf, tiers or tuple(eaf.tiers))))


def _parse(path: Path) -> Eaf:
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # of newer versions of the format, which differ in what is not read here
        try:
            return Eaf(str(path))
        except (
            Exception
        ) as error:  # the library raises bare Exception, KeyError and ValueError for broken files
            raise ElanError(
                f"{path} is no .eaf file of ELAN ({error}): open it in ELAN and save it anew"
            ) from error


def _annotations(path: Path, eaf: Eaf, tiers: Sequence[str]) -> Iterator[Annotation]:
    for tier in tiers:
        aligned, referring, attributes, _ = eaf.tiers[tier]
        kind = attributes.get("LINGUISTIC_TYPE_REF", "")
        values = {id: entry[2] for id, entry in aligned.items()} | {
            id: entry[1] for id, entry in referring.items()
        }
        for id, value in values.items():
            start, end = (eaf.timeslots.get(slot) for slot in _slots(eaf, id))
            if start is None or end is None:
                raise ElanError(
                    f"{path}: tier {tier!r}, annotation {id} ({value!r}) has no time of its own: align it in ELAN"
                )
            label = value.strip()
            if kind in _KINDS_WITH_SCORES:
                label = _SCORE.sub("", label)
            yield Annotation(tier, kind, id, start / 1000, end / 1000, label or tier)


def _slots(eaf: Eaf, id: str) -> tuple[str, str]:
    """Where an annotation begins and ends; one that refers to another has the other's."""
    aligned, referring = eaf.tiers[eaf.annotations[id]][:2]
    if id in aligned:
        start, end, *_ = aligned[id]
        return start, end
    return _slots(eaf, referring[id][0])


def _name_of(url: str) -> str:
    """The file's name alone, of a URL or a path of any system."""
    return PureWindowsPath(unquote(url)).name
