"""The person locator: decoding, the shipped model on rendered people, training, and bundles with a locator."""

import json
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from mmad.cli import app
from model.bundle import LOCATOR, Bundle, LocatorConfig, sha256
from model.detector import Detector
from model.errors import BundleError, EngineError
from model.export import export_bundle, read_locator, save_checkpoint
from model.locator import GraphLocator, Locator, _onnxruntime, _openvino, decode_people, iou, letterbox, load_locator
from model.person_crop import choose_person, count_people, sample_indices
from tests.test_detector import WhiteSpotter
from tests.untrained_bundle import make_untrained_manifest, make_untrained_network, no_graph_export
from training import locate, locate_network
from training.locate_stills import LONGEST, make_stills, stack_stills, video_numbers
from training.recipe import LOCATOR_FILE, load_recipe

HELD_OUT = video_numbers(4, held_out=True)


@pytest.fixture(scope="module")
def locator() -> Locator:
    return locate.load(LOCATOR_FILE)


@pytest.fixture(scope="module")
def bundle_with_locator(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("framed")
    manifest = make_untrained_manifest()
    save_checkpoint(folder / "demo.safetensors", make_untrained_network(manifest), manifest)
    with no_graph_export():
        return export_bundle(folder / "demo.safetensors", folder / "bundle", locator=LOCATOR_FILE)


def test_decoded_people_are_local_maxima() -> None:
    scores = np.zeros((8, 8), np.float32)
    scores[2, 2], scores[2, 3], scores[5, 6], scores[0, 7] = 0.8, 0.7, 0.9, 0.3
    boxes = np.zeros((8, 8, 4), np.float32)
    boxes[2, 2], boxes[5, 6] = (0.1, 0.1, 0.4, 0.5), (0.5, 0.4, 0.9, 0.9)
    np.testing.assert_array_equal(decode_people(scores, boxes, 0.5), [boxes[5, 6], boxes[2, 2]])
    assert decode_people(scores, boxes, 0.95).shape == (0, 4)
    boxes[5, 6] = boxes[2, 2] + 0.01
    assert len(decode_people(scores, boxes, 0.5)) == 1  # duplicate boxes of one person
    boxes[5, 6] = (0.12, 0.1, 0.3, 0.3)
    assert len(decode_people(scores, boxes, 0.5)) == 1  # a person's upper half


def test_letterbox_preserves_aspect_ratio() -> None:
    squares, inner_box = letterbox(np.full((2, 30, 60, 3), 200, np.uint8), 40)
    assert squares.shape == (2, 40, 40, 3)
    assert inner_box == (0, 10, 40, 20)
    assert squares[:, 10:30].min() > 195
    assert squares[:, :10].max() == 0


def test_located_boxes_are_in_frame_pixels() -> None:
    scores, boxes = np.zeros((1, 4, 4), np.float32), np.zeros((1, 4, 4, 4), np.float32)
    scores[0, 1, 1], boxes[0, 1, 1] = 0.9, (0.25, 0.25, 0.5, 0.85)
    shapes = []

    def graph(pictures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        shapes.append(pictures.shape)
        return scores, boxes

    boxes_by_frame = GraphLocator(LocatorConfig(size=40, threshold=0.5, margin=1), graph).find(
        np.zeros((1, 120, 240, 3), np.uint8)
    )
    assert shapes == [(1, 40, 40, 3)]
    # The picture takes rows 10 to 30 of 40, six pixels each; the box ends at row 34.
    np.testing.assert_allclose(boxes_by_frame[0], [[60, 0, 120, 120]], atol=1e-3)


def test_shipped_locator_finds_held_out_people(locator: Locator) -> None:
    stills = stack_stills(still for number in HELD_OUT for still in make_stills(77, number, people=1))
    scores = locate.measure(locator, stills, 1)
    assert scores["found"] >= 0.9
    assert scores["mean_iou"] >= 0.7
    assert scores["nobody"] <= 0.05


def test_shipped_locator_finds_no_people_in_empty_rooms(locator: Locator) -> None:
    stills = stack_stills(still for number in HELD_OUT for still in make_stills(77, number, people=0))
    assert locate.measure(locator, stills, 0)["nobody"] >= 0.85
    assert locator.find(np.full((1, 96, 128, 3), 128, np.uint8))[0].shape == (0, 4)


def test_shipped_locator_finds_two_people(locator: Locator) -> None:
    stills = stack_stills(still for number in HELD_OUT for still in make_stills(77, number, people=2))
    scores = locate.measure(locator, stills, 2)
    assert scores["several"] >= 0.7
    assert scores["nobody"] == 0


@pytest.mark.shared("data/clips")
@pytest.mark.parametrize(
    ("name", "person"),
    [
        ("A2_turning_around_0078_01_0005.mp4", (0.43, 0.13, 0.81, 0.83)),
        ("B2_shaking_head_0035_02_0007.mp4", (0.51, 0.26, 0.89, 0.89)),
    ],
)
def test_shipped_locator_finds_real_people(
    locator: Locator, shared: Path, name: str, person: tuple[float, ...]
) -> None:
    """Compare with boxes drawn by hand, in fractions of the picture, over all frames."""
    with av.open(str(shared / "data/clips" / name)) as container:
        frames = [frame.reformat(426, 512).to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    boxes_by_frame = locator.find(np.stack([frames[index] for index in sample_indices(len(frames))]))
    assert count_people(boxes_by_frame) == 1
    box = choose_person(boxes_by_frame)
    assert box is not None
    assert iou(box / np.array((426, 512, 426, 512), np.float32), np.array(person, np.float32)) > 0.7


def test_stills_depend_on_seed_and_number_only() -> None:
    first, second = (list(make_stills(5, HELD_OUT[0])) for _ in range(2))
    for still, again in zip(first, second, strict=True):
        np.testing.assert_array_equal(still.picture, again.picture)
        np.testing.assert_array_equal(still.boxes, again.boxes)


def test_stills_show_requested_number_of_people() -> None:
    assert set(HELD_OUT).isdisjoint(video_numbers(200, held_out=False))
    for people in (0, 1, 3):
        stills = list(make_stills(6, HELD_OUT[1], people=people))
        assert max(len(still.boxes) for still in stills) == people
        stacked = stack_stills(stills)
        for index, still in enumerate(stills):
            height, width = still.picture.shape[:2]
            assert max(height, width) == LONGEST
            assert (still.boxes >= 0).all()
            assert (still.boxes <= (width, height, width, height)).all()
            np.testing.assert_array_equal(stacked.still(index).picture, still.picture)
            np.testing.assert_allclose(stacked.still(index).boxes, still.boxes, atol=1e-3)


def test_augmentation_transforms_boxes_with_pictures() -> None:
    """A white rectangle stays in its box when cropped, scaled and mirrored."""
    stills = stack_stills(make_stills(6, HELD_OUT[1], people=1))
    left, top, right, bottom = box = (50, 40, 90, 110)
    stills.pictures[:] = 1
    stills.pictures[:, top:bottom, left:right] = 255
    stills.boxes[:] = np.nan
    stills.boxes[:, 0] = box
    rng, checked = np.random.default_rng(0), 0
    for _ in range(10):
        pictures, boxes = locate_network.augment(stills, np.arange(len(stills)), rng)
        for picture, (person_box, *_) in zip(pictures.numpy(), boxes.numpy() * locate_network.SIZE, strict=True):
            if np.isnan(person_box).any():
                continue
            grey = picture.astype(float).mean(axis=2)
            rows, columns = np.nonzero(grey > 0.5 * (grey.max() + grey.min()))
            inside = (
                (columns > person_box[0] - 2)
                & (columns < person_box[2] + 1)
                & (rows > person_box[1] - 2)
                & (rows < person_box[3] + 1)
            )
            assert inside.mean() > 0.95
            assert np.median(columns) == pytest.approx((person_box[0] + person_box[2]) / 2, abs=3)
            checked += 1
    assert checked > 20


def test_training_target_is_cell_of_box_centre() -> None:
    truth = torch.full((1, 2, 4), float("nan"))
    truth[0, 0] = torch.tensor([0.25, 0.25, 0.5, 0.75])
    scores, boxes = locate_network.make_targets(truth)
    cells = locate_network.CELLS
    assert (scores == 1).nonzero().tolist() == [[0, cells // 2, int(cells * 0.375)]]
    assert boxes[0, cells // 2, int(cells * 0.375)].tolist() == truth[0, 0].tolist()
    without_people = locate_network.make_targets(torch.full((1, 2, 4), float("nan")))[0]
    assert without_people.max() == 0


def test_training_lowers_loss_and_exports_locator(tmp_path: Path) -> None:
    stills = stack_stills(still for number in video_numbers(3, held_out=False) for still in make_stills(9, number))
    log: list[str] = []
    network = locate_network.train(stills, 8, 0, log.append, batch=6)
    losses = [float(line.rsplit(" ", 1)[1]) for line in log]
    assert losses[-1] < 0.7 * losses[0]
    config = LocatorConfig(size=locate_network.SIZE, threshold=0.3, margin=1.2)
    locate_network.save(network, config, tmp_path / "small.onnx")
    assert read_locator(tmp_path / "small.onnx") == config
    pictures = stills.pictures[:3, :128, :128]
    with torch.inference_mode():
        expected = locate_network.ExportedLocator(network)(torch.from_numpy(pictures))
    for run in (_openvino(tmp_path / "small.onnx"), _onnxruntime(tmp_path / "small.onnx")):
        for by_torch, by_runtime in zip(expected, run(pictures), strict=True):
            np.testing.assert_allclose(by_torch.numpy(), by_runtime, atol=1e-4)


def test_shipped_locator_is_small_and_contains_no_paths() -> None:
    assert LOCATOR_FILE.stat().st_size < 2_000_000
    assert b"site-packages" not in LOCATOR_FILE.read_bytes()
    parameters = sum(parameter.numel() for parameter in locate_network.LocatorNetwork().parameters())
    assert parameters < 500_000


def test_bundle_contains_its_locator(bundle_with_locator: Bundle, bundle: Bundle) -> None:
    assert bundle_with_locator.manifest.locator == read_locator(LOCATOR_FILE)
    assert bundle_with_locator.manifest.files[LOCATOR] == sha256(LOCATOR_FILE)
    assert Bundle.load(bundle_with_locator.folder) == bundle_with_locator
    assert load_locator(bundle_with_locator) is not None
    plain = Bundle(bundle.folder, bundle.manifest.model_copy(update={"locator": None}))
    assert load_locator(plain) is None


def test_bundle_with_locator_reports_missing_person(bundle_with_locator: Bundle, clip: Path) -> None:
    """The clip shows a moving square on noise."""
    spotter = WhiteSpotter(bundle_with_locator)
    with clip.open("rb") as file:
        detections = Detector(bundle_with_locator, spotter).detect(file)
    assert spotter.windows == 0
    assert [entry.status for entry in detections.coverage] == ["no_person"]
    assert [entry.code for entry in detections.notices] == ["no_person"]


def edit_manifest(folder: Path, how: dict[str, Any]) -> None:
    manifest = json.loads((folder / "bundle.json").read_text())
    (folder / "bundle.json").write_text(json.dumps(manifest | how))


def test_bundle_with_wrong_locator_is_refused(bundle_with_locator: Bundle, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    folder.mkdir()
    for path in bundle_with_locator.folder.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    Bundle.load(folder)
    (folder / LOCATOR).write_bytes(LOCATOR_FILE.read_bytes() + b"\0")
    with pytest.raises(BundleError, match=r"locator.onnx has SHA-256"):
        Bundle.load(folder)
    (folder / LOCATOR).unlink()
    with pytest.raises(BundleError, match=r"locator.onnx cannot be read"):
        Bundle.load(folder)
    files = {name: digest for name, digest in bundle_with_locator.manifest.files.items() if name != LOCATOR}
    edit_manifest(folder, {"files": files})
    with pytest.raises(BundleError, match=r"lists no locator.onnx"):
        Bundle.load(folder)
    edit_manifest(folder, {"files": files, "locator": {"size": 128, "threshold": 2, "margin": 1.1}})
    with pytest.raises(BundleError, match=r"locator.threshold"):
        Bundle.load(folder)


def test_file_that_is_no_locator_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("no graph")
    for path in (tmp_path / "text.onnx", bundle.folder / "network.onnx", tmp_path / "missing.onnx"):
        with pytest.raises(BundleError, match=r"is no locator: make one with python -m training.locate"):
            read_locator(path)


def test_missing_runtime_error_names_extra(bundle_with_locator: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model.locator.find_spec", lambda _name: None)
    with pytest.raises(EngineError, match="install an extra of mmad"):
        load_locator(bundle_with_locator)
    monkeypatch.setattr("model.locator.find_spec", lambda name: name == "onnxruntime" or None)
    assert load_locator(bundle_with_locator) is not None


def test_shipped_recipes_have_expected_framing() -> None:
    framings = {
        name: load_recipe(name, []).framing for name in ("demo", "videomae", "ablation", "mmad-small", "mmad-base")
    }
    assert framings == {
        "demo": "person",
        "videomae": "person",
        "ablation": "person",
        "mmad-small": "none",
        "mmad-base": "none",
    }


@pytest.mark.usefixtures("without_graphs")
def test_export_command_adds_locator(tmp_path: Path) -> None:
    manifest = make_untrained_manifest()
    save_checkpoint(tmp_path / "demo.safetensors", make_untrained_network(manifest), manifest)
    out = tmp_path / "bundle"
    arguments = ["export", "--checkpoint", str(tmp_path / "demo.safetensors"), "--out", str(out)]
    result = CliRunner().invoke(app, [*arguments, "--locator", str(LOCATOR_FILE)])
    assert result.exit_code == 0, result.output
    assert Bundle.load(out).manifest.locator is not None
    refused = CliRunner().invoke(app, [*arguments, "--locator", str(tmp_path / "demo.safetensors")])
    assert refused.exit_code == 1
