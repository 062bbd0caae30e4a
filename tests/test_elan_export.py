"""ELAN exports, read with pympi and checked against the schema."""

import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings

from service.exports import write_export
from service.results import StoredProposals
from service.schemas import Label, Labels, View
from tests.result_examples import EXAMPLE_VIDEOS, LABELS, make_proposals, make_video_result, random_proposals
from training.elan import read_eaf


@settings(max_examples=30)
@given(proposals=random_proposals)
def test_pympi_reads_exported_tiers(proposals: StoredProposals, tmp_path_factory: pytest.TempPathFactory) -> None:
    from pympi.Elan import Eaf

    path = tmp_path_factory.mktemp("elan") / "x.eaf"
    video = make_video_result(proposals, view=View(min_score=0), source="/videos/a b.mp4")
    path.write_bytes(write_export("eaf", [video]))
    eaf = Eaf(str(path), suppress_version_warning=True)
    assert eaf.media_descriptors[0]["RELATIVE_MEDIA_URL"] == "./a%20b.mp4"
    assert eaf.media_descriptors[0]["MIME_TYPE"] == "video/mp4"
    detections = video.result.detections
    actions = {f"{detection.action.code} {detection.action.name}" for detection in detections}
    bodies = {f"{detection.body.code} {detection.body.name}" for detection in detections}
    assert set(eaf.get_tier_names()) == actions | bodies | {f"{tier}: score" for tier in actions}
    for tier in actions | bodies:
        annotations = sorted(eaf.get_annotation_data_for_tier(tier))
        ends = [end for _, end, _ in annotations]
        assert all(start < end for start, end, _ in annotations)
        assert all(end <= after[0] for end, after in zip(ends, annotations[1:], strict=False))
    for segment in video.result.body_segments:
        tier = f"{segment.body.code} {segment.body.name}"
        times = round(segment.start_s * 1000), round(segment.end_s * 1000), segment.body.name
        assert times in eaf.get_annotation_data_for_tier(tier)
    read = read_eaf(path)
    assert read.media == {"a b.mp4": 0}
    codes = {action.name for action in LABELS.actions} | {body.name for body in LABELS.bodies}
    assert {annotation.label for annotation in read.annotations if annotation.kind != "score"} <= codes


def test_elan_scores_and_controlled_vocabularies(tmp_path: Path) -> None:
    from pympi.Elan import Eaf

    proposals = make_proposals((1, 3, 0.9, 1), (2, 4, 0.8, 1), (4, 5, 0.7, 1), (6, 7, 0.6, 2))
    path = tmp_path / "x.eaf"
    path.write_bytes(write_export("eaf", [make_video_result(proposals)]))
    eaf = Eaf(str(path))
    times = [row[:3] for row in eaf.get_annotation_data_for_tier("B1 nodding")]
    assert sorted(times) == [(1000, 3000, "nodding"), (4000, 5000, "nodding")]
    scores = {row[:3] for row in eaf.get_ref_annotation_data_for_tier("B1 nodding: score")}
    assert scores == {(1000, 3000, "0.9000"), (4000, 5000, "0.7000")}
    assert eaf.tiers["B1 nodding: score"][2]["PARENT_REF"] == "B1 nodding"
    for kind, labels in (("action", LABELS.actions), ("body part", LABELS.bodies)):
        vocabulary = eaf.linguistic_types[kind]["CONTROLLED_VOCABULARY_REF"]
        entries = eaf.controlled_vocabularies[vocabulary][1].values()
        assert [values[0][0] for values, _ in entries] == [label.name for label in labels]
    assert eaf.tiers["B Head"][2]["LINGUISTIC_TYPE_REF"] == "body part"


def test_elan_elements_and_references_follow_schema() -> None:
    """Element order, references and identifiers are those of schema version 2.8."""
    root = ElementTree.fromstring(write_export("eaf", EXAMPLE_VIDEOS))
    order = ["HEADER", "TIME_ORDER", "TIER", "LINGUISTIC_TYPE", "LANGUAGE", "CONSTRAINT", "CONTROLLED_VOCABULARY"]
    indices = [order.index(element.tag) for element in root]
    assert indices == sorted(indices)
    ids = [value for element in root.iter() for name, value in element.attrib.items()
           if name in ("TIME_SLOT_ID", "ANNOTATION_ID", "CVE_ID", "LANG_ID")]  # fmt: skip
    assert len(ids) == len(set(ids))
    assert all(re.fullmatch(r"[A-Za-z_][\w.-]*", name) for name in ids)
    for reference, element, name in (
        ("LINGUISTIC_TYPE_REF", "LINGUISTIC_TYPE", "LINGUISTIC_TYPE_ID"), ("PARENT_REF", "TIER", "TIER_ID"),
        ("CONTROLLED_VOCABULARY_REF", "CONTROLLED_VOCABULARY", "CV_ID"), ("LANG_REF", "LANGUAGE", "LANG_ID"),
        ("CONSTRAINTS", "CONSTRAINT", "STEREOTYPE"), ("ANNOTATION_REF", "ALIGNABLE_ANNOTATION", "ANNOTATION_ID"),
    ):  # fmt: skip
        referenced = {node.get(reference) for node in root.iter()} - {None}
        assert referenced
        assert referenced <= {node.get(name) for node in root.iter(element)}


def test_elan_tiers_of_same_name_stay_separate(tmp_path: Path) -> None:
    """A body part and an action may have the same code and name."""
    proposals = make_proposals((1, 3, 0.9, 1))
    bodies = [LABELS.bodies[0], Label(id=1, code="B1", name="nodding")]
    actions = [action.model_copy(update={"body": bodies[action.body.id]}) for action in LABELS.actions]
    labels = Labels(bodies=bodies, actions=actions)
    same_name = replace(proposals, context=proposals.context.model_copy(update={"labels": labels}))
    path = tmp_path / "x.eaf"
    path.write_bytes(write_export("eaf", [make_video_result(same_name)]))
    assert len([annotation for annotation in read_eaf(path).annotations if annotation.kind != "score"]) == 2
