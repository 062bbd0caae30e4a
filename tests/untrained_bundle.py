"""Test bundles: a small untrained network that detects actions in any video, and smaller random networks."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path

import pytest
import torch
from torch import nn

from model import export
from model.architecture import AdapterConfig, Architecture, BackboneConfig, HeadConfig
from model.bundle import Bundle, InputConfig, Manifest, Thresholds
from model.network import Network
from model.taxonomy import Taxonomy

SEED = 2025
SMALL_HEAD = HeadConfig(channels=16, heads=2, embed_convs=1, stem_blocks=1, branch_blocks=3)
# Export time grows with the nodes of the graph, most of which belong to the head.
SMALLEST_HEAD = SMALL_HEAD.model_copy(update={"stem_blocks": 0, "branch_blocks": 1})


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
    export.save_checkpoint(checkpoint, make_untrained_network(manifest), manifest)
    return export.export_bundle(checkpoint, folder)


def small_manifest(kind: str, head: HeadConfig = SMALL_HEAD) -> Manifest:
    """Make the manifest of a network of two blocks with this kind of adapter, for nine actions of two body parts."""
    bodies = [{"id": id, "code": code, "name": code} for id, code in enumerate("XY")]
    actions = [{"id": id, "code": f"X{id}", "name": "x", "body_id": id % 2} for id in range(9)]
    adapter = AdapterConfig.model_validate({"kind": kind})
    return Manifest(
        name="small",
        version="1",
        licence="Apache-2.0",
        trained_on=None,
        taxonomy=Taxonomy.model_validate_json(json.dumps({"bodies": bodies, "actions": actions})),
        input=InputConfig(
            height=32,
            width=48,
            fps=10,
            window_frames=32,
            overlap_frames=8,
            clip_frames=8,
            mean=(0.5, 0.5, 0.5),
            std=(0.2, 0.2, 0.2),
        ),
        architecture=Architecture(
            backbone=BackboneConfig(embed_dim=24, depth=2, heads=2, final_norm=True), adapter=adapter, head=head
        ),
        thresholds=Thresholds(default=0.5),
    )


def random_network(manifest: Manifest) -> Network:
    """Make a seeded network with random values in all parameters."""
    torch.manual_seed(0)
    network = Network(manifest).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return network


def make_small_bundle(folder: Path, kind: str) -> Bundle:
    """Export a random network as a bundle, with SMALL_HEAD if it has no adapter and SMALLEST_HEAD otherwise."""
    manifest = small_manifest(kind, SMALL_HEAD if kind == "none" else SMALLEST_HEAD)
    checkpoint = folder.with_suffix(".safetensors")
    export.save_checkpoint(checkpoint, random_network(manifest), manifest)
    return export.export_bundle(checkpoint, folder)


@contextmanager
def no_graph_export() -> Iterator[None]:
    """Write bundles without a graph, which takes ten seconds or more to export; they run in torch only."""

    def write_placeholder(_network: Network, _manifest: Manifest, path: Path, _weights: export.Weights) -> None:
        path.write_bytes(b"no graph")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "export_graph", write_placeholder)
        patch.setattr(export, "check_engines", lambda _bundle, _on_agreement: None)
        yield
