#!/usr/bin/env bash
# Measure a checkpoint on a test set: bash run_eval.sh Set5 output/X2/model_best.ckpt --data_path=/data
. "$(dirname "$0")/../common/launch.sh"
positional dataset 'Set5, Set14, B100, Urban100, Manga109, DIV2K, or another folder below benchmark/' required
positional checkpoint 'checkpoint of train.py or of the released port, .pt of the authors' path required
option data_path '' 'folder that holds benchmark/; else that of default_config.yaml' path
option output_path output/eval 'pictures and metrics.json go to OUTPUT_PATH/X{scale}/{dataset}' path
option device auto 'npu, gpu, cpu or auto (the best there is)'
option device_id 0 'index of the device'
switch chop "upscale in the authors' parts, as in the published scores, whatever the memory"
switch self_ensemble 'mean over 8 flips and turns'
parse_options "$@"
npu_environment
run "$python" eval.py ${data_path:+--data_path="$data_path"} --data_test="$dataset" --ckpt_file="$checkpoint" \
  --save="$output_path" --device="$device" --device_id="$device_id" ${chop:+--chop} \
  ${self_ensemble:+--self_ensemble} "${forwarded[@]}"
