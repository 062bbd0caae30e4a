"""Backbone configurations: features of a window, and invalid configurations."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from model import export
from model.architecture import Architecture, PoseConfig
from model.bundle import Bundle, Manifest, parse_manifest
from model.errors import BundleError
from tests.untrained_bundle import random_network, small_manifest

VIDEOMAE = {"embed_dim": 24, "depth": 2, "heads": 2, "position_grid": 2}


def manifest_with(backbone: dict[str, Any], adapter: str = "none") -> Manifest:
    """Return a manifest with windows of 32 frames, clips of 8 and 32 x 48 pixels."""
    document = small_manifest(adapter).model_dump(mode="json")
    document["architecture"]["backbone"] = backbone
    return Manifest.model_validate_json(json.dumps(document))


@pytest.mark.parametrize("adapter", ["none", "standard", "tia", "dsta", "dsta_two_down"])
def test_network_features_and_gradients(adapter: str) -> None:
    """Shapes, zeros outside the mask, gradients for all parameters, independent rows of a batch."""
    manifest = manifest_with(VIDEOMAE, adapter)
    torch.manual_seed(0)
    network = random_network(manifest).train()
    dim = manifest.architecture.backbone.embed_dim
    clips, mask = (torch.from_numpy(array) for array in export.make_example_input(manifest, batch=2, clips=3))
    clips[1] //= 2
    features = network.features(clips, mask)
    assert features.shape == (2, dim, 32)
    assert features.dtype == torch.float32
    assert features[:, :, :20].std() > 0.01
    assert (features[:, :, 20:] == 0).all()
    (features * torch.randn_like(features)).sum().backward()
    without_gradient = [
        name
        for name, parameter in network.backbone.named_parameters()
        if parameter.grad is None or not parameter.grad.any()
    ]
    assert without_gradient == []
    network.eval()
    with torch.inference_mode():
        whole = network.features(clips, mask)
        torch.testing.assert_close(whole, features)
        alone = network.features(clips[1:], mask[1:])
        torch.testing.assert_close(alone, whole[1:], atol=1e-5, rtol=1e-5)
        logits, offsets = network(clips, mask)
        expected = network.detector(whole, mask)
    assert logits.shape == (2, 32 + 16 + 8 + 4, 9)
    torch.testing.assert_close((logits, offsets), tuple(expected), atol=1e-5, rtol=1e-5)


def test_manifest_of_older_version_is_read(bundle: Bundle) -> None:
    document = json.loads((bundle.folder / "bundle.json").read_text())
    for name in ("kind", "lags", "stem"):
        del document["architecture"]["backbone"][name]
    document["architecture"]["backbone"]["inputs"] = "rgb"
    assert parse_manifest(json.dumps(document), Path("old")) == bundle.manifest


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        ({**VIDEOMAE, "lags": [4, 1]}, r"lags must be ascending numbers of frames from 1 on, not \(4, 1\)"),
        ({**VIDEOMAE, "lags": [0, 1]}, "lags must be ascending"),
        ({**VIDEOMAE, "lags": []}, "lags must be ascending"),
        ({**VIDEOMAE, "lags": [1.5]}, "lags.0: Input should be a valid integer"),
        ({**VIDEOMAE, "stem": "convolution"}, "videomae.stem: Input should be 'linear' or 'heatmaps'"),
        ({**VIDEOMAE, "widths": [8, 8]}, "videomae.widths: Extra inputs"),
        ({"kind": "resnet"}, "architecture.backbone: a backbone is of kind 'videomae' or 'pose'"),
        ("tiny", "architecture.backbone: a backbone is of kind"),
    ],
)  # fmt: skip
def test_invalid_backbone_error_names_field(bundle: Bundle, backbone: Any, message: str) -> None:
    document = small_manifest("none").model_dump(mode="json")
    document["architecture"]["backbone"] = backbone
    with pytest.raises(BundleError, match=message):
        parse_manifest(json.dumps(document), Path("x"))


def test_pose_backbone_refuses_adapters() -> None:
    with pytest.raises(ValueError, match="adapter.kind 'dsta' does not go with backbone.kind 'pose'"):
        Architecture(backbone=PoseConfig(kind="pose"))
