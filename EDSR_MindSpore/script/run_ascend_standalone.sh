#!/usr/bin/env bash
# Training on one device: bash script/run_ascend_standalone.sh TRAIN_DATA_DIR
. "$(dirname "$0")/../../common/launch.sh"
batch_size=16 epochs=1000 test_every=1000
positional data_path 'folder that holds DIV2K/' path required
option device_id 0 'index of the device'
. test/train_options.sh
log=${log%/*}/train.log  # its name in the released port
echo "log: $log"
run "$python" train.py "${train_flags[@]}" --device_id="$device_id" --case=acc "${forwarded[@]}"
