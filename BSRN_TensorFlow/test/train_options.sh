# Sourced by the training launchers, train_steps, save_freq set: their options, ${train_flags[@]} for train.py.
[[ -n ${_kind[data_path]:-} ]] ||
  option data_path '' 'folder that holds DIV2K/, and BSD100/ or benchmark/ to validate on' path
[[ -n ${_kind[output_path]:-} ]] ||
  option output_path output 'results go to OUTPUT_PATH/X{scales}, a further run to X{scales}_2 and so on' path
option device auto 'npu, gpu, cpu or auto (the best there is)'
synonym chip device
option batch_size 8 'patches per step on each device'
option train_steps "$train_steps" 'steps in all of all devices together: each of 8 makes an eighth'
synonym max_steps train_steps
option train_epochs 0 'passes over the pictures in all, instead of train_steps'
option save_freq "$save_freq" 'steps, counted likewise, between checkpoints that stay'
option scales 4 'upscaling factors: 2, 3, 4, 8, or several such as 2,3,4'
option precision '' 'fp32, bf16 or mixed; by default mixed on an NPU as released, else fp32'
option valid_set auto 'set to validate on; auto: BSD100, else the validation pictures of DIV2K, else none'
switch resume 'go on from the newest valid checkpoint'
parse_options "$@"
[ -n "$data_path" ] || usage_error 'data_path is missing: the folder that holds DIV2K/'
[[ ${nproc:-1} =~ ^[1-9][0-9]*$ ]] || usage_error "--nproc=$nproc; expected a number such as 8"
[[ ${device_id:-0} =~ ^[0-9]+$ ]] || usage_error "--device_id=$device_id; expected a number such as 0"
STOP_GRACE=${STOP_GRACE:-300}  # seconds: on Ctrl-C the step under way is finished and saved
export ASCEND_DEVICE_ID=${device_id:-${ASCEND_DEVICE_ID:-0}}
npu_environment
train_log
train_flags=(--dataloader=div2k_loader --data_path="$data_path" --train_path="$output_path/X${scales//,/}"
  --device="$device" --batch_size="$batch_size" --max_steps="$train_steps" --train_epochs="$train_epochs"
  --save_freq="$save_freq" --scales="$scales" --valid_set="$valid_set" --summary_dir="${log%/*}"
  ${precision:+--precision="$precision"} ${device_id:+--cuda_device="$device_id"} ${resume:+--resume})
