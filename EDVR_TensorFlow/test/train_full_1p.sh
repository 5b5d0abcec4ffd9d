#!/usr/bin/env bash
# Full training on one device: bash test/train_full_1p.sh --data_path=/data
. "$(dirname "$0")/../../common/launch.sh"
train_steps='' output_path=output
option device_id '' 'index of the device; the first where it is not given'
. test/train_options.sh
run "$python" tools/main.py "${train_flags[@]}" solver.case acc "${forwarded[@]}"
