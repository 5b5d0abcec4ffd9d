#!/usr/bin/env bash
# Training on the devices of a rank table: bash script/run_ascend_distribute.sh RANK_TABLE_FILE TRAIN_DATA_DIR
. "$(dirname "$0")/../../common/launch.sh"
batch_size=2 epochs=1000 test_every=8000
positional rank_table_file 'HCCL rank table of one machine, as hccl_tools.py writes it' path required
positional data_path 'folder that holds DIV2K/' path required
. test/train_options.sh
export RANK_TABLE_FILE=$rank_table_file
device_list=$("$python" -m common.rank_table "$rank_table_file") || exit
IFS=, read -r -a devices <<< "$device_list"
run_ranks "${#devices[@]}" "$python" train.py "${train_flags[@]}" --case=acc "${forwarded[@]}"
