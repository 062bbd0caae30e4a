#!/usr/bin/env bash
# Trains on a machine with a GPU and without internet: keypoints first (recipe gpu-pose), VideoMAE with DSTA (recipe gpu), or both side by side.
# Before the first call, here: scripts/gpu/wheels.sh. Then, with carry: .whl
#     RUNS=pose scripts/gpu/train.sh start 900 --set stages.0.steps=3000 && scripts/gpu/train.sh wait 500
#     start VIDEOS [--set ...]    renders people, half as many where the card cannot, and trains in the background
#     wait SECONDS                watches; what was learned so far comes back in $OUT
# What comes back: NAME.part-N, in parts of 15 MiB, and logs.tgz:
#     cat pose.part-* > pose.safetensors; mmad export --checkpoint pose.safetensors ...
# Rehearse on a processor: OUT=/tmp/out WORK=/tmp/work SITE= PYTHON=.venv/bin/python TOY=1 scripts/gpu/train.sh start 20
set -euo pipefail
cd "$(dirname "$0")/../.."
verb=${1:-wait} number=${2:-60}
shift $(($# < 2 ? $# : 2))
runs=${RUNS:-pose videomae}
work=${WORK:-/tmp/work} site=${SITE-/tmp/site} python=${PYTHON:-python3} jobs=${JOBS:-$(nproc)}
if [ -n "$site" ]; then
  [ -d "$site" ] || $python -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target "$site" .whl/*.whl
  mkdir -p "$site/mmad-0.dist-info" # mmad itself runs from here, and asks for its version
  printf 'Metadata-Version: 2.1\nName: mmad\nVersion: 0\n' >"$site/mmad-0.dist-info/METADATA"
  # Numba's CUDA target asks NumPy 2.5 for a name that it no longer has.
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
    date +"%T begins"
    timeout 100 $python scripts/gpu/render.py --shots 2 --repeats 3 >"$work/render.log" 2>&1 || echo "the card renders nothing, see render.log"
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
    [ -e "$work/run.log" ] || { echo "this machine has no run: it is a new one, begin with start" >&2; exit 1; }
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
