#!/usr/bin/env bash
# Full training on eight devices: bash test/train_full_8p.sh --data_path=/data
# What is not given is as default_config.yaml has it.
. "$(dirname "$0")/../../common/launch.sh"
option nproc 8 'processes, one for each device'
. test/train_options.sh
run_ranks "$nproc" "$python" train.py "${train_flags[@]}" --case=acc "${forwarded[@]}"
