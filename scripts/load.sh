#!/usr/bin/env bash
# Measure how long POST /detect and GET /jobs/{id} take with 50 clients, service and worker on this machine, with
# ApacheBench (apt-get install apache2-utils). Prints percentiles of each run and their medians, in milliseconds.
#     scripts/load.sh [VIDEO] [RUNS] [REQUESTS]
set -euo pipefail
cd "$(dirname "$0")/.."
video=${1:-examples/interview.mp4} runs=${2:-5} requests=${3:-500}
port=8877 url=http://127.0.0.1:8877 folder=$(mktemp -d)
MMAD_DATA_DIR=$folder/data .venv/bin/mmad serve --port $port > "$folder/log" 2>&1 &
service=$!
trap 'kill -INT $service; wait $service || true; rm -rf "$folder"' EXIT
until grep -q "mmad is ready" "$folder/log"; do kill -0 $service; sleep 0.2; done

job=$(curl -sf -F "file=@$video" $url/detect | .venv/bin/python -c 'import json, sys; print(json.load(sys.stdin)["id"])')
until curl -sf $url/jobs/$job | grep -q succeeded; do sleep 0.2; done

percentiles() {  # parses ab's output: requests per second, then the 50th, 90th, 95th, 99th and 100th percentile
  awk '/Requests per second/ { rate = $4 } /Failed requests|Non-2xx/ { if ($NF != 0) bad = bad " " $0 }
       /^ +(50|90|95|99|100)%/ { line = line " " $2 } END { print rate line bad }'
}
measure() {
  local name=$1; shift
  for run in $(seq "$runs"); do
    ab -q -l -c 50 -n "$requests" "$@" 2>&1 | percentiles | tee -a "$folder/$name"
  done | sed "s|^|$name (requests/s; 50 90 95 99 100 %): |"
  printf '%s, medians of %s runs: ' "$name" "$runs"
  for column in 1 2 3 4 5 6; do
    cut -d' ' -f$column "$folder/$name" | sort -g | sed -n "$(((runs + 1) / 2))p" | tr '\n' ' '
  done
  echo
}
measure "GET-job" $url/jobs/$job
measure "POST-detect" -p "$video" -T video/mp4 $url/detect
