#!/usr/bin/env bash
# Freeze to outputs/edvr/EDVR.pb, frames in, 8 bits out, as the port does: bash scripts/run_freeze.sh CHECKPOINT
. "$(dirname "$0")/../../common/launch.sh"
positional checkpoint 'of a training, the authors or the port: its prefix, a file of it, or a folder' path required
option output outputs/edvr/EDVR.pb 'file in .pb, or a new folder for a SavedModel' path
parse_options "$@"
npu_environment
run "$python" tools/main.py --config-file configs/edvr.yaml mode freeze checkpoint "$checkpoint" output "$output" \
  model.input_format_dimension 4 model.convert_output_to_uint8 True data.eval_batch_size -1 "${forwarded[@]}"
