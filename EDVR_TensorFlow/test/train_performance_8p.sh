#!/usr/bin/env bash
# 160 steps on each of eight devices, to measure their speed: bash test/train_performance_8p.sh --data_path=/data
. "$(dirname "$0")/../../common/launch.sh"
train_steps=160 output_path=output
option nproc 8 'processes, one for each device'
. test/train_options.sh
run_ranks "$nproc" "$python" tools/main.py "${train_flags[@]}" solver.eval_interval 0 solver.case perf \
  "${forwarded[@]}"
