#!/usr/bin/env bash
# The users' own launchers on a tiny network: bash tests/smoke.sh DATA_DIR OUTPUT_DIR (ci/smoke.sh calls it)
set -eu
data=$1 output=$2
cd "$(dirname "$0")/.."
small=(--n_resblocks=4 --n_feats=32 --res_scale=1 --patch_size=48)
bash test/train_full_1p.sh --data_path="$data" --output_path="$output/train" --device=cpu --train_steps=400 --lr=1e-3 \
  -- "${small[@]}"
checkpoint=$output/train/X2/edsr_best.ckpt
bash run_eval.sh Sample "$checkpoint" --data_path="$data" --output_path="$output/eval" --device=cpu
bash run_infer.sh "$data/benchmark/Sample/LR_bicubic/X2" "$output/infer" --checkpoint="$checkpoint" --device=cpu
bash run_export.sh "$checkpoint" "$output/export/edsr_x2.mindir"
bash run_export.sh "$checkpoint" "$output/export/edsr_x2.onnx"
bash script/run_infer_310.sh "$output/export/edsr_x2.mindir" "$data" Sample 2 --device=cpu --output_path="$output/infer_310"
