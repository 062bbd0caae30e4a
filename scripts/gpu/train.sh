#!/usr/bin/env bash
# Trains on the GPU machine, in steps of one call each. Before the first, here: scripts/gpu/wheels.sh
#     scripts/gpu/train.sh [RECIPE] [VIDEOS] [SECONDS] [--set ...]        carry: .whl
# Each call goes on where the last stopped, while the machine is the same: people and run lie in $WORK. What a call has
# learned comes back in $OUT in parts of 16 MiB: cat weights-* > sofar.safetensors, mmad export --checkpoint sofar.safetensors.
# On a new machine go on from that bundle with --set start=BUNDLE.
# Rehearse on a processor: OUT=/tmp/out WORK=/tmp/work SITE= scripts/gpu/train.sh smoke 6 120
set -euo pipefail
cd "$(dirname "$0")/../.."
recipe=${1:-gpu} videos=${2:-3000} seconds=${3:-500}
shift $(($# < 3 ? $# : 3))
work=${WORK:-/tmp/work} site=${SITE-/tmp/site} python=${PYTHON:-python3}
if [ -n "$site" ]; then
  [ -d "$site" ] || $python -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target "$site" .whl/*.whl
  export PYTHONPATH=$site
fi
mkdir -p "$work" "$OUT"
size=$($python - "$recipe" <<'P'
import sys
from training.recipe import load_recipe
seen = load_recipe(sys.argv[1], []).input
print(f"{seen.height * 9 // 8}x{seen.width * 9 // 8}")
P
)
$python -m mmad synth --out "$work/people" --videos "$videos" --seed 300 --size "$size" --fps 15 --mix balanced --crop person --frames npz
resume=$([ -f "$work/run/checkpoint.pt" ] && echo --resume || true)
# Stopped when the call's time is over; the checkpoint is there, and the next call resumes it.
timeout --signal=INT "$seconds" $python -m mmad train --data "$work/people" --out "$work/run" --config "$recipe" $resume "$@" || [ $? = 124 ]
$python - "$work/run" "$OUT" <<'P'
"""The averaged weights so far, as a checkpoint for `mmad export`, in parts that may travel."""
import sys
from pathlib import Path

import torch

from model.export import save_checkpoint
from model.network import Network
from training.recipe import load_recipe
from training.run import make_manifest
from training.tables import standard_labels

run, out = map(Path, sys.argv[1:])
recipe = load_recipe(str(run / "recipe.yaml"), [])
manifest = make_manifest(recipe, standard_labels(), "videos of synthetic people")
state = torch.load(run / "checkpoint.pt", map_location="cpu", weights_only=True)
network = Network(manifest)
network.load_state_dict(state["kept"])
save_checkpoint(run / "so-far.safetensors", network, manifest)
content = (run / "so-far.safetensors").read_bytes()
for part, start in enumerate(range(0, len(content), 2**24)):
    (out / f"weights-{part:02d}").write_bytes(content[start : start + 2**24])
print(f"stage {state['stage']}, step {state['step']}: {len(content) / 1e6:.1f} MB")
P
cp "$work/run/history.jsonl" "$OUT"
