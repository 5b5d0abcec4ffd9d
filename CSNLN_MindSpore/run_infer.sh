#!/usr/bin/env bash
# Upscale a picture, a folder of pictures or a video: bash run_infer.sh photo.jpg upscaled/ --checkpoint=csnln_x2.ckpt
. "$(dirname "$0")/../common/launch.sh"
positional input 'picture, folder of pictures, or video' path required
positional output 'file or folder to write; pictures are named {stem}_x{scale}.png' path required
option checkpoint '' 'checkpoint of train.py or of the released port, .pt of the authors' path required
option device auto 'npu, gpu, cpu or auto (the best there is)'
option device_id 0 'index of the device'
option memory_limit '' 'GB that upscaling may take; else half of what a CPU has free, 16 on another device'
switch chop "upscale in the authors' parts, whatever the memory"
switch self_ensemble 'mean over 8 flips and turns: 8 times the time'
parse_options "$@"
npu_environment
run "$python" infer.py --input="$input" --output="$output" --checkpoint="$checkpoint" --device="$device" \
  --device_id="$device_id" ${memory_limit:+--memory_limit="$memory_limit"} ${chop:+--chop} \
  ${self_ensemble:+--self_ensemble} "${forwarded[@]}"
