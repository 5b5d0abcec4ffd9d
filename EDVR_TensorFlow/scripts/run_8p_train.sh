#!/usr/bin/env bash
# Training on eight devices, as the released port does: bash scripts/run_8p_train.sh
. "$(dirname "$0")/../../common/launch.sh"
train_steps='' output_path=outputs
option nproc 8 'processes, one for each device'
option data_path data/reds 'folder of images/ and sets/, or the one that holds reds/' path
. test/train_options.sh
run_ranks "$nproc" "$python" tools/main.py "${train_flags[@]}" solver.checkpoint_interval 5000 "${forwarded[@]}"
