#!/usr/bin/env bash
# Write a network as ONNX and check it: bash run_export.sh output/X2/model_best_amp.pth rcan_x2.onnx
. "$(dirname "$0")/../common/launch.sh"
positional checkpoint 'checkpoint of main.py or of the port, .pt of the authors, .pth of BasicSR' path required
positional output 'file to write, .onnx; by default beside the checkpoint' path
parse_options "$@"
run "$python" export.py --checkpoint="$checkpoint" ${output:+--output="$output"} "${forwarded[@]}"
