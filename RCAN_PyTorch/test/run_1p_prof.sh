#!/usr/bin/env bash
# Profile one training step on one device: bash test/run_1p_prof.sh --data_path=/data
. "$(dirname "$0")/../../common/launch.sh"
batch_size=160 num_epochs=1
option device_id 0 'index of the device'
. test/train_options.sh
run "$python" main_prof.py "${train_flags[@]}" --device_id="$device_id" "${forwarded[@]}"
