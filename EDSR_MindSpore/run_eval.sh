#!/usr/bin/env bash
# Measure a checkpoint on a test set: bash run_eval.sh Set5 output/X2/edsr_best.ckpt --data_path=/data
. "$(dirname "$0")/../common/launch.sh"
positional dataset 'Set5, Set14, B100, Urban100, Manga109, DIV2K, or another folder below benchmark/' required
positional checkpoint 'checkpoint of train.py or of a MindSpore port, .pt of the authors, .pth of BasicSR' path required
option data_path data 'folder that holds benchmark/' path
option output_path output/eval 'pictures and metrics.json go to OUTPUT_PATH/X{scale}/{dataset}' path
option device auto 'npu, gpu, cpu or auto (the best there is)'
option device_id 0 'index of the device'
switch self_ensemble 'mean over 8 flips and turns: EDSR+ of the paper'
parse_options "$@"
npu_environment
run "$python" eval.py --dir_data="$data_path" --data_test="$dataset" --ckpt_path="$checkpoint" \
  --output_path="$output_path" --device="$device" --device_id="$device_id" ${self_ensemble:+--self_ensemble} \
  "${forwarded[@]}"
