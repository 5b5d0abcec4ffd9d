#!/usr/bin/env bash
# Measure a checkpoint on a test set: bash run_eval.sh Set5 output/X2/model_best_amp.pth --data_path=/data
. "$(dirname "$0")/../common/launch.sh"
positional dataset 'Set5, Set14, B100, Urban100, Manga109, DIV2K, or another folder below benchmark/' required
positional checkpoint 'checkpoint of main.py or of the port, .pt of the authors, .pth of BasicSR' path required
option data_path data 'folder that holds benchmark/' path
option outputs_dir output/eval 'pictures and metrics.json go to OUTPUTS_DIR/X{scale}/{dataset}' path
synonym output_path outputs_dir
option device auto 'npu, gpu, cpu or auto (the best there is)'
option device_id 0 'index of the device'
switch self_ensemble 'mean over 8 flips and turns: RCAN+ of the paper'
switch amp 'convolutions in 16 bit'
parse_options "$@"
npu_environment
run "$python" test.py --test_dataset_dir="$data_path" --dataset="$dataset" --checkpoint_path="$checkpoint" \
  --outputs_dir="$outputs_dir" --device="$device" --device_id="$device_id" ${self_ensemble:+--self_ensemble} \
  ${amp:+--amp} "${forwarded[@]}"
