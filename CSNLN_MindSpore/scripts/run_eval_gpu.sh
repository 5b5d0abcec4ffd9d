#!/usr/bin/env bash
# Measure a checkpoint, as in the released port: bash scripts/run_eval_gpu.sh CHECKPOINT_PATH Set5 --data_path=/data
. "$(dirname "$0")/../../common/launch.sh"
positional checkpoint 'checkpoint of train.py or of the released port, .pt of the authors' path required
positional dataset 'Set5 (the default), Set14, B100 or BSD100, Urban100, or another folder below benchmark/'
option data_path '' 'folder that holds benchmark/; else that of default_config.yaml' path
option output_path output/eval 'eval.log; pictures and metrics.json in X{scale}/{dataset}' path
option device auto 'gpu, npu, cpu or auto (the best there is)'
option device_id 0 'index of the device'
switch chop "upscale in the authors' parts, as in the published scores, whatever the memory"
switch self_ensemble 'mean over 8 flips and turns'
parse_options "$@"
npu_environment
[[ $output_path == /* ]] || output_path=$PWD/$output_path
log=$output_path/eval.log
run "$python" eval.py --test_only ${data_path:+--data_path="$data_path"} --data_test="${dataset:-Set5}" \
  --ckpt_file="$checkpoint" --save="$output_path" --device="$device" --device_id="$device_id" ${chop:+--chop} \
  ${self_ensemble:+--self_ensemble} "${forwarded[@]}"
status=$?
echo "log: $log"
exit "$status"
