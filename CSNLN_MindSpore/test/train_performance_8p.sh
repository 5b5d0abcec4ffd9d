#!/usr/bin/env bash
# Two epochs of 100 steps on eight devices, to measure their speed: bash test/train_performance_8p.sh --data_path=/data
# What is not given is as default_config.yaml has it.
. "$(dirname "$0")/../../common/launch.sh"
epoches=2 test_every=800
option nproc 8 'processes, one for each device'
. test/train_options.sh
run_ranks "$nproc" "$python" train.py "${train_flags[@]}" --case=perf "${forwarded[@]}"
