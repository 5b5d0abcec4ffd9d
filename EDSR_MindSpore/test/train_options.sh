# Sourced by the training launchers, batch_size, epochs, test_every set: their options, ${train_flags[@]} for train.py.
[[ -n ${_kind[data_path]:-} ]] || option data_path '' 'folder that holds DIV2K/' path
synonym dir_data data_path
option output_path output 'results go to OUTPUT_PATH/X{scale}, a further run to X{scale}_2 and so on' path
synonym ckpt_save_path output_path
option device auto 'npu, gpu, cpu or auto (the best there is)'
option batch_size "$batch_size" 'patches per step on each device'
option epochs "$epochs" 'epochs in all'
synonym train_epochs epochs
option test_every "$test_every" 'steps of one device in an epoch; several devices share them'
option train_steps 0 'steps in all, instead of epochs'
option scale 2 'upscaling factor: 2, 3 or 4'
option patch_size '' 'HR patch side, pixels; 48 times the scale where not given'
option lr 1e-4 'learning rate'
option amp_level O0 'O0 (32 bit), or mixed precision: O1, O2, O3, auto'
option ckpt_path '' 'weights to start from, of any scale: what eval.py reads' path
switch resume 'go on from the newest valid checkpoint'
parse_options "$@"
[ -n "$data_path" ] || usage_error 'data_path is missing: the folder that holds DIV2K/'
[[ ${nproc:-1} =~ ^[1-9][0-9]*$ ]] || usage_error "--nproc=$nproc; expected a number such as 8"
STOP_GRACE=${STOP_GRACE:-300}  # seconds: on Ctrl-C the step under way is finished and saved
npu_environment
train_log
train_flags=(--dir_data="$data_path" --ckpt_save_path="$output_path" --device="$device" --batch_size="$batch_size"
  --epochs="$epochs" --test_every="$test_every" --train_steps="$train_steps" --scale="$scale" --lr="$lr"
  --amp_level="$amp_level" --summary_dir="${log%/*}" ${patch_size:+--patch_size="$patch_size"} ${resume:+--resume})
[ -z "$ckpt_path" ] || train_flags+=(--ckpt_path="$ckpt_path")
