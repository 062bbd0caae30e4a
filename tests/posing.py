"""Small runs of a pose backbone, for tests: rendered people, a recipe cut short, an untrained bundle."""

from pathlib import Path

import torch

from model.export import export_bundle, save_checkpoint
from model.network import Network
from training.dataset import load_corpus
from training.people.film import Recipe as People
from training.people.options import Mix, Storage
from training.people.studio import Order, produce
from training.recipe import load_recipe
from training.run import Run, make_manifest
from training.tables import standard_labels

TAXONOMY = standard_labels()
SETTINGS = ["architecture.backbone={kind: pose, widths: [8, 16, 16], fused: 16, embed_dim: 32, dilations: [1, 2]}",
            "input.height=48", "input.width=48", "input.fps=5.0", "data.workers=0"]  # fmt: skip


def make_people(folder: Path, storage: Storage = Storage.NPZ) -> Path:
    """Seventeen videos, of 48 pixels and 5 frames a second."""
    recipe = People(seed=3, fps=5.0, height=48, width=48, mix=Mix.BALANCED)
    produce(Order(recipe, folder, storage, 17), 1, lambda done, count: None)
    return folder


def make_run(data: Path, out: Path, *settings: str) -> Run:
    """The demo's recipe, smaller."""
    recipe = load_recipe("demo", [*SETTINGS, *settings])
    corpus = load_corpus([data], TAXONOMY, "train", 0)
    return Run(recipe, make_manifest(recipe, TAXONOMY, "people"), corpus, out, corpus.count_joints())


def make_pose_bundle(folder: Path) -> None:
    """The network of such a run as it begins, as a bundle."""
    manifest = make_manifest(load_recipe("demo", SETTINGS), TAXONOMY, "people")
    torch.manual_seed(0)
    checkpoint = folder.with_suffix(".safetensors")
    save_checkpoint(checkpoint, Network(manifest), manifest)
    export_bundle(checkpoint, folder)
