#!/usr/bin/env bash
# Measure a checkpoint, as in the released port: bash script/run_eval.sh TEST_DATA_DIR CHECKPOINT_PATH DATASET_TYPE
. "$(dirname "$0")/../../common/launch.sh"
positional data_path 'folder that holds the test set' path required
positional checkpoint 'checkpoint of train.py or of a MindSpore port, .pt of the authors, .pth of BasicSR' path required
positional dataset 'Set5, Set14, B100, Urban100, DIV2K, or another folder below it' required
option output_path output/eval 'log.txt; pictures and metrics.json in X{scale}/{dataset}' path
option device auto 'npu, gpu, cpu or auto (the best there is)'
option device_id 0 'index of the device'
switch self_ensemble 'mean over 8 flips and turns: EDSR+ of the paper'
parse_options "$@"
npu_environment
[[ $output_path == /* ]] || output_path=$PWD/$output_path
log=$output_path/log.txt
run "$python" eval.py --dir_data="$data_path" --data_test="$dataset" --ckpt_path="$checkpoint" \
  --output_path="$output_path" --device="$device" --device_id="$device_id" ${self_ensemble:+--self_ensemble} \
  "${forwarded[@]}"
status=$?
echo "log: $log"
exit "$status"
