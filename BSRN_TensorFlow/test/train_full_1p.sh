#!/usr/bin/env bash
# Full training on one device: bash test/train_full_1p.sh --data_path=/data
. "$(dirname "$0")/../../common/launch.sh"
train_steps=300000 save_freq=50000
option device_id '' 'index of the device; the first where it is not given'
. test/train_options.sh
run "$python" train.py "${train_flags[@]}" --case=acc "${forwarded[@]}"
