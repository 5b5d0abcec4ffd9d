#!/usr/bin/env bash
# The users' own launchers on a tiny network: bash tests/smoke.sh DATA_DIR OUTPUT_DIR (ci/smoke.sh calls it)
set -eu
data=$1 output=$2
cd "$(dirname "$0")/.."
small=(edvr.mid_channels=16 edvr.num_deform_groups=4 edvr.num_blocks_extraction=2 edvr.num_blocks_reconstruction=2
  data.train_in_size=24,24 solver.lr_schedule.base_lr=1e-3 edvr.loss_type=charbonnier)
bash test/train_full_1p.sh --data_path="$data" --output_path="$output/train" --device=cpu --train_steps=120 -- \
  "${small[@]}"
checkpoint=$output/train/edvr/EDVR-best
bash run_eval.sh REDS4 "$checkpoint" --data_path="$data" --output_path="$output/eval" --device=cpu \
  --save_pictures
bash run_infer.sh "$data/reds/images/000/blur4" "$output/infer" --checkpoint="$checkpoint" --device=cpu
bash run_export.sh "$checkpoint" "$output/export/edvr.pb"
bash run_export.sh "$checkpoint" "$output/export/edvr_savedmodel"
