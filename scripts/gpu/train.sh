#!/usr/bin/env bash
# Train on a machine with a GPU and without internet: recipe gpu-pose, or gpu (VideoMAE with DSTA), or both at once.
# Run scripts/gpu/wheels.sh first, and copy .whl with the repository. OUT is the folder for what was trained so far.
#     RUNS=pose scripts/gpu/train.sh start 900 --set stages.0.steps=3000 && scripts/gpu/train.sh wait 500
#     start VIDEOS [--set ...]    render people, half as many without CUDA, and train in the background
#     wait SECONDS                wait for the end, and collect the weights so far in OUT
# Weights are NAME.part-N, in parts of 15 MiB, beside logs.tgz:
#     cat pose.part-* > pose.safetensors; mmad export --checkpoint pose.safetensors ...
# Test it on a CPU: OUT=/tmp/out WORK=/tmp/work SITE= PYTHON=.venv/bin/python TOY=1 scripts/gpu/train.sh start 20
set -euo pipefail
cd "$(dirname "$0")/../.."
verb=${1:-wait} number=${2:-60}
shift $(($# < 2 ? $# : 2))
runs=${RUNS:-pose videomae}
work=${WORK:-/tmp/work} site=${SITE-/tmp/site} python=${PYTHON:-python3} jobs=${JOBS:-$(nproc)}
if [ -n "$site" ]; then
  [ -d "$site" ] || $python -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target "$site" .whl/*.whl
  mkdir -p "$site/mmad-0.dist-info" # mmad runs from the repository, and reads its version
  printf 'Metadata-Version: 2.1\nName: mmad\nVersion: 0\n' >"$site/mmad-0.dist-info/METADATA"
  # Numba's CUDA target uses a name that NumPy 2.5 has removed.
  printf 'import numpy\nif not hasattr(numpy, "row_stack"):\n    numpy.row_stack = numpy.vstack\n' >"$site/sitecustomize.py"
fi
export PYTHONPATH=${site:+$site:}$PWD
mkdir -p "$work" "$OUT"
toy=()
if [ -n "${TOY:-}" ]; then
  toy=(--set data.workers=1 --set stages.0.steps=3 --set stages.1.steps=3 --set stages.0.batch=2 --set stages.1.batch=2 --set stages.0.warmup=1 --set stages.1.warmup=1 --set validate_videos=2)
fi

follow() { # NAME RECIPE [--set ...]
  local name=$1 recipe=$2
  shift 2
  local more=()
  [ "$name" = pose ] && [ -n "${TOY:-}" ] && more=(--set stages.2.steps=2 --set stages.3.steps=2 --set stages.2.batch=2 --set stages.3.batch=2)
  $python -m mmad train --data "$work/people" --out "$work/$name" --config "$recipe" "${toy[@]}" "${more[@]}" "$@" >"$work/$name.log" 2>&1 || echo "FAILED $name" >>"$work/$name.log"
}

case $verb in
  start)
    setsid bash "$0" run "$number" "$@" >"$work/run.log" 2>&1 </dev/null &
    ;;
  run)
    export OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1
    synth=($python -m mmad synth --out "$work/people" --seed 500 --size 160x160 --fps 15 --mix balanced --crop person --frames npz --jobs "$jobs")
    date +"%T measuring"
    timeout 100 $python scripts/gpu/render.py --shots 2 --repeats 3 >"$work/render.log" 2>&1 || echo "rendering with CUDA failed, see render.log"
    date +"%T rendering"
    "${synth[@]}" --videos "$number" --device cuda || "${synth[@]}" --videos "$((number / 2))"
    date +"%T training"
    unset OMP_NUM_THREADS
    for name in $runs; do
      follow "$name" "$([ "$name" = pose ] && echo gpu-pose || echo gpu)" "$@" &
    done
    wait
    touch "$work/done"
    ;;
  wait)
    [ -e "$work/run.log" ] || { echo "there is no run here: begin with start" >&2; exit 1; }
    for _ in $(seq "$number"); do
      [ -e "$work/done" ] && break
      sleep 1
    done
    ;;
  *) echo "start, run or wait, not $verb" >&2; exit 2 ;;
esac
[ "$verb" = run ] && exit
for log in render run pose videomae; do
  [ -e "$work/$log.log" ] && { echo "== $log"; tr '\r' '\n' <"$work/$log.log" | tail -n ${LINES_SHOWN:-12} | cut -c1-220; }
done
$python scripts/gpu/pack.py "$work" "$OUT"
nvidia-smi 2>/dev/null | grep MiB || true
uptime
