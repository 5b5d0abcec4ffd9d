#!/usr/bin/env bash
# Measure a checkpoint on a test set: bash run_eval.sh Set5 output/X4/model.ckpt-best --data_path=/data
. "$(dirname "$0")/../common/launch.sh"
positional dataset 'Set5, Set14, BSD100, Urban100, Manga109, DIV2K, or another folder below benchmark/' required
positional checkpoint "checkpoint of train.py, of the authors or of the port: its prefix, or a folder" path required
option data_path data 'folder that holds benchmark/' path
option output_path output/eval 'pictures and metrics.json go to OUTPUT_PATH/{dataset}/{t1,...,ensemble}/x{scale}' path
option scales '' 'of a network of several scales, such as 2,3,4'
option device auto 'npu, gpu, cpu or auto (the best there is)'
switch ensemble_only 'not the single passes'
switch self_ensemble 'mean over 8 flips and turns'
synonym chip device
parse_options "$@"
npu_environment
run "$python" validate_bsrn.py --dataset="$dataset" --data_path="$data_path" --restore_path="$checkpoint" \
  --save_path="$output_path/$dataset" --device="$device" ${scales:+--scales="$scales"} \
  ${ensemble_only:+--ensemble_only} ${self_ensemble:+--self_ensemble} "${forwarded[@]}"
