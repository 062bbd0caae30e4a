"""Small data sets, runs and untrained bundles with a pose backbone."""

from pathlib import Path

import torch

from model.export import export_bundle, save_checkpoint
from model.network import Network
from tests.untrained_bundle import no_graph_export
from training.dataset import load_dataset
from training.people.film import Recipe as People
from training.people.options import Mix, Storage
from training.people.studio import DatasetSpec, produce
from training.recipe import load_recipe
from training.run import Run, make_manifest
from training.tables import standard_labels

TAXONOMY = standard_labels()
SETTINGS = ["architecture.backbone={kind: pose, widths: [8, 16, 16], fused: 16, embed_dim: 32, dilations: [1, 2]}",
            "input.height=48", "input.width=48", "input.fps=5.0", "data.workers=0"]  # fmt: skip


def make_people(folder: Path, storage: Storage = Storage.NPZ, videos: int = 17) -> Path:
    """Render videos of 48 x 48 pixels and 5 fps."""
    recipe = People(seed=3, fps=5.0, height=48, width=48, mix=Mix.BALANCED)
    produce(DatasetSpec(recipe, folder, storage, videos), 1, lambda done, count: None)
    return folder


def make_run(data: Path, out: Path, *settings: str) -> Run:
    """Make a run of the demo recipe with a smaller network."""
    recipe = load_recipe("demo", [*SETTINGS, *settings])
    dataset = load_dataset([data], TAXONOMY, "train", 0)
    return Run(recipe, make_manifest(recipe, TAXONOMY, "people"), dataset, out, dataset.count_keypoints())


def make_pose_bundle(folder: Path) -> None:
    """Write the untrained network of such a run as a bundle without a graph."""
    manifest = make_manifest(load_recipe("demo", SETTINGS), TAXONOMY, "people")
    torch.manual_seed(0)
    checkpoint = folder.with_suffix(".safetensors")
    save_checkpoint(checkpoint, Network(manifest), manifest)
    with no_graph_export():
        export_bundle(checkpoint, folder)
