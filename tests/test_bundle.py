"""The bundle format: strict schema and file hashes."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from model.bundle import Bundle
from model.errors import BundleError
from model.taxonomy import Taxonomy


@pytest.fixture
def bundle_copy(bundle: Bundle, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle.folder, tmp_path / "bundle"))


def rewrite(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    manifest = json.loads((folder / "bundle.json").read_text())
    change(manifest)
    (folder / "bundle.json").write_text(json.dumps(manifest))


@pytest.mark.shared("data/labels.json")
def test_shipped_labels_equal_data_set_labels(bundle: Bundle, shared: Path) -> None:
    taxonomy = bundle.manifest.taxonomy
    ours = [
        (entry.id, entry.name, entry.code, entry.body_id, taxonomy.bodies[entry.body_id].name)
        for entry in taxonomy.actions
    ]
    theirs = json.loads((shared / "data/labels.json").read_text())
    assert ours == [tuple(entry[key] for key in ("id", "name", "code", "body_id", "body")) for entry in theirs]


def test_manifest_survives_round_trip(bundle: Bundle) -> None:
    assert (bundle.folder / "bundle.json").read_text() == bundle.manifest.to_json()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(colour="red"), "colour: Extra inputs"),
        (lambda m: m["input"].update(heigth=1), "input.heigth: Extra inputs"),
        (lambda m: m["input"].update(height=100), "height 100 is no multiple of 16"),
        (lambda m: m["input"].update(window_frames=200), "window_frames must be a multiple of clip_frames"),
        (lambda m: m["input"].update(overlap_frames=192), "overlap_frames must be below"),
        (lambda m: m["taxonomy"]["actions"][3].update(id=9), "action ids must count"),
        (lambda m: m["taxonomy"]["actions"][3].update(code="A1"), "action codes must differ"),
        (lambda m: m["taxonomy"]["actions"][3].update(body_id=9), r"body parts that are not listed: \[9\]"),
        (lambda m: m["thresholds"].update(per_class=[0.5]), "has 1 values for 52 actions"),
        (lambda m: m["architecture"]["adapter"].update(kind="magic"), "architecture.adapter.kind"),
        (lambda m: m["architecture"]["head"].update(heads=5), "channels 32 is no multiple of heads 5"),
        (lambda m: m["architecture"]["head"].update(kernel_size=2), "kernel_size must be odd"),
        (lambda m: m["input"].update(fps="15"), "input.fps: Input should be a valid number"),
        (lambda m: m["input"].update(fps=float("inf")), "input.fps"),
        (lambda m: m["input"].update(std=[0, 1, 1]), "input.std.0: Input should be greater than 0"),
        (lambda m: m["input"].update(mean=[float("nan"), 1, 1]), "input.mean.0"),
        (lambda m: m.update(schema_version=2), "schema_version"),
        (lambda m: m.pop("trained_on"), "trained_on: Field required"),
        (lambda m: m["files"].pop("network.onnx"), "lists no network.onnx"),
        (lambda m: m["files"].update({"../x": "0" * 64}), "not a plain file name"),
    ],
)
def test_invalid_manifest_error_names_field(
    bundle_copy: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    rewrite(bundle_copy, change)
    with pytest.raises(BundleError, match=message):
        Bundle.load(bundle_copy)


def test_changed_file_is_refused(bundle_copy: Path) -> None:
    with (bundle_copy / "weights.safetensors").open("r+b") as file:
        file.seek(1000)
        file.write(b"!")
    with pytest.raises(BundleError, match=r"weights.safetensors has SHA-256 .* copy the bundle anew"):
        Bundle.load(bundle_copy)


def test_missing_file_error_names_file(bundle_copy: Path) -> None:
    (bundle_copy / "network.onnx").unlink()
    with pytest.raises(BundleError, match="network.onnx cannot be read"):
        Bundle.load(bundle_copy)
    with pytest.raises(BundleError, match=r"no bundle at .*nowhere"):
        Bundle.load(bundle_copy / "nowhere")


def test_taxonomy_may_have_other_size() -> None:
    bodies = [{"id": id, "code": code, "name": code} for id, code in enumerate("XY")]
    actions = [{"id": id, "code": f"X{id}", "name": "x", "body_id": id % 2} for id in range(9)]
    taxonomy = Taxonomy.model_validate_json(json.dumps({"bodies": bodies, "actions": actions}))
    assert len(taxonomy.actions) == 9
