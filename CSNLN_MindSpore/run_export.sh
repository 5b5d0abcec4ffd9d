#!/usr/bin/env bash
# Write a network as MINDIR, ONNX or AIR and check it: bash run_export.sh output/X2/model_best.ckpt csnln_x2.onnx
. "$(dirname "$0")/../common/launch.sh"
positional checkpoint 'checkpoint of train.py or of the released port, .pt of the authors' path required
positional output 'file to write, .mindir, .onnx or .air; by default beside the checkpoint, .mindir' path
parse_options "$@"
npu_environment
run "$python" export.py --ckpt_path="$checkpoint" ${output:+--file_name="$output"} "${forwarded[@]}"
