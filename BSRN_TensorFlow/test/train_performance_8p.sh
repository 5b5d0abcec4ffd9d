#!/usr/bin/env bash
# 160 steps on each of eight devices, to measure their speed: bash test/train_performance_8p.sh --data_path=/data
. "$(dirname "$0")/../../common/launch.sh"
train_steps=1280 save_freq=640
option nproc 8 'processes, one for each device'
. test/train_options.sh
run_ranks "$nproc" "$python" train.py "${train_flags[@]}" --case=perf "${forwarded[@]}"
