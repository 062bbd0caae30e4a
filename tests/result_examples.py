"""Example proposals and results."""

from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import strategies as st

from model.taxonomy import Action, Body, Taxonomy
from service.exports import VideoResult
from service.results import StoredProposals, make_result
from service.schemas import (
    ActionLabel,
    Context,
    Label,
    Labels,
    Media,
    ModelUsed,
    Notice,
    Options,
    Reproduction,
    ResultView,
    Stretch,
    View,
)

BODIES = [Label(id=0, code="A", name="Body"), Label(id=1, code="B", name="Head")]


LABELS = Labels(
    bodies=BODIES,
    actions=[
        ActionLabel(id=0, code="A1", name="shaking body", body=BODIES[0]),
        ActionLabel(id=1, code="B1", name="nodding", body=BODIES[1]),
        ActionLabel(id=2, code="B2", name="shaking head", body=BODIES[1]),
    ],
)


REPRODUCTION = Reproduction(
    mmad="0.1.0", python="3.11.9", packages={"av": "18.1.0", "numpy": "2.4.0", "openvino": "2026.4.0"},
    bundle_sha256="1" * 64, taxonomy_sha256="2" * 64, device="cpu", decode_fps=15, input_width=160, input_height=160,
    window_frames=192, overlap_frames=64, postprocessing={"nms": "soft", "soft_nms_sigma": 0.7}, calibrated=True,
)  # fmt: skip


def make_proposals(*rows: tuple[float, float, float, int], duration_s: float = 20.0) -> StoredProposals:
    table = np.array(rows, np.float32).reshape(-1, 4)
    table = table[np.argsort(-table[:, 2], kind="stable")]
    media = Media(
        sha256="0" * 64, duration_s=duration_s, width=2, height=2, frames_decoded=9,
        average_fps=30, variable_frame_rate=False, rotation_deg=0,
    )  # fmt: skip
    model = ModelUsed(bundle="b", version="1", weights_sha256="0", engine="e", precision="fp32", trained_on=None)
    context = Context(
        job_id="j", media=media, model=model, settings=Options(region=None), partial=False, warnings=[],
        coverage=[Stretch(start_s=0, end_s=duration_s, status="analysed")], labels=LABELS, thresholds=[0.5, 0.6, 0.7],
        reproduction=REPRODUCTION,
    )  # fmt: skip
    return StoredProposals(table[:, :2], table[:, 2], table[:, 3].astype(np.int64), context)


EXAMPLE = make_proposals(
    (1, 3, 0.9, 1), (2, 4, 0.8, 2), (2.5, 6, 0.55, 0), (10, 12, 0.65, 2), (4, 5, 0.61, 1), (15, 16, 0.4, 0)
)


# Times on a coarse grid touch and overlap; others are rounded.
random_row = st.tuples(
    st.one_of(st.integers(0, 24).map(lambda n: n / 2), st.floats(0, 12, width=32)),
    st.one_of(st.integers(0, 12).map(lambda n: n / 2), st.floats(0, 1, width=32)),
    st.floats(0, 1, width=32),
    st.integers(0, 2),
)


random_proposals = st.lists(random_row, max_size=25).map(
    lambda rows: make_proposals(*((start, start + length, score, label) for start, length, score, label in rows))
)


TAXONOMY = Taxonomy(
    bodies=tuple(Body(id=label.id, code=label.code, name=label.name) for label in LABELS.bodies),
    actions=tuple(
        Action(id=label.id, code=label.code, name=label.name, body_id=label.body.id) for label in LABELS.actions
    ),
)


def with_gap_and_warning(proposals: StoredProposals) -> StoredProposals:
    coverage = [
        Stretch(start_s=0, end_s=12.5, status="analysed"),
        Stretch(start_s=12.5, end_s=14, status="no_person"),
        Stretch(start_s=14, end_s=20, status="analysed"),
    ]
    warnings = [Notice(code="trained_on_synthetic_people", detail="On real people it is worse. " * 12)]
    context = proposals.context.model_copy(update={"coverage": coverage, "warnings": warnings})
    return replace(proposals, context=context)


def make_video_result(
    proposals: StoredProposals = EXAMPLE, video: str = "interview", view: View | None = None, **more: Any
) -> VideoResult:
    return VideoResult(video, make_result(proposals, view or ResultView(min_score=0.5)), proposals, **more)


def with_start_offset(proposals: StoredProposals, offset_s: float) -> StoredProposals:
    """Set the video's start offset."""
    media = proposals.context.media.model_copy(update={"start_offset_s": offset_s})
    return replace(proposals, context=proposals.context.model_copy(update={"media": media}))


EXAMPLE_VIDEOS = [make_video_result(with_gap_and_warning(EXAMPLE), source="videos/interview 1.mp4", rate=2)]
