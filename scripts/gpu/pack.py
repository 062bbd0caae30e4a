"""What each run of a folder has learned so far: its averaged weights in parts that may travel, and its logs."""

import sys
import tarfile
from pathlib import Path

import torch

from model.export import save_checkpoint
from model.network import Network
from training.recipe import load_recipe
from training.run import CHECKPOINT, HISTORY, RECIPE, make_manifest
from training.tables import standard_labels

_PART = 15 * 2**20


def _weights(run: Path) -> bytes | None:
    """Of a run that is over, its network; else what its last checkpoint keeps; None before the first."""
    done = run / "network.safetensors"
    if done.exists():
        return done.read_bytes()
    if not (run / CHECKPOINT).exists():
        return None
    recipe = load_recipe(str(run / RECIPE), [])
    manifest = make_manifest(recipe, standard_labels(), "videos of synthetic people")
    state = torch.load(run / CHECKPOINT, map_location="cpu", weights_only=True)
    network = Network(manifest)
    network.load_state_dict(state["kept"])
    save_checkpoint(run / "so-far.safetensors", network, manifest)
    sys.stdout.write(f"{run.name}: stage {state['stage']}, step {state['step']}\n")
    return (run / "so-far.safetensors").read_bytes()


def main(work: Path, out: Path) -> None:
    """Pack every run of the folder `work`."""
    with tarfile.open(out / "logs.tgz", "w:gz") as logs:
        for path in [*work.glob("*.log"), *work.glob(f"*/{HISTORY}"), *work.glob(f"*/{RECIPE}")]:
            logs.add(path, path.relative_to(work))
        for report in work.glob("*/report"):
            logs.add(report, report.relative_to(work))
    for run in sorted(path.parent for path in work.glob(f"*/{RECIPE}")):
        content = _weights(run)
        if content is not None:
            for number, first in enumerate(range(0, len(content), _PART)):
                (out / f"{run.name}.part-{number}").write_bytes(content[first : first + _PART])
            sys.stdout.write(f"{run.name}: {len(content) / 1e6:.1f} MB\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
