#!/usr/bin/env bash
# Write a network as a frozen graph, SavedModel or ONNX and check it: bash run_export.sh output/edvr/EDVR-best edvr.pb
. "$(dirname "$0")/../common/launch.sh"
positional checkpoint 'of a training, the authors or the port: its prefix, a file of it, or a folder' path required
positional output 'file in .pb or .onnx, or a new folder for a SavedModel; by default a .pb beside the checkpoint' path
option compat '' "paper or port, the network's numerics; by default as the checkpoint says"
option input_format_dimension 5 'of the input: 5, [N,T,H,W,3], or 4, [N*T,H,W,3]'
option batch_size -1 'windows of the input, N; -1: any'
option in_size '' 'height,width of the input, pixels; any by default'
switch uint8 'the output is uint8 in 0..255, instead of float32 in 0..1'
parse_options "$@"
npu_environment
run "$python" tools/main.py mode freeze checkpoint "$checkpoint" ${output:+output "$output"} \
  data.eval_batch_size "$batch_size" model.input_format_dimension "$input_format_dimension" \
  ${in_size:+data.eval_in_size "$in_size"} ${compat:+edvr.compat "$compat"} \
  ${uint8:+model.convert_output_to_uint8 True} "${forwarded[@]}"
