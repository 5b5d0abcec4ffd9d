#!/usr/bin/env bash
# Full training on one device: bash test/train_full_1p.sh --data_path=/data
# What is not given is as default_config.yaml has it.
. "$(dirname "$0")/../../common/launch.sh"
option device_id 0 'index of the device'
. test/train_options.sh
run "$python" train.py "${train_flags[@]}" --device_id="$device_id" --case=acc "${forwarded[@]}"
