#!/usr/bin/env bash
# Full training on one device: bash test/train_full_1p.sh --data_path=/data
. "$(dirname "$0")/../../common/launch.sh"
batch_size=16 epochs=1000 test_every=1000
option device_id 0 'index of the device'
. test/train_options.sh
run "$python" train.py "${train_flags[@]}" --device_id="$device_id" --case=acc "${forwarded[@]}"
