"""Imported weights give the outputs of their original models, or are refused."""

import json
import pickle
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from mmad.benchmark import write_clip
from model import export
from model.architecture import AdapterConfig, BackboneConfig, PoseConfig
from model.backbone import Backbone
from model.bundle import Bundle
from model.network import Network
from model.pose import PoseBackbone
from tests.command import mmad
from tests.test_tables import TAXONOMY
from training.weights import (
    WeightsError,
    adapter_config,
    backbone_config,
    detector_manifest,
    head_config,
    import_backbone,
    import_detector,
    load_backbone,
    read_weights,
    start_backbone,
)

transformers = pytest.importorskip("transformers")


def make_videomae(image_size: int = 224, mean_pooling: bool = True, kind: str = "VideoMAEModel") -> Any:
    """Return a VideoMAE of two layers with random weights."""
    torch.manual_seed(0)
    config = transformers.VideoMAEConfig(
        image_size=image_size, num_hidden_layers=2, hidden_size=48, num_attention_heads=4, intermediate_size=96,
        decoder_hidden_size=24, decoder_num_attention_heads=2, decoder_num_hidden_layers=1,
        decoder_intermediate_size=48, use_mean_pooling=mean_pooling,
    )  # fmt: skip
    model = getattr(transformers, kind)(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return model


def our_backbone(path: Path, size: int) -> Backbone:
    imported = read_weights(path)
    config = backbone_config(imported)
    backbone = Backbone(config, adapter_config(imported), 16, size, size).eval()
    backbone.load_state_dict(imported.backbone)
    return backbone


def their_features(model: Any, clip: torch.Tensor, patches: int) -> torch.Tensor:
    """Return their features (dim, 8), averaged over the picture."""
    tokens = model(clip.transpose(0, 1)[None]).last_hidden_state[0]
    return tokens.reshape(8, patches**2, -1).mean(dim=1).T


@torch.inference_mode()
@pytest.mark.parametrize("mean_pooling", [True, False])
def test_hugging_face_model_at_224_pixels(tmp_path: Path, mean_pooling: bool) -> None:
    model = make_videomae(mean_pooling=mean_pooling)
    model.save_pretrained(tmp_path)
    clip = torch.randn(3, 16, 224, 224)
    features = our_backbone(tmp_path, 224)(clip[None, None])[0]
    torch.testing.assert_close(features, their_features(model, clip, 14), atol=1e-5, rtol=1e-5)
    assert features.std() > 0.05


@torch.inference_mode()
def test_hugging_face_model_at_160_pixels(tmp_path: Path) -> None:
    """The position table for 224 pixels is resized bicubically, as in OpenTAD; theirs for 160 would differ."""
    model = make_videomae()
    model.save_pretrained(tmp_path)
    smaller = make_videomae(image_size=160)
    smaller.load_state_dict(model.state_dict())
    table = model.embeddings.position_embeddings.reshape(8, 14, 14, 48).permute(0, 3, 1, 2)
    table = F.interpolate(table, size=(10, 10), mode="bicubic", align_corners=False)
    smaller.embeddings.position_embeddings = table.permute(0, 2, 3, 1).reshape(1, 800, 48)
    clip = torch.randn(3, 16, 160, 160)
    features = our_backbone(tmp_path, 160)(clip[None, None])[0]
    torch.testing.assert_close(features, their_features(smaller, clip, 10), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["VideoMAEForPreTraining", "VideoMAEForVideoClassification"])
def test_other_hugging_face_models_give_same_backbone(tmp_path: Path, kind: str) -> None:
    model = make_videomae(kind=kind)
    model.save_pretrained(tmp_path)
    imported = read_weights(tmp_path)
    plain = {name.removeprefix("videomae."): tensor for name, tensor in model.state_dict().items()}
    torch.testing.assert_close(
        imported.backbone["blocks.1.mlp.fc2.weight"], plain["encoder.layer.1.output.dense.weight"]
    )
    expected = {"VideoMAEForPreTraining": "decoder.norm.weight", "VideoMAEForVideoClassification": "classifier.weight"}
    assert expected[kind] in imported.unmatched
    assert imported.matched == 2 + 2 * 13
    assert backbone_config(imported).norm_eps == 1e-12


@torch.inference_mode()
def test_model_for_160_pixels_uses_its_position_table(tmp_path: Path) -> None:
    model = make_videomae(image_size=160)
    model.save_pretrained(tmp_path)
    clip = torch.randn(3, 16, 160, 160)
    torch.testing.assert_close(
        our_backbone(tmp_path, 160)(clip[None, None])[0], their_features(model, clip, 10), atol=1e-5, rtol=1e-5
    )


def test_shards_and_older_names_give_same_backbone(tmp_path: Path) -> None:
    model = make_videomae()
    model.save_pretrained(tmp_path / "whole")
    model.save_pretrained(tmp_path / "shards", max_shard_size="50KB")
    assert not (tmp_path / "shards/model.safetensors").exists()
    old = {
        name.replace("query.bias", "q_bias").replace("value.bias", "v_bias"): t
        for name, t in model.state_dict().items()
    }
    (tmp_path / "old").mkdir()
    (tmp_path / "old/config.json").write_text((tmp_path / "whole/config.json").read_text())
    torch.save(old, tmp_path / "old/pytorch_model.bin")
    whole = read_weights(tmp_path / "whole").backbone
    for name in ("shards", "old"):
        other = read_weights(tmp_path / name).backbone
        assert other.keys() == whole.keys()
        assert all(torch.equal(other[key], whole[key]) for key in whole)


def test_unknown_number_of_heads_requires_config(tmp_path: Path) -> None:
    weights = {name: tensor[..., :48].clone() for name, tensor in small_backbone().state_dict().items()}
    weights["patch_embed.weight"] = torch.zeros(48, 3, 2, 16, 16)
    torch.save({"model": weights}, tmp_path / "x.pth")
    imported = read_weights(tmp_path / "x.pth")
    with pytest.raises(WeightsError, match="width 48 has is not known: give --config"):
        backbone_config(imported)
    assert backbone_config(imported, {"architecture": {"backbone": {"heads": 4}}}).heads == 4


def small_backbone(kind: str = "none", depth: int = 2) -> Backbone:
    torch.manual_seed(1)
    config = BackboneConfig(embed_dim=192, depth=depth, heads=3)
    backbone = Backbone(config, AdapterConfig.model_validate({"kind": kind}), 16, 224, 224)
    for parameter in backbone.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return backbone


def rename_weights(weights: dict[str, torch.Tensor], layout: str) -> dict[str, Any]:
    """Rename our weights as in public files."""
    named: dict[str, torch.Tensor] = {}
    for name, tensor in weights.items():
        if layout in ("mmaction2", "opentad"):
            name = name.replace("patch_embed.", "patch_embed.projection.")
            name = name.replace("mlp.fc1.", "mlp.layers.0.0.").replace("mlp.fc2.", "mlp.layers.1.")
        else:
            name = name.replace("patch_embed.", "patch_embed.proj.")
        prefix = {
            "original": "",
            "pretrained": "encoder.",
            "mmaction2": "backbone.",
            "opentad": "module.backbone.model.backbone.",
        }
        named[prefix[layout] + name] = tensor
    match layout:
        case "original":
            return {"model": named | {"head.weight": torch.zeros(3), "fc_norm.weight": torch.zeros(3)}}
        case "pretrained":
            extra = {"encoder.norm.weight": torch.ones(192), "encoder.norm.bias": torch.zeros(192)}
            return {"model": named | extra | {"mask_token": torch.zeros(3), "decoder.norm.weight": torch.zeros(3)}}
        case "mmaction2":
            return {"meta": {"epoch": 3}, "state_dict": named | {"cls_head.fc_cls.weight": torch.zeros(3)}}
        case _:
            return named


@pytest.mark.parametrize(("layout", "unmatched"), [("original", 2), ("pretrained", 2), ("mmaction2", 1)])
def test_other_checkpoints_give_same_backbone(tmp_path: Path, layout: str, unmatched: int) -> None:
    backbone = small_backbone()
    torch.save(rename_weights(backbone.state_dict(), layout), tmp_path / "x.pth")
    imported = read_weights(tmp_path / "x.pth")
    assert len(imported.unmatched) == unmatched
    for name, tensor in backbone.state_dict().items():
        assert torch.equal(imported.backbone[name], tensor)
    config = backbone_config(imported)
    assert (config.embed_dim, config.depth, config.heads, config.final_norm) == (192, 2, 3, layout == "pretrained")
    import_backbone(imported, config, tmp_path / "backbone.safetensors")
    loaded_config, weights = load_backbone(tmp_path / "backbone.safetensors")
    assert loaded_config == config
    assert weights.keys() == imported.backbone.keys()


def test_backbone_with_other_config_is_refused(tmp_path: Path) -> None:
    backbone = small_backbone()
    torch.save(rename_weights(backbone.state_dict(), "original"), tmp_path / "x.pth")
    imported = read_weights(tmp_path / "x.pth")
    path = tmp_path / "backbone.safetensors"
    import_backbone(imported, backbone_config(imported), path)

    def assert_refused(change: dict[str, Any], message: str) -> None:
        other = Backbone(backbone.config.model_copy(update=change), AdapterConfig(kind="none"), 16, 32, 32)
        with pytest.raises(WeightsError, match=message):
            start_backbone(other, path)

    assert_refused({"heads": 6, "depth": 3}, "depth is 2 in the file, 3 here; heads is 3 in the file, 6 here")
    with pytest.raises(WeightsError, match="kind is videomae in the file, pose here"):
        start_backbone(PoseBackbone(PoseConfig(kind="pose", embed_dim=192)), path)


def opentad_detector(shared: Path, path: Path) -> dict[str, torch.Tensor]:
    """Save a detector with OpenTAD's names, from the published ActionFormer and TIA; returns the weights."""
    head = torch.load(shared / "reference/actionformer.pt", weights_only=True)["state_dict"]
    adapter = torch.load(shared / "reference/adapters.pt", weights_only=True)["tia"]["state_dict"]
    torch.manual_seed(1)
    config = BackboneConfig(embed_dim=384, depth=2, heads=6)
    backbone = Backbone(config, AdapterConfig(kind="none"), 16, 160, 160)
    weights = rename_weights(backbone.state_dict(), "opentad")
    weights |= {f"module.backbone.model.backbone.blocks.1.adapter.{name}": tensor for name, tensor in adapter.items()}
    weights |= {f"module.{name}": tensor for name, tensor in head.items()}
    stale = {name: torch.zeros_like(tensor) for name, tensor in weights.items()}
    torch.save({"epoch": 9, "state_dict": stale, "state_dict_ema": weights}, path)
    return weights


SETTINGS = {
    "name": "mine",
    "input": {"fps": 15, "window_frames": 192, "overlap_frames": 64},
    "architecture": {"head": {"heads": 4}},
}


@pytest.mark.shared("reference/actionformer.pt")
@torch.inference_mode()
def test_opentad_detector_gives_published_outputs(shared: Path, bundle: Bundle, tmp_path: Path) -> None:
    weights = opentad_detector(shared, tmp_path / "x.pth")
    imported = read_weights(tmp_path / "x.pth")
    assert imported.unmatched == ["module.rpn_head.loss_normalizer"]
    assert adapter_config(imported) == AdapterConfig(kind="tia")
    assert head_config(imported).embed_convs == 3
    manifest = detector_manifest(imported, bundle.manifest.taxonomy, SETTINGS)
    import_detector(imported, manifest, tmp_path / "mine.safetensors")
    loaded, loaded_manifest = export.load_checkpoint(tmp_path / "mine.safetensors")
    assert loaded_manifest == manifest
    network = Network(manifest).eval()
    network.load_state_dict(loaded)
    # The EMA weights are used, and the block without an adapter gets an identity adapter.
    assert torch.equal(loaded["detector.rpn_head.cls_head.bias"], weights["module.rpn_head.cls_head.bias"])
    assert not loaded["backbone.blocks.0.adapter.up_proj.weight"].any()
    reference = torch.load(shared / "reference/actionformer.pt", weights_only=True)
    points = network.detector(reference["inputs"], reference["masks"])
    valid = torch.cat([reference["masks"][0, ::stride] for stride in (1, 2, 4, 8, 16, 32)])
    torch.testing.assert_close(points.logits[0].sigmoid()[valid], reference["scores"][0], atol=1e-6, rtol=0)
    case = torch.load(shared / "reference/adapters.pt", weights_only=True)["tia"]
    from model.adapters import Grid

    adapted = network.backbone.blocks[1].adapter(case["x"], Grid(3, 8, case["h"], case["w"]))
    torch.testing.assert_close(adapted, case["y"], atol=1e-5, rtol=0)


@pytest.mark.shared("reference/actionformer.pt")
def test_opentad_checkpoint_is_imported_exported_and_detects(shared: Path, tmp_path: Path) -> None:
    opentad_detector(shared, tmp_path / "x.pth")
    (tmp_path / "config.json").write_text(json.dumps(SETTINGS | {"thresholds": {"default": 0.0}}))
    checkpoint, folder = str(tmp_path / "mine.safetensors"), str(tmp_path / "bundle")
    imported = mmad(
        "import-weights", str(tmp_path / "x.pth"), "--out", checkpoint, "--config", str(tmp_path / "config.json")
    )
    assert imported.returncode == 0, imported.stderr
    assert "a detector of 52 classes, adapter tia" in imported.stdout
    assert "1 left" in imported.stdout
    assert "rpn_head.loss_normalizer" in imported.stderr
    exported = mmad("export", "--checkpoint", checkpoint, "--out", folder)
    assert exported.returncode == 0, exported.stderr
    assert exported.stdout.count("max abs error") == 2
    write_clip(tmp_path / "clip.mp4", seconds=2, width=160, height=160)
    detected = mmad("detect", str(tmp_path / "clip.mp4"), "--bundle", folder, "--json")
    result = json.loads(detected.stdout)
    assert result["model"]["bundle"] == "mine"
    assert result["model"]["trained_on"]["data"].startswith("imported")
    assert 0 < len(result["detections"]) <= 200  # overlapping proposals of one action are merged
    mmad(
        "detect",
        str(tmp_path / "clip.mp4"),
        "--bundle",
        folder,
        "--format",
        "mac-csv",
        "--out",
        str(tmp_path / "all.zip"),
    )
    with zipfile.ZipFile(tmp_path / "all.zip") as archive:
        assert len(archive.read("prediction.csv").splitlines()) == 1 + 200


def test_unusable_weights_are_refused(tmp_path: Path, bundle: Bundle) -> None:
    backbone = small_backbone()
    weights = backbone.state_dict()
    path = tmp_path / "x.pth"

    def assert_refused(content: Any, message: str) -> None:
        torch.save(content, path)
        with pytest.raises(WeightsError, match=message):
            imported = read_weights(path)
            import_backbone(imported, backbone_config(imported), tmp_path / "out")

    assert_refused(
        {"model": {name: value for name, value in weights.items() if "blocks.1.norm2" not in name}},
        "missing: blocks.1.norm2.bias",
    )
    assert_refused(
        {"model": weights | {"blocks.0.norm1.weight": torch.zeros(7)}},
        r"blocks.0.norm1.weight is \(7,\), wanted \(192,\)",
    )
    assert_refused({"model": {"conv1.weight": torch.zeros(3)}}, "holds no VideoMAE backbone")
    assert_refused({"epoch": 3}, "holds no weights: its keys are epoch")
    assert_refused([1, 2], "holds a list, not named weights")
    assert_refused({"model": {name: v for name, v in weights.items() if "blocks" not in name}}, "no blocks")
    (tmp_path / "x.safetensors").write_bytes(b"nothing of the kind")
    with pytest.raises(WeightsError, match="neither a file of torch nor of safetensors"):
        read_weights(tmp_path / "x.safetensors")
    assert_refused(
        {"model": {name: v for name, v in weights.items() if "patch" not in name}}, "holds no VideoMAE backbone"
    )
    path.write_bytes(b"no weights at all")
    with pytest.raises(WeightsError):
        read_weights(path)
    with pytest.raises(WeightsError, match="cannot be read"):
        read_weights(tmp_path / "nothing.pth")
    with pytest.raises(WeightsError, match="is no Hugging Face folder"):
        read_weights(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(WeightsError, match="of type 'bert'"):
        read_weights(tmp_path)
    assert not (tmp_path / "out").exists()


class MaliciousPickle:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("/tmp/mmad-was-here"),))


