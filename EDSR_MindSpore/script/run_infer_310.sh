#!/usr/bin/env bash
# Measure a MINDIR on a test set: bash script/run_infer_310.sh edsr_x2.mindir /data Set5 2
. "$(dirname "$0")/../../common/launch.sh"
positional mindir_path 'file of export.py, or of a released port' path required
positional data_path 'folder that holds the sets' path required
positional dataset 'Set5, Set14, B100, Urban100, DIV2K, or another folder below it' required
positional scale '2, 3 or 4, as the file enlarges' required
positional device_id 'index of the device; by default 0'
option device auto 'npu, gpu, cpu or auto (the best there is)'
option output_path output/infer_310 'run_infer.log; pictures and metrics.json in X{scale}/{dataset}' path
parse_options "$@"
npu_environment
[[ $output_path == /* ]] || output_path=$PWD/$output_path
log=$output_path/run_infer.log
echo "log: $log"
run "$python" infer_310.py --mindir_path="$mindir_path" --data_path="$data_path" --dataset="$dataset" \
  --scale="$scale" --device="$device" ${device_id:+--device_id="$device_id"} --output_path="$output_path" \
  "${forwarded[@]}"
