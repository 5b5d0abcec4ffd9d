# Sourced by the training launchers, train_steps and output_path set: their options, ${train_flags[@]} for tools/main.py.
[[ -n ${_kind[data_path]:-} ]] || option data_path '' 'folder that holds reds/, or reds/ itself' path
synonym data_dir data_path
option output_path "$output_path" 'results go to OUTPUT_PATH/edvr, a further run to edvr_2 and so on' path
option config configs/edvr.yaml 'file with values of keys' path
option device auto 'npu, gpu, cpu or auto (the best there is)'
option batch_size '' 'windows per step on each device; by default as the config has it'
option train_steps "$train_steps" 'steps of each device; by default as the config has it'
option train_epochs '' 'passes over the windows, instead of train_steps'
option precision '' 'fp32, bf16 or mixed; by default mixed on an NPU as released, else fp32'
option precision_mode '' "the same in an NPU's words: allow_mix_precision or must_keep_origin_dtype"
switch resume 'go on from the newest valid checkpoint'
parse_options "$@"
[ -n "$data_path" ] || usage_error 'data_path is missing: the folder that holds reds/'
[[ ${nproc:-1} =~ ^[1-9][0-9]*$ ]] || usage_error "--nproc=$nproc; expected a number such as 8"
[[ ${device_id:-0} =~ ^[0-9]+$ ]] || usage_error "--device_id=$device_id; expected a number such as 0"
case $precision_mode in '') ;; allow_mix_precision) precision=mixed ;; must_keep_origin_dtype) precision=fp32 ;;
  *) usage_error "--precision_mode=$precision_mode; expected allow_mix_precision or must_keep_origin_dtype" ;; esac
[ -f "$config" ] || config=configs/${config##*/}
STOP_GRACE=${STOP_GRACE:-300}  # seconds: on Ctrl-C the step under way is finished and saved
export ASCEND_DEVICE_ID=${device_id:-${ASCEND_DEVICE_ID:-0}}
npu_environment
[[ -z ${nproc:-} || -z ${RANK_TABLE_FILE:-} ]] || device_list=$("$python" -m common.rank_table "$RANK_TABLE_FILE") || exit
train_log
train_flags=(--config-file "$config" data.data_dir "$data_path" output_dir "$output_path/edvr" device "$device"
  solver.summary_dir "${log%/*}" ${batch_size:+data.train_batch_size "$batch_size"} ${resume:+continue_training True}
  ${train_steps:+solver.lr_schedule.total_steps "$train_steps" solver.train_epochs "${train_epochs:-0}"}
  ${train_epochs:+solver.train_epochs "$train_epochs"} ${precision:+solver.precision "$precision"}
  ${device_id:+device_ids "$device_id"})
