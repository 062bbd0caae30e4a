"""A test bundle with a small untrained network that is fast and detects actions in any video."""

from importlib.resources import files
from pathlib import Path

import torch
from torch import nn

from model.architecture import AdapterConfig, Architecture, BackboneConfig, HeadConfig
from model.bundle import Bundle, InputConfig, Manifest, Thresholds
from model.export import export_bundle, save_checkpoint
from model.network import Network
from model.taxonomy import Taxonomy

SEED = 2025


def make_untrained_manifest() -> Manifest:
    """Make the manifest of a network with a third of a million weights and the labels of MMA-52."""
    labels = files("training").joinpath("labels/mma52.json").read_bytes()
    return Manifest(
        name="demo-untrained",
        version="1",
        licence="Apache-2.0",
        trained_on=None,
        taxonomy=Taxonomy.model_validate_json(labels),
        input=InputConfig(
            height=112,
            width=112,
            fps=15.0,
            window_frames=192,
            overlap_frames=64,
            clip_frames=16,
            mean=(0.485, 0.456, 0.406),
            std=(0.229, 0.224, 0.225),
        ),
        architecture=Architecture(
            backbone=BackboneConfig(embed_dim=64, depth=3, heads=2),
            adapter=AdapterConfig(kind="dsta"),
            head=HeadConfig(channels=32, embed_convs=2, stem_blocks=0, branch_blocks=5, path_dropout=0.0),
        ),
        thresholds=Thresholds(default=0.9),
    )


def make_untrained_network(manifest: Manifest) -> Network:
    """Make a seeded network. Parameters that start at zero are random here, so that every layer has an effect."""
    torch.manual_seed(SEED)
    network = Network(manifest)
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                parameter.normal_(std=0.2)
        head = network.detector.rpn_head
        assert isinstance(head.cls_head, nn.Conv1d)
        assert isinstance(head.reg_head, nn.Conv1d)
        assert head.cls_head.bias is not None
        assert head.reg_head.bias is not None
        # With the initial biases no score would exceed a threshold, and all segments would be empty.
        head.cls_head.weight.mul_(3)
        head.cls_head.bias.fill_(-1.0)
        head.reg_head.bias.fill_(2.5)
    return network


def make_bundle(folder: Path) -> Bundle:
    """Export the untrained network as a bundle."""
    manifest = make_untrained_manifest()
    checkpoint = folder.with_suffix(".safetensors")
    save_checkpoint(checkpoint, make_untrained_network(manifest), manifest)
    return export_bundle(checkpoint, folder)
