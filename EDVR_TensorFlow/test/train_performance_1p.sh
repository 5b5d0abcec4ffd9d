#!/usr/bin/env bash
# 160 steps on one device, to measure its speed: bash test/train_performance_1p.sh --data_path=/data
. "$(dirname "$0")/../../common/launch.sh"
train_steps=160 output_path=output
option device_id '' 'index of the device; the first where it is not given'
. test/train_options.sh
run "$python" tools/main.py "${train_flags[@]}" solver.eval_interval 0 solver.case perf "${forwarded[@]}"
