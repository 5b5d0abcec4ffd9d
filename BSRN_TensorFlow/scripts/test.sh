#!/usr/bin/env bash
# Upscale pictures: bash scripts/test.sh --input_path=LR --output_path=SR --restore_path=model.ckpt-1000000
. "$(dirname "$0")/../../common/launch.sh"
option input_path LR 'picture, folder of pictures, or video' path
option output_path SR 'pictures go to OUTPUT_PATH/x{scale}' path
option restore_path '' "checkpoint of train.py, of the authors or of the port: its prefix, or a folder" path required
option scales 4 'upscaling factors, of those that the network has'
option device auto 'npu, gpu, cpu or auto (the best there is)'
synonym chip device
parse_options "$@"
npu_environment
run "$python" test_bsrn.py --input_path="$input_path" --output_path="$output_path" --restore_path="$restore_path" \
  --scales="$scales" --device="$device" "${forwarded[@]}"
