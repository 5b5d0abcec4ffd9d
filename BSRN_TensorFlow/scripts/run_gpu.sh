#!/usr/bin/env bash
# Training on a GPU, a million steps at x4: bash scripts/run_gpu.sh --data_path=/data
. "$(dirname "$0")/../../common/launch.sh"
train_steps=1000000 save_freq=100000
option device_id '' 'index of the device; the first where it is not given'
set -- --device=gpu "$@"
. test/train_options.sh
run "$python" train.py "${train_flags[@]}" --case=acc "${forwarded[@]}"
