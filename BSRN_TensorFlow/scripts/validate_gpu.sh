#!/usr/bin/env bash
# Measure on BSD100, on a GPU: bash scripts/validate_gpu.sh --data_path=/data --restore_path=model.ckpt-100000
. "$(dirname "$0")/../../common/launch.sh"
option data_path '' 'folder that holds BSD100/' path required
option restore_path '' "checkpoint of train.py, of the authors or of the port: its prefix, or a folder" path required
option save_path result-pictures 'pictures and metrics.json go to SAVE_PATH/{t1,...,ensemble}/x{scale}' path
option scales 4 'upscaling factors, of those that the network has'
option device gpu 'npu, gpu, cpu or auto (the best there is)'
synonym chip device
parse_options "$@"
npu_environment
run "$python" validate_bsrn.py --dataset=BSD100 --data_path="$data_path" --restore_path="$restore_path" \
  --save_path="$save_path" --scales="$scales" --device="$device" "${forwarded[@]}"
