"""Collect what the runs of a folder have trained so far: averaged weights, in parts of 15 MiB, and logs."""

import sys
import tarfile
from pathlib import Path

import torch

from model.export import save_checkpoint
from model.network import Network
from training.recipe import load_recipe
from training.run import CHECKPOINT, HISTORY, RECIPE, make_manifest
from training.tables import standard_labels

_PART_BYTES = 15 * 2**20


def _find_weights(run: Path) -> Path | None:
    """Return the file with the network of a finished run, or one made from its last checkpoint, if there is any."""
    finished, unfinished = run / "network.safetensors", run / "unfinished.safetensors"
    if finished.exists():
        return finished
    if not (run / CHECKPOINT).exists():
        return None
    manifest = make_manifest(load_recipe(str(run / RECIPE), []), standard_labels(), "videos of synthetic people")
    state = torch.load(run / CHECKPOINT, map_location="cpu", weights_only=True)
    network = Network(manifest)
    network.load_state_dict(state["average"])
    save_checkpoint(unfinished, network, manifest)
    print(f"{run.name}: stage {state['stage']}, step {state['step']}")
    return unfinished


def main(work: Path, out: Path) -> None:
    """Write NAME.part-N for each run of the folder `work`, and logs.tgz."""
    with tarfile.open(out / "logs.tgz", "w:gz") as logs:
        for pattern in ("*.log", f"*/{HISTORY}", f"*/{RECIPE}", "*/report"):
            for path in work.glob(pattern):
                logs.add(path, path.relative_to(work))
    for recipe in sorted(work.glob(f"*/{RECIPE}")):
        if (weights := _find_weights(recipe.parent)) is not None:
            content, name = weights.read_bytes(), recipe.parent.name
            for number, start in enumerate(range(0, len(content), _PART_BYTES)):
                (out / f"{name}.part-{number}").write_bytes(content[start : start + _PART_BYTES])
            print(f"{name}: {len(content) / 1e6:.1f} MB")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
