#!/usr/bin/env bash
# Measure a checkpoint on clips: bash run_eval.sh REDS4 output/edvr/EDVR-best --data_path=/data
. "$(dirname "$0")/../common/launch.sh"
positional dataset 'REDS4, val.json or another file of sets/, or a folder below --data_path, such as Vid4' required
positional checkpoint 'of a training, the authors or the port: its prefix, a file of it, or a folder' path required
option data_path data 'folder that holds reds/ or Vid4/, or the set itself' path
option output_path output/eval 'metrics.json and pictures go to OUTPUT_PATH/{dataset}[/{clip}]' path
option padding '' 'frames beyond the ends of a clip: replicate, as the port, or reflection_circle, as the authors'
option compat '' "paper or port, the network's numerics; by default as the checkpoint says"
option device auto 'npu, gpu, cpu or auto (the best there is)'
switch save_pictures 'write the upscaled frames, too'
synonym data_dir data_path
parse_options "$@"
npu_environment
run "$python" tools/main.py mode eval data.eval_set "$dataset" checkpoint "$checkpoint" data.data_dir "$data_path" \
  output_dir "$output_path/$dataset" device "$device" ${padding:+data.padding "$padding"} \
  ${compat:+edvr.compat "$compat"} ${save_pictures:+save_pictures True} "${forwarded[@]}"
