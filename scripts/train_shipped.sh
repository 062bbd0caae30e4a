#!/usr/bin/env bash
# Train the shipped bundles again: runs/demo7/bundle and runs/videomae3/bundle.
#     scripts/train_shipped.sh DEMO6 VIDEOMAE2
# DEMO6 is bundles/demo of commit 5e638a3, VIDEOMAE2 is bundles/videomae of 2fead4d, both without `inputs` in bundle.json.
set -euo pipefail
demo6=$1 videomae2=$2
people=(--mix balanced --crop person --frames npz)

# The pose estimator; VIDEOMAE2 already contains it.
mmad synth --out stills --videos 2000 --seed 5000 --fps 3 "${people[@]}"
mmad train --data stills --out runs/finder --config demo --set start="$demo6" --set 'stages=[
  {objective: keypoints, tuning: all, steps: 800, batch: 6, frames: 16, backbone_rate: 0.0015, head_rate: 0.0015, warmup: 50, final: 0.02},
  {objective: detection, tuning: head, steps: 1, batch: 2, head_rate: 0.0000001}]'

mmad synth --out people --videos 1200 --seed 100 "${people[@]}"
python -m training.keypoint_cache --bundle "$videomae2" --data people --out estimated --looks 2
shared=(--data estimated --data 'people*0.000001' --set finder="$videomae2" --set 'augment.scale=[1,1]'
  --set augment.close=0 --set weights=fp32)
mmad train "${shared[@]}" --out runs/demo7 --config demo --set start="$demo6" --set wise_ft_alpha=0.5 --set 'stages=[
  {objective: detection, given: keypoints, keypoint_noise: 0, tuning: reader, steps: 700, batch: 8, head_rate: 0.0005, backbone_rate: 0.00025, warmup: 30, final: 0.02, dense: 0.3}]'
mmad train "${shared[@]}" --out runs/videomae3 --config videomae --set start="$videomae2" \
  --set 'stages=[
  {objective: detection, given: keypoints, keypoint_noise: 0, tuning: adapters, steps: 600, batch: 8, head_rate: 0.0007, adapter_rate: 0.001, warmup: 30, final: 0.02, dense: 0.3}]'
