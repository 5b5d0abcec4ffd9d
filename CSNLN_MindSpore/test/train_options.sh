# Sourced by the training launchers: their options, ${train_flags[@]} for train.py. A launcher may set batch_size,
# epoches and test_every; what it and the user leave empty is as default_config.yaml has it.
option data_path '' 'folder that holds DIV2K/ and benchmark/' path
option config_path '' 'YAML file that goes before default_config.yaml' path
option save '' 'results go to SAVE/X{scale}, a further run to X{scale}_2 and so on' path
option device '' 'npu, gpu, cpu or auto (the best there is)'
option batch_size "${batch_size:-}" 'patches per step on each device'
option epoches "${epoches:-}" 'epochs in all'
option test_every "${test_every:-}" 'steps of one device in an epoch; several devices share them'
option train_steps '' 'steps in all, instead of epochs'
option scale '' 'upscaling factor: 2, 3 or 4'
option patch_size '' 'HR patch side, pixels'
option lr_init '' 'learning rate'
option amp_level '' 'O0 (32 bit), or mixed precision: O1, O2, O3, auto'
option ckpt_file '' 'weights to start from: what eval.py reads' path
switch resume 'go on from the newest valid checkpoint'
for name in dir_data:data_path output_path:save device_target:device epochs:epoches train_epochs:epoches lr:lr_init; do
  synonym "${name%:*}" "${name#*:}"
done
parse_options "$@"
[[ ${nproc:-1} =~ ^[1-9][0-9]*$ ]] || usage_error "--nproc=$nproc; expected a number such as 8"
STOP_GRACE=${STOP_GRACE:-300}  # seconds: on Ctrl-C the step under way is finished and saved
npu_environment
train_log
train_flags=(--summary_dir="${log%/*}" ${resume:+--resume} ${ckpt_file:+--pre_trained})
for name in config_path data_path save device batch_size epoches test_every train_steps scale patch_size lr_init \
    amp_level ckpt_file; do
  [ -z "${!name}" ] || train_flags+=("--$name=${!name}")
done
