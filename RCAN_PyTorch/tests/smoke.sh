#!/usr/bin/env bash
# The users' own launchers on a tiny network: bash tests/smoke.sh DATA_DIR OUTPUT_DIR (ci/smoke.sh calls it)
set -eu
data=$1 output=$2
cd "$(dirname "$0")/.."
small=(--num_features=32 --num_rg=2 --num_rcab=3 --patch_size=24 --test_every=1000)
bash test/train_full_1p.sh --data_path="$data" --outputs_dir="$output/train" --device=cpu --batch_size=16 \
  --train_steps=400 --lr=1e-3 -- "${small[@]}"
checkpoint=$output/train/X2/model_best_amp.pth
bash run_eval.sh Sample "$checkpoint" --data_path="$data" --outputs_dir="$output/eval" --device=cpu
bash run_infer.sh "$data/benchmark/Sample/LR_bicubic/X2" "$output/infer" --checkpoint="$checkpoint" --device=cpu
bash run_export.sh "$checkpoint" "$output/export/rcan_x2.onnx"
