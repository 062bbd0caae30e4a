#!/usr/bin/env bash
# Trains two bundles side by side on the GPU machine: joints first (recipe gpu-pose) and VideoMAE with DSTA (recipe gpu).
# Before the first call, here: scripts/gpu/wheels.sh. Then, within half a minute of each other, with carry: .whl
#     scripts/gpu/train.sh start [VIDEOS]     renders people, then trains both, and goes on while calls come and go
#     scripts/gpu/train.sh wait SECONDS       watches; what both have learned so far comes back in $OUT
# What comes back: NAME.part-N, in parts of 15 MiB, and logs.tgz:
#     cat pose.part-* > pose.safetensors; mmad export --checkpoint pose.safetensors ...
# Rehearse on a processor: OUT=/tmp/out WORK=/tmp/work SITE= PYTHON=.venv/bin/python TOY=1 scripts/gpu/train.sh start 20
set -euo pipefail
cd "$(dirname "$0")/../.."
verb=${1:-wait} number=${2:-60}
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

follow() { # NAME RECIPE
  local more=()
  [ "$1" = pose ] && [ -n "${TOY:-}" ] && more=(--set stages.2.steps=2 --set stages.3.steps=2 --set stages.2.batch=2 --set stages.3.batch=2)
  $python -m mmad train --data "$work/people" --out "$work/$1" --config "$2" "${toy[@]}" "${more[@]}" >"$work/$1.log" 2>&1 || echo "FAILED $1" >>"$work/$1.log"
  touch "$work/$1.done"
}

case $verb in
  start)
    setsid bash "$0" run "$number" >"$work/run.log" 2>&1 </dev/null &
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
    follow pose gpu-pose &
    follow videomae gpu &
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
