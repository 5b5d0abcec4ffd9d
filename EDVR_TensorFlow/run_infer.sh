#!/usr/bin/env bash
# Upscale a video, a folder of frames or of clips: bash run_infer.sh clip.mp4 big/ --checkpoint=output/edvr/EDVR-best
. "$(dirname "$0")/../common/launch.sh"
positional input 'video, folder of frames, folder of such folders, or picture' path required
positional output 'file or folder to write; pictures and frames are named {stem}_x4.png' path required
option checkpoint '' 'of a training, the authors or the port: its prefix, a file of it, or a folder' path required
option scene_threshold '' 'change, levels of 255, that makes a cut, over which no window reaches; 0: none'
option padding '' 'frames beyond the ends of a shot: replicate, as the port, or reflection_circle, as the authors'
option compat '' "paper or port, the network's numerics; by default as the checkpoint says"
option device auto 'npu, gpu, cpu or auto (the best there is)'
option tile '' 'side of the tiles that bound the memory, LR pixels; by default as large as about 8 GB allow'
parse_options "$@"
npu_environment
run "$python" tools/main.py mode inference input "$input" output "$output" checkpoint "$checkpoint" \
  device "$device" ${scene_threshold:+data.scene_threshold "$scene_threshold"} ${padding:+data.padding "$padding"} \
  ${compat:+edvr.compat "$compat"} ${tile:+data.eval_in_patch True data.eval_in_size "[$tile, $tile]"} "${forwarded[@]}"
