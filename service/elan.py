"""Writes ELAN's .eaf files: one tier per class, with scores, and the classes as controlled vocabularies.

Uses version 2.8 of the format, which ELAN reads since 4.7. `training/elan.py` reads these files and recognizes the
tiers by the names of their linguistic types.
"""

import mimetypes
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from service.schemas import EafScores, Labels
from service.tracks import Track

ACTION_TYPE, BODY_TYPE, SCORE_TYPE = "action", "body part", "score"
_ACTIONS, _BODIES = "actions", "body parts"
# ELAN's own entry for an undetermined language; vocabularies must have a language.
_LANGUAGE = ("und", "http://cdb.iso.org/lg/CDB-00130975-001", "undetermined (und)")


def write_eaf(file_name: str, bodies: Sequence[tuple[Track, list[Track]]], labels: Labels, scores: EafScores) -> bytes:
    """Write an .eaf file linked to a video, which ELAN expects beside it; `labels` are the vocabularies to choose from.

    `scores="tier"` writes scores to dependent tiers of the action tiers; `value` appends them to the annotations'
    values, as in "nodding (0.83)", and omits the vocabularies, which do not contain such values.
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
            _add_tier(eaf, action, ACTION_TYPE, scores)
    text: str = to_string(eaf)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{text}\n'.encode()


def _add_types(eaf: Any, labels: Labels, *, with_vocabularies: bool) -> None:
    if not with_vocabularies:
        for kind in (ACTION_TYPE, BODY_TYPE):
            eaf.add_linguistic_type(kind)
        return
    eaf.add_language(*_LANGUAGE)
    actions = {action.name: f"{action.code}, {action.body.name}" for action in labels.actions}
    bodies = {body.name: body.code for body in labels.bodies}
    for kind, vocabulary, entries in ((ACTION_TYPE, _ACTIONS, actions), (BODY_TYPE, _BODIES, bodies)):
        eaf.add_controlled_vocabulary(vocabulary)
        for number, (value, description) in enumerate(entries.items()):
            entry = f"cve-{kind[0]}{number}"  # unique in the whole file
            eaf.add_cv_entry(vocabulary, entry, [(value, _LANGUAGE[0], description)])
        flags = {"TIME_ALIGNABLE": "true", "GRAPHIC_REFERENCES": "false"}
        eaf.add_linguistic_type(
            kind, param_dict={"LINGUISTIC_TYPE_ID": kind, **flags, "CONTROLLED_VOCABULARY_REF": vocabulary}
        )
    eaf.add_linguistic_type(SCORE_TYPE, "Symbolic_Association", timealignable=False)


def _add_tier(eaf: Any, track: Track, kind: str, scores: EafScores) -> None:
    """Add a tier with an annotation for each span, and for an action the tier of its scores."""
    name = track.label.name
    tier = f"{track.label.code} {name}"
    if tier in eaf.tiers:
        tier += f" ({kind})"
    eaf.add_tier(tier, kind)
    for start_ms, end_ms, score in track.spans:
        eaf.add_annotation(tier, start_ms, end_ms, name if scores == "tier" else f"{name} ({score:.2f})")
    if kind == ACTION_TYPE and scores == "tier":
        eaf.add_tier(f"{tier}: score", SCORE_TYPE, parent=tier)
        for start_ms, end_ms, score in track.spans:
            eaf.add_ref_annotation(f"{tier}: score", tier, (start_ms + end_ms) / 2, f"{score:.4f}")
