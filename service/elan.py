"""ELAN's .eaf files: a tier for each class, with scores, and the classes as controlled vocabularies.

Written as version 2.8 of the format, which every ELAN since 4.7 reads. `training/elan.py` reads them back; the names
of linguistic types tell it which tiers hold what.
"""

import mimetypes
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from service.schemas import EafScores, Labels
from service.tracks import BodyTracks, Span, Track

ACTION_TYPE, BODY_TYPE, SCORE_TYPE = "action", "body part", "score"
_ACTIONS, _BODIES = "actions", "body parts"
# What ELAN itself writes for "no language in particular"; vocabularies must name a language.
_LANGUAGE = ("und", "http://cdb.iso.org/lg/CDB-00130975-001", "undetermined (und)")


def write_eaf(
    file_name: str, bodies: Sequence[BodyTracks], labels: Labels, scores: EafScores = "tier"
) -> bytes:
    """An .eaf linked with a video.

    Args:
        file_name: of the video, which ELAN looks for beside the .eaf.
        bodies: what was found.
        labels: all classes: annotators choose from them, also what was not found.
        scores: `tier` puts them into dependent tiers of the actions', `value` behind the names, as in "nodding (0.83)";
            such values are in no vocabulary, so there is none.
    """
    from pympi.Elan import Eaf, to_string

    eaf = Eaf(author="mmad")
    eaf.remove_tier("default")
    eaf.header.update({"MEDIA_FILE": "", "TIME_UNITS": "milliseconds"})
    name = quote(file_name)
    eaf.add_linked_file(f"file:///{name}", f"./{name}", mimetypes.guess_type(file_name)[0] or "video/mp4")
    _add_types(eaf, labels, with_vocabularies=scores == "tier")
    for body, actions in bodies:
        _add_tier(eaf, body, BODY_TYPE, scores)
        for action in actions:
            tier = _add_tier(eaf, action, ACTION_TYPE, scores)
            if scores == "tier":
                _add_scores(eaf, tier, action.spans)
    text: str = to_string(eaf)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{text}\n'.encode()


def _add_types(eaf: Any, labels: Labels, *, with_vocabularies: bool) -> None:
    if not with_vocabularies:
        for kind in (ACTION_TYPE, BODY_TYPE):
            eaf.add_linguistic_type(kind)
        return
    eaf.add_language(*_LANGUAGE)
    actions = {one.name: f"{one.code}, {one.body.name}" for one in labels.actions}
    bodies = {one.name: one.code for one in labels.bodies}
    for kind, vocabulary, entries in ((ACTION_TYPE, _ACTIONS, actions), (BODY_TYPE, _BODIES, bodies)):
        eaf.add_controlled_vocabulary(vocabulary)
        for number, (value, description) in enumerate(entries.items()):
            entry = f"cve-{kind[0]}{number}"  # unique in the whole file
            eaf.add_cv_entry(vocabulary, entry, [(value, _LANGUAGE[0], description)])
        eaf.add_linguistic_type(
            kind,
            param_dict={
                "LINGUISTIC_TYPE_ID": kind,
                "TIME_ALIGNABLE": "true",
                "GRAPHIC_REFERENCES": "false",
                "CONTROLLED_VOCABULARY_REF": vocabulary,
            },
        )
    eaf.add_linguistic_type(SCORE_TYPE, "Symbolic_Association", timealignable=False)


def _add_tier(eaf: Any, track: Track, kind: str, scores: EafScores) -> str:
    """A tier with an annotation for each span; returns its name, which no other tier has."""
    tier = f"{track.label.code} {track.label.name}"
    if tier in eaf.tiers:
        tier += f" ({kind})"
    eaf.add_tier(tier, kind)
    for start_ms, end_ms, score in track.spans:
        value = track.label.name if scores == "tier" else f"{track.label.name} ({score:.2f})"
        eaf.add_annotation(tier, start_ms, end_ms, value)
    return tier


def _add_scores(eaf: Any, parent: str, spans: Sequence[Span]) -> None:
    """A dependent tier: one score for each annotation of the parent."""
    tier = f"{parent}: score"
    eaf.add_tier(tier, SCORE_TYPE, parent=parent)
    for start_ms, end_ms, score in spans:
        eaf.add_ref_annotation(tier, parent, (start_ms + end_ms) / 2, f"{score:.4f}")
