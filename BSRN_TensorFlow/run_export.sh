#!/usr/bin/env bash
# Write a network as a frozen graph, SavedModel or ONNX and check it: bash run_export.sh output/X4 bsrn_x4.pb
. "$(dirname "$0")/../common/launch.sh"
positional checkpoint 'checkpoint of train.py, of the authors or of the port: its prefix, or a folder' path required
positional output 'file in .pb or .onnx, or a new folder for a SavedModel; by default a .pb beside the checkpoint' path
option scales '' 'of a network of several scales, such as 2,3,4; all by default'
option recursion ensemble 'the picture of which pass: a number, last, or ensemble, the weighted mean of all'
parse_options "$@"
npu_environment
run "$python" export.py --checkpoint="$checkpoint" ${output:+--output="$output"} ${scales:+--scales="$scales"} \
  --recursion="$recursion" "${forwarded[@]}"