def test_malicious_pickle_is_refused(tmp_path: Path) -> None:
    torch.save({"model": MaliciousPickle()}, tmp_path / "x.pth")
    (tmp_path / "y.pth").write_bytes(pickle.dumps(MaliciousPickle(), protocol=2))
    for name in ("x.pth", "y.pth"):
        with pytest.raises(WeightsError, match="which is refused"):
            read_weights(tmp_path / name)
    assert not Path("/tmp/mmad-was-here").exists()


@pytest.mark.shared("reference/actionformer.pt")
def test_detector_with_other_labels_or_names_is_refused(shared: Path, tmp_path: Path, bundle: Bundle) -> None:
    opentad_detector(shared, tmp_path / "x.pth")
    imported = read_weights(tmp_path / "x.pth")
    with pytest.raises(WeightsError, match="has 52 classes, the label list 4"):
        detector_manifest(imported, TAXONOMY, {})
    without = replace(imported, detector={"neck.x": torch.zeros(3)})
    with pytest.raises(WeightsError, match="is no ActionFormer of OpenTAD"):
        detector_manifest(without, bundle.manifest.taxonomy, {})
    with pytest.raises(WeightsError, match="settings do not fit"):
        detector_manifest(imported, bundle.manifest.taxonomy, {"input": {"height": 3}})
