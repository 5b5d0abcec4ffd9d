#!/usr/bin/env bash
# Training on one or several GPUs, as the released port does: bash scripts/run_train_gpu.sh 8 0,1,2,3,4,5,6,7
# What is not given is as default_config.yaml has it.
. "$(dirname "$0")/../../common/launch.sh"
positional device_num 'how many devices' required
positional visible_devices 'which ones, such as 0,1,2,3,4,5,6,7; by default the first'
. test/train_options.sh
[[ $device_num =~ ^[1-9][0-9]*$ ]] || usage_error "DEVICE_NUM '$device_num'; expected a number such as 1 or 8"
IFS=, read -r -a devices <<< "${visible_devices:-$(seq -s , 0 $((device_num - 1)))}"
(( ${#devices[@]} == device_num )) || usage_error "'$visible_devices' names ${#devices[@]} devices, not $device_num"
[ -z "$visible_devices" ] || export CUDA_VISIBLE_DEVICES=$visible_devices
run_ranks "$device_num" "$python" train.py "${train_flags[@]}" --case=acc "${forwarded[@]}"
