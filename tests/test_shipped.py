"""The shipped bundles: manifests, recipes, and detections on rendered people."""

import json
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from model.bundle import LOCATOR, WEIGHTS, Bundle
from model.detections import Detections
from model.detector import Detector
from model.engines import load_engine
from service.results import make_result
from service.schemas import Options, View
from training.people.camera.footage import write_video
from training.people.film import Recipe
from training.people.options import Mix, Storage
from training.people.studio import DatasetSpec, produce
from training.recipe import LOCATOR_FILE, load_recipe
from workers.serialization import make_model_card, make_stored_proposals, make_warnings


@pytest.fixture(scope="module")
def detector(shipped: Bundle) -> Detector:
    return Detector(shipped, load_engine(shipped, "openvino"))


def detect(detector: Detector, path: Path) -> Detections:
    with path.open("rb") as file:
        return detector.detect(file)


@pytest.mark.parametrize("name", ["demo", "videomae"])
def test_shipped_bundle_has_training_data_and_metrics(shipped: Bundle, name: str) -> None:
    bundle = Bundle.load(shipped.folder.parent / name)
    manifest = bundle.manifest
    assert manifest.name == name
    assert manifest.trained_on is not None
    assert manifest.trained_on.synthetic
    assert manifest.metrics is not None
    assert manifest.metrics["test_average_mAP"] > 5 * manifest.metrics["test_average_mAP_of_untrained_network"]
    assert manifest.calibration is not None
    assert manifest.thresholds.per_class is not None
    assert manifest.locator is not None
    assert len(manifest.taxonomy.actions) == 52
    assert [warning.code for warning in make_warnings(bundle)] == ["trained_on_synthetic_people"]


@pytest.mark.parametrize("name", ["demo", "videomae"])
def test_shipped_bundle_matches_its_recipe(shipped: Bundle, name: str) -> None:
    bundle, recipe = Bundle.load(shipped.folder.parent / name), load_recipe(name, [])
    manifest = bundle.manifest
    for setting in ("name", "version", "licence", "input", "architecture", "postprocessing"):
        assert getattr(recipe, setting) == getattr(manifest, setting), setting
    assert manifest.trained_on is not None
    assert recipe.synthetic == manifest.trained_on.synthetic
    assert (recipe.framing == "person") == (manifest.locator is not None)
    assert (bundle.folder / LOCATOR).read_bytes() == LOCATOR_FILE.read_bytes()
    stored = {value.dtype for value in load_file(bundle.folder / WEIGHTS).values()}
    assert (torch.float16 in stored) == (recipe.weights == "fp16")


def test_videomae_bundle_has_dsta_adapters(shipped: Bundle) -> None:
    parts = Bundle.load(shipped.folder.parent / "videomae").manifest.architecture
    assert parts.backbone.kind == "videomae"
    assert parts.adapter.kind == "dsta"


def test_shipped_bundles_are_below_60_mb(shipped: Bundle) -> None:
    assert sum(path.stat().st_size for path in shipped.folder.parent.rglob("*") if path.is_file()) < 60e6


def test_readme_example_shows_two_actions_and_hides_third(detector: Detector) -> None:
    """The README's example: of three true actions, the last scores below its threshold."""
    path = Path(__file__).parents[1] / "examples/interview.mp4"
    detections = detect(detector, path)
    proposals = detections.proposals
    codes = [detector.bundle.manifest.taxonomy.actions[label].code for label in proposals.labels[:2]]
    assert codes == ["E5", "B6"]
    assert abs(proposals.segments[0] - (0.0, 13.267)).max() < 1.0
    assert abs(proposals.segments[1] - (5.962, 6.648)).max() < 0.3
    stored = make_stored_proposals(detections, detector, Options(), job_id=None, video_sha256="0" * 64)
    result = make_result(stored, View())
    assert {entry.action.code for entry in result.detections} == {"E5", "B6"}
    third = next(entry for entry in result.hidden.best if entry.action.code == "B4")
    assert third.start_s == pytest.approx(10.4, abs=0.5)
    assert result.hidden.from_score <= third.score < third.threshold
    assert make_model_card(detector.bundle, detector.engine).calibrated


def test_detector_ranks_actions_better_than_chance(detector: Detector, tmp_path: Path) -> None:
    """On people that were not trained on."""
    recipe = Recipe(seed=77, height=160, width=128, mix=Mix.BALANCED, styles=("abrupt", "languid"), test=True)
    produce(DatasetSpec(recipe, tmp_path, Storage.MP4, 6), 1, lambda done, count: None)
    ranks = []
    for name, record in json.loads((tmp_path / "mmad.json").read_text()).items():
        detections = detect(detector, tmp_path / "videos" / f"{name}.mp4")
        assert detections.coverage[0].status == "analysed"
        best = np.zeros(52)
        np.maximum.at(best, detections.proposals.labels, detections.proposals.scores)
        ranks += [float((best > best[label]).sum()) for label in {action[0] for action in record["actions"]}]
    assert len(ranks) >= 10
    assert np.mean(ranks) < 20  # chance: 25.5


def test_empty_room_has_no_detections(detector: Detector, tmp_path: Path) -> None:
    room = np.full((30, 96, 128, 3), 90, np.uint8)
    room[:, 60:] = 60
    write_video(tmp_path / "room.mp4", room, 15.0, 20.0)
    detections = detect(detector, tmp_path / "room.mp4")
    assert not len(detections.proposals)
    assert [interval.status for interval in detections.coverage] == ["no_person"]
    assert [notice.code for notice in detections.notices] == ["no_person"]


@pytest.mark.shared("data/clips")
def test_real_clips_of_two_seconds_are_analysed(detector: Detector, shared: Path) -> None:
    for path in sorted((shared / "data/clips").glob("*.mp4")):
        detections = detect(detector, path)
        with av.open(str(path)) as video:
            duration_s = float(video.duration) / av.time_base
        assert [interval.status for interval in detections.coverage] == ["analysed"]
        assert detections.coverage[0].end_s == pytest.approx(duration_s, abs=0.1)
        assert not [notice.code for notice in detections.notices if notice.code != "picture_cropped"]
        assert len(detections.proposals)
