#!/usr/bin/env bash
# Training on ModelArts from a checkpoint on: bash scripts/run_npu_restore.sh CODE_DIR DATA_DIR RESULT_DIR OBS_DIR
. "$(dirname "$0")/../../common/launch.sh"
train_steps=200 save_freq=50
positional code_dir 'the folder above that of this script' path required
positional data_path 'folder that holds DIV2K/, or dataset/ with it' path required
positional output_path 'results go to OUTPUT_PATH/X{scales}, a further run to X{scales}_2 and so on' path required
positional obs_dir 'folder of an object store that gets a copy of the results'
option restore_path '' 'checkpoint to start from; by default DATA_PATH/result/model.ckpt-GLOBAL_STEP' path
option global_step 100 'the step of that checkpoint, from which steps are counted on'
set -- --device=npu "$@"
. test/train_options.sh
[ "$code_dir" -ef . ] || usage_error "code_dir is '$code_dir', but this script belongs to $PWD"
run "$python" train.py "${train_flags[@]}" --case=acc --global_step="$global_step" \
  --restore_path="${restore_path:-$data_path/result/model.ckpt-$global_step}" \
  ${obs_dir:+--platform=modelarts --obs_dir="$obs_dir"} "${forwarded[@]}"
