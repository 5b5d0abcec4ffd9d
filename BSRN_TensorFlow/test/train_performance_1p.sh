#!/usr/bin/env bash
# 160 steps on one device, to measure its speed: bash test/train_performance_1p.sh --data_path=/data
. "$(dirname "$0")/../../common/launch.sh"
train_steps=160 save_freq=80
option device_id '' 'index of the device; the first where it is not given'
. test/train_options.sh
run "$python" train.py "${train_flags[@]}" --case=perf "${forwarded[@]}"
