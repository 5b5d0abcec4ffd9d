#!/usr/bin/env bash
# The users' own launchers on a tiny network: bash tests/smoke.sh DATA_DIR OUTPUT_DIR (ci/smoke.sh calls it)
set -eu
data=$1 output=$2
cd "$(dirname "$0")/.."
small=(--n_feats=16 --depth=2 --patch_size=48 --data_test=DIV2K --chop)
bash test/train_full_1p.sh --data_path="$data" --output_path="$output/train" --device=cpu --train_steps=400 --lr=4e-3 \
  -- "${small[@]}"
checkpoint=$output/train/X2/model_best.ckpt
bash run_eval.sh Sample "$checkpoint" --data_path="$data" --output_path="$output/eval" --device=cpu
bash run_infer.sh "$data/benchmark/Sample/LR_bicubic/X2" "$output/infer" --checkpoint="$checkpoint" --device=cpu
bash run_export.sh "$checkpoint" "$output/export/csnln_x2.mindir"
bash run_export.sh "$checkpoint" "$output/export/csnln_x2.onnx"
