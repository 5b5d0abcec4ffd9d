#!/usr/bin/env bash
# Two epochs of 100 steps on one device, to measure its speed: bash test/train_performance_1p.sh --data_path=/data
# What is not given is as default_config.yaml has it.
. "$(dirname "$0")/../../common/launch.sh"
epoches=2 test_every=100
option device_id 0 'index of the device'
. test/train_options.sh
run "$python" train.py "${train_flags[@]}" --device_id="$device_id" --case=perf "${forwarded[@]}"
