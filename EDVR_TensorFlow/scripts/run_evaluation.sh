#!/usr/bin/env bash
# Measure a checkpoint on sets/val.json, as the released port does: bash scripts/run_evaluation.sh DEVICE_ID CHECKPOINT
. "$(dirname "$0")/../../common/launch.sh"
positional device_id 'which NPU or GPU' required
positional checkpoint 'of a training, the authors or the port: its prefix, a file of it, or a folder' path required
option data_dir data/reds 'folder of images/ and sets/, or the one that holds reds/' path
option output_path outputs/edvr 'metrics.json goes there' path
option device auto 'npu, gpu, cpu or auto (the best there is)'
synonym data_path data_dir
parse_options "$@"
export DEVICE_ID=$device_id ASCEND_DEVICE_ID=$device_id
npu_environment
run "$python" tools/main.py --config-file configs/edvr.yaml mode eval data.data_dir "$data_dir" \
  checkpoint "$checkpoint" output_dir "$output_path" device "$device" device_ids "[$device_id]" "${forwarded[@]}"
