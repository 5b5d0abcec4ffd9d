#!/usr/bin/env bash
# Full training on eight devices: bash test/train_full_8p.sh --data_path=/data
. "$(dirname "$0")/../../common/launch.sh"
train_steps='' output_path=output
option nproc 8 'processes, one for each device'
. test/train_options.sh
run_ranks "$nproc" "$python" tools/main.py "${train_flags[@]}" solver.case acc "${forwarded[@]}"
