#!/usr/bin/env bash
# The users' own launchers on a tiny network: bash tests/smoke.sh DATA_DIR OUTPUT_DIR (ci/smoke.sh calls it)
set -eu
data=$1 output=$2
cd "$(dirname "$0")/.."
small=(--bsrn_conv_features=16 --bsrn_state_features=16 --bsrn_recursions=4 --input_patch_size=24
  --bsrn_learning_rate=1e-3)
bash test/train_full_1p.sh --data_path="$data" --output_path="$output/train" --device=cpu --train_steps=400 \
  --scales=2 -- "${small[@]}"
checkpoint=$output/train/X2/model.ckpt-best
bash run_eval.sh Sample "$checkpoint" --data_path="$data" --output_path="$output/eval" --device=cpu
bash run_infer.sh "$data/benchmark/Sample/LR_bicubic/X2" "$output/infer" --checkpoint="$checkpoint" --device=cpu
bash run_export.sh "$checkpoint" "$output/export/bsrn_x2.pb"
bash run_export.sh "$checkpoint" "$output/export/bsrn_x2_savedmodel"
