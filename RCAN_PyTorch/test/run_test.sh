#!/usr/bin/env bash
# Measure a checkpoint: bash test/run_test.sh --test_dataset_dir=/data/benchmark/Set5 --checkpoint_path=model_best_amp.pth
. "$(dirname "$0")/../../common/launch.sh"
option test_dataset_dir '' 'the test set, or a folder that holds it' path required
synonym data_path test_dataset_dir
option dataset '' 'Set5, Set14, B100, Urban100, Manga109 ... below --test_dataset_dir'
option checkpoint_path '' 'weights: any checkpoint that test.py reads' path required
option outputs_dir output/eval 'pictures and metrics.json go to OUTPUTS_DIR/X{scale}/{dataset}' path
option device auto 'npu, gpu, cpu or auto (the best there is)'
option device_id 0 'index of the device'
option scale '' "must be the checkpoint's when given"
option arch_network RCAN 'network name, as printed'
switch from_multiprocessing_distributed 'not needed: checkpoints of several devices are recognised'
parse_options "$@"
npu_environment
train_log
log=${log%/*}/test_${log##*_}
run "$python" test.py --arch="$arch_network" --test_dataset_dir="$test_dataset_dir" --dataset="$dataset" \
  --checkpoint_path="$checkpoint_path" --outputs_dir="$outputs_dir" --device="$device" --device_id="$device_id" \
  ${scale:+--scale="$scale"} "${forwarded[@]}"
