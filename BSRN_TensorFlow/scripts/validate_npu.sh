#!/usr/bin/env bash
# Measure a checkpoint on BSD100, on ModelArts: bash scripts/validate_npu.sh CODE_DIR DATA_DIR RESULT_DIR OBS_DIR
. "$(dirname "$0")/../../common/launch.sh"
positional code_dir 'the folder above that of this script' path required
positional data_path 'folder that holds BSD100/, or dataset/ with it' path required
positional output_path 'pictures and metrics.json go to OUTPUT_PATH/result-pictures' path required
positional obs_dir 'folder of an object store that gets a copy of them'
option restore_path '' 'checkpoint; by default the newest in DATA_PATH/result' path
option scales 4 'upscaling factors, of those that the network has'
option device npu 'npu, gpu, cpu or auto (the best there is)'
synonym chip device
parse_options "$@"
[ "$code_dir" -ef . ] || usage_error "code_dir is '$code_dir', but this script belongs to $PWD"
npu_environment
run "$python" validate_bsrn.py --dataset=BSD100 --data_path="$data_path" --scales="$scales" --device="$device" \
  --restore_path="${restore_path:-$data_path/result}" --save_path="$output_path/result-pictures" \
  ${obs_dir:+--platform=modelarts --obs_dir="$obs_dir"} "${forwarded[@]}"
