#!/usr/bin/env bash
# Training on one device, as the released port does: bash scripts/run_1p_train.sh DEVICE_ID [1]
. "$(dirname "$0")/../../common/launch.sh"
train_steps='' output_path=outputs
positional device_id 'which NPU or GPU' required
positional ranks '1; scripts/run_8p_train.sh starts several'
option data_path data/reds 'folder of images/ and sets/, or the one that holds reds/' path
. test/train_options.sh
[[ ${ranks:-1} == 1 ]] || usage_error "$ranks ranks: bash scripts/run_8p_train.sh --nproc=$ranks starts them all"
run "$python" tools/main.py "${train_flags[@]}" solver.checkpoint_interval 5000 "${forwarded[@]}"
