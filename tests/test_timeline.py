"""Timeline drawings: texts, size and hatching."""

import io
import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from service.results import make_result
from service.schemas import ResultView, Stretch, View
from service.timeline import draw_timeline
from tests.export_readers import read_svg_texts
from tests.result_examples import EXAMPLE, LABELS, make_proposals, with_gap_and_warning


@pytest.mark.parametrize("count", [0, 1, 5, 30, 500])
def test_timeline_labels_detections_or_counts(count: int) -> None:
    random = np.random.default_rng(count)
    starts = 0.6 * np.arange(count)
    ends = starts + random.uniform(0.2, 1.7, count)
    rows = zip(starts, ends, random.uniform(0, 1, count), np.arange(count) % 3, strict=True)
    proposals = with_gap_and_warning(make_proposals(*rows, duration_s=300))
    result = make_result(proposals, View(min_score=0))
    texts = read_svg_texts(draw_timeline("a $b$ <c>", result, LABELS, "svg"))
    assert {"a $b$ <c>", "Body", "Head"} <= set(texts)
    assert "Hatched in grey: nobody was seen there, so nothing was looked for." in texts
    assert any(text.startswith("trained_on_synthetic_people: ") for text in texts)
    if count <= 60:
        labels = sorted(text for text in texts if re.fullmatch(r"(shaking|nodding).* \d\.\d\d", text))
        assert labels == sorted(f"{detection.action.name} {detection.score:.2f}" for detection in result.detections)
    else:
        counts = Counter(detection.action.name for detection in result.detections)
        assert {f"{name}  {count}" for name, count in counts.items()} <= set(texts)


def test_long_timeline_is_compact_and_shows_counts() -> None:
    random = np.random.default_rng(0)
    starts = 1.1 * np.arange(6000)
    rows = zip(starts, starts + 1, random.uniform(0, 1, 6000), [1] * 6000, strict=True)
    result = make_result(make_proposals(*rows, duration_s=7200), View(min_score=0))
    svg = draw_timeline("x", result, LABELS, "svg")
    assert {"nodding  6000", "0:00:00", "1:30:00", "2:00:00", "h:min:s"} <= set(read_svg_texts(svg))
    assert svg.count(b"<path") < 1200
    with Image.open(io.BytesIO(draw_timeline("x", result, LABELS, "png"))) as image:
        assert image.width < 2000
        assert image.height < 2000


def test_timeline_legend_shows_damaged_coverage() -> None:
    coverage = [Stretch(start_s=0, end_s=12, status="analysed"), Stretch(start_s=12, end_s=20, status="damaged")]
    context = EXAMPLE.context.model_copy(update={"coverage": coverage})
    result = make_result(replace(EXAMPLE, context=context), View(min_score=0))
    texts = read_svg_texts(draw_timeline("x", result, LABELS, "svg"))
    assert "Crossed in red: the video could not be decoded there." in texts
    assert not any(text.startswith("Hatched") for text in texts)


def test_timeline_is_limited_to_selected_range() -> None:
    result = make_result(EXAMPLE, ResultView(min_score=0, from_s=10, to_s=13))
    texts = read_svg_texts(draw_timeline("x", result, LABELS, "svg"))
    assert {"10.0", "13.0", "shaking head 0.65"} <= set(texts)
    assert "nodding 0.90" not in texts
    assert draw_timeline("x", make_result(EXAMPLE, ResultView(from_s=900)), LABELS, "svg")
