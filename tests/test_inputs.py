"""What backbones are given and give: differences as NumPy has them, shapes of every combination, exports that agree."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from model import export
from model.architecture import Architecture, BackboneConfig, ShiftConfig
from model.bundle import Bundle, Manifest, parse_manifest
from model.errors import BundleError
from model.inputs import with_channels
from model.network import Network
from tests.test_export import random_network, small_manifest

VIDEOMAE = {"embed_dim": 24, "depth": 2, "heads": 2, "position_grid": 2}
SHIFT = {
    "kind": "shift", "widths": [8, 8, 16, 16], "blocks": [1, 2, 1], "queries": 2, "query_width": 8,
    "position_grid": 2, "embed_dim": 20,
}  # fmt: skip
COMBINATIONS: dict[str, dict[str, Any]] = {
    f"{kind}-{inputs}": {**base, "inputs": inputs}
    for kind, base in (
        ("linear", VIDEOMAE),
        ("convolutions", {**VIDEOMAE, "stem": "convolutions"}),
        ("shift", SHIFT),
    )
    for inputs in ("rgb", "rgb_differences")
}


def manifest_with(backbone: dict[str, Any], adapter: str = "none") -> Manifest:
    """Windows of 32 frames, clips of 8, 32 x 48 pixels."""
    document = small_manifest(adapter).model_dump(mode="json")
    document["architecture"]["backbone"] = backbone
    return Manifest.model_validate_json(json.dumps(document))


def differences(clips: NDArray[np.float64], lag: int) -> NDArray[np.float64]:
    """(clips, 3, frames, height, width) -> (clips, frames, height, width), frame by frame."""
    grey = clips.mean(axis=1).reshape(-1, *clips.shape[3:])
    found = np.stack([grey[step] - grey[max(step - lag, 0)] for step in range(len(grey))])
    return (found * 10 / np.sqrt(lag)).reshape(clips.shape[0], -1, *clips.shape[3:])


# The last case is a video shorter than the lag.
@pytest.mark.parametrize(("clips", "frames", "lags"), [(3, 4, (1, 4)), (2, 6, (2, 7)), (1, 4, (1, 5))])
def test_differences_as_numpy_has_them(clips: int, frames: int, lags: tuple[int, ...]) -> None:
    pictures = np.random.default_rng(0).normal(size=(2, clips, 3, frames, 5, 6))
    config = BackboneConfig(embed_dim=8, depth=1, heads=1, inputs="rgb_differences", lags=lags)
    found = with_channels(torch.from_numpy(pictures), config).numpy()
    assert found.shape == (2, clips, 5, frames, 5, 6)
    assert (found[:, :, :3] == pictures).all()
    for row in range(2):
        for channel, lag in enumerate(lags, start=3):
            np.testing.assert_allclose(found[row, :, channel], differences(pictures[row], lag), atol=1e-12)
    assert (found[:, 0, 3:, 0] == 0).all()
    if clips > 1:  # the first frame of a clip looks back into the clip before
        assert (found[:, 1, 3:, 0] != 0).all()


@pytest.mark.parametrize("name", ["convolutions-rgb_differences", "shift-rgb_differences"])
def test_differences_are_those_of_the_normalised_pictures(name: str) -> None:
    manifest = manifest_with(COMBINATIONS[name])  # mean 0.5, std 0.2
    network = Network(manifest)
    seen: list[torch.Tensor] = []
    first = network.backbone.stem if name.startswith("shift") else network.backbone.patch_embed
    assert isinstance(first, torch.nn.Module)
    first.register_forward_pre_hook(lambda _module, given: seen.append(given[0]))
    clips, mask = export.example(manifest, batch=1, clips=3)
    network.features(torch.from_numpy(clips), torch.from_numpy(mask))
    pictures = (clips[0].astype(float) / 255 - 0.5) / 0.2
    expected = differences(pictures.transpose(0, 4, 1, 2, 3), 4)  # (clips, frames, height, width)
    if name.startswith(
        "shift"
    ):  # a tubelet's two frames are channels of one picture: the last two are lag 4's
        found = seen[0].reshape(3, 4, 5, 2, 32, 48)[:, :, 4]
        expected = expected.reshape(found.shape)
    else:
        found = seen[0][:, 4]
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("name", COMBINATIONS)
def test_every_combination_keeps_the_contract(name: str) -> None:
    """Shapes, zeros behind the mask, gradients everywhere; no difference of the batch in evaluation, and, where no batch
    norm is, none of training either."""
    manifest = manifest_with(COMBINATIONS[name])
    torch.manual_seed(0)
    network = Network(manifest).train()
    dim = manifest.architecture.backbone.embed_dim
    clips, mask = (torch.from_numpy(array) for array in export.example(manifest, batch=2, clips=3))
    clips[1] //= 2
    features = network.features(clips, mask)
    assert features.shape == (2, dim, 32)
    assert features.dtype == torch.float32
    assert features[:, :, :20].std() > 0.01
    assert (features[:, :, 20:] == 0).all()
    (features * torch.randn_like(features)).sum().backward()
    without = [
        name
        for name, parameter in network.backbone.named_parameters()
        if parameter.grad is None or not parameter.grad.any()
    ]
    assert without == []
    network.eval()
    with torch.inference_mode():
        whole = network.features(clips, mask)
        if not name.startswith("shift"):
            torch.testing.assert_close(whole, features)
        alone = network.features(clips[1:], mask[1:])
        torch.testing.assert_close(alone, whole[1:], atol=1e-5, rtol=1e-5)
        logits, offsets = network(clips, mask)
        expected = network.detector(whole, mask)
    assert logits.shape == (2, 32 + 16 + 8 + 4, 9)
    torch.testing.assert_close((logits, offsets), tuple(expected), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "adapter"), [("convolutions-rgb_differences", "dsta"), ("shift-rgb_differences", "none")]
)
def test_exports_agree_for_any_batch_and_number_of_clips(name: str, adapter: str, tmp_path: Path) -> None:
    import onnxruntime

    manifest = manifest_with(COMBINATIONS[name], adapter)
    network = random_network(manifest)
    export.save_checkpoint(tmp_path / "x.safetensors", network, manifest)
    said: list[export.Agreement] = []
    bundle = export.export_bundle(tmp_path / "x.safetensors", tmp_path / "bundle", said.append)
    assert {one.engine for one in said} == {"onnx", "openvino"}
    assert all(one.max_abs_error < 1e-4 for one in said)  # over one clip and a full window
    session = onnxruntime.InferenceSession(str(bundle.folder / "network.onnx"))
    assert [one.type for one in session.get_inputs()] == ["tensor(uint8)", "tensor(bool)"]
    for batch, count in ((1, 1), (2, 3), (3, 2)):
        clips, mask = export.example(manifest, batch, count)
        theirs = session.run(None, {"clips": clips, "mask": mask})
        with torch.inference_mode():
            ours = network(torch.from_numpy(clips), torch.from_numpy(mask))
        for one, other in zip(ours, theirs, strict=True):
            assert np.abs(one.numpy() - other).max() < 1e-4
            assert one.std() > 1e-3


def test_a_bundle_from_before_is_read_as_it_was(bundle: Bundle) -> None:
    document = json.loads((bundle.folder / "bundle.json").read_text())
    for name in ("kind", "inputs", "lags", "stem"):
        del document["architecture"]["backbone"][name]
    assert parse_manifest(json.dumps(document), Path("old")) == bundle.manifest


@pytest.mark.parametrize(
    ("backbone", "words"),
    [
        ({**VIDEOMAE, "inputs": "differences"}, "architecture.backbone.videomae.inputs: Input should be 'rgb' or"),
        ({**VIDEOMAE, "lags": [4, 1]}, r"lags must be ascending numbers of frames from 1 on, not \(4, 1\)"),
        ({**VIDEOMAE, "lags": [0, 1]}, "lags must be ascending"),
        ({**VIDEOMAE, "lags": []}, "lags must be ascending"),
        ({**VIDEOMAE, "lags": [1.5]}, "lags.0: Input should be a valid integer"),
        ({**VIDEOMAE, "stem": "convolution"}, "videomae.stem: Input should be 'linear', 'convolutions' or 'heatmaps'"),
        (
            {**VIDEOMAE, "stem": "convolutions", "patch_size": 12},
            "patch_size 12 must be a power of 2, and embed_dim 24 a multiple of half of it",
        ),
        ({**VIDEOMAE, "stem": "convolutions", "embed_dim": 20}, "embed_dim 20 a multiple of half of it"),
        ({**VIDEOMAE, "widths": [8, 8]}, "videomae.widths: Extra inputs"),
        ({**SHIFT, "heads": 3}, "shift.heads: Extra inputs"),
        ({**SHIFT, "blocks": [1, 1]}, "widths has 4 values for 2 stages"),
        ({**SHIFT, "widths": [8], "blocks": []}, "widths has 1 values for 0 stages"),
        ({**SHIFT, "shift_fraction": 0.6}, "shift_fraction: Input should be less than or equal to 0.5"),
        ({**SHIFT, "widths": [8, 8, 16, 16, 16], "blocks": [1, 1, 1, 1]}, "width 48 is no multiple of 32"),
        ({"kind": "resnet"}, "architecture.backbone: a backbone is of kind 'videomae', 'shift' or 'pose'"),
        ("tiny", "architecture.backbone: a backbone is of kind"),
    ],
)  # fmt: skip
def test_what_makes_no_backbone_is_refused_by_field(bundle: Bundle, backbone: Any, words: str) -> None:
    document = small_manifest("none").model_dump(mode="json")
    document["architecture"]["backbone"] = backbone
    with pytest.raises(BundleError, match=words):
        parse_manifest(json.dumps(document), Path("x"))


def test_adapters_do_not_go_with_shift() -> None:
    with pytest.raises(ValueError, match="adapter.kind 'dsta' does not go with backbone.kind 'shift'"):
        Architecture(backbone=ShiftConfig(kind="shift"))
