#!/usr/bin/env bash
# Upscale a picture, a folder of pictures or a video: bash run_infer.sh photo.jpg upscaled/ --checkpoint=bsrn_x4.ckpt
. "$(dirname "$0")/../common/launch.sh"
positional input 'picture, folder of pictures, or video' path required
positional output 'file or folder to write; pictures are named {stem}_x{scale}.png' path required
option checkpoint '' 'checkpoint of train.py, of the authors or of the port: its prefix, or a folder' path required
option scale '' 'of a network of several scales, one of them'
option recursion ensemble 'the picture of which pass: a number, last, or ensemble, the weighted mean of all'
option device auto 'npu, gpu, cpu or auto (the best there is)'
option tile '' 'side of the tiles that bound the memory, LR pixels; 0: whole pictures; else as about 8 GB allow'
switch self_ensemble 'mean over 8 flips and turns: 8 times the time'
synonym chip device
parse_options "$@"
npu_environment
run "$python" test_bsrn.py --input="$input" --output="$output" --checkpoint="$checkpoint" --recursion="$recursion" \
  --device="$device" ${scale:+--scales="$scale"} ${tile:+--tile="$tile"} ${self_ensemble:+--self_ensemble} \
  "${forwarded[@]}"
