#!/usr/bin/env bash
# Upscale a picture, a folder of pictures or a video: bash run_infer.sh photo.jpg upscaled/ --checkpoint=edsr_x2.ckpt
. "$(dirname "$0")/../common/launch.sh"
positional input 'picture, folder of pictures, or video' path required
positional output 'file or folder to write; pictures are named {stem}_x{scale}.png' path required
option checkpoint '' 'checkpoint of train.py or of a MindSpore port, .pt of the authors, .pth of BasicSR' path required
option device auto 'npu, gpu, cpu or auto (the best there is)'
option device_id 0 'index of the device'
option tile '' 'side of the tiles that bound the memory, LR pixels; 0: whole pictures; else as about 8 GB allow'
switch self_ensemble 'mean over 8 flips and turns: 8 times the time'
parse_options "$@"
npu_environment
run "$python" infer.py --input="$input" --output="$output" --checkpoint="$checkpoint" --device="$device" \
  --device_id="$device_id" ${tile:+--tile="$tile"} ${self_ensemble:+--self_ensemble} "${forwarded[@]}"
