# Sourced by the training launchers, batch_size and num_epochs set: their options, and ${train_flags[@]} for main.py.
option data_path '' 'folder that holds DIV2K/, or what --train_dataset_dir and --test_dataset_dir say' path
option train_dataset_dir "" 'training pictures, where not below --data_path' path
option test_dataset_dir "" 'validation pictures, where not below --data_path' path
option outputs_dir output 'results go to OUTPUTS_DIR/X{scale}, a further run to X{scale}_2 and so on' path
synonym output_path outputs_dir
option device auto 'npu, gpu, cpu or auto (the best there is)'
option batch_size "$batch_size" 'patches per step, over all devices'
option num_epochs "$num_epochs" 'epochs in all'
synonym train_epochs num_epochs
option train_steps 0 'steps in all, instead of epochs'
option scale 2 'upscaling factor'
option lr 1e-4 'learning rate'
option precision amp 'amp (16-bit convolutions) or fp32'
option arch_network RCAN 'network name, used in file names'
switch ifcontinue 'go on from the newest valid checkpoint'
option checkpoint_path '' 'with --ifcontinue: this file instead, relative to the run'
parse_options "$@"
train_dataset_dir=${train_dataset_dir:-$data_path} test_dataset_dir=${test_dataset_dir:-$data_path}
[ -n "$train_dataset_dir" ] || usage_error 'data_path is missing: the folder that holds DIV2K/'
[[ ${nproc:-1} =~ ^[1-9][0-9]*$ ]] || usage_error "--nproc=$nproc; expected a number such as 8"
case $precision in amp|fp32) ;; *) usage_error "--precision=$precision; expected amp or fp32" ;; esac
STOP_GRACE=${STOP_GRACE:-300}  # seconds: on Ctrl-C the step under way is finished and saved
npu_environment
train_log
train_flags=(--arch="$arch_network" --train_dataset_dir="$train_dataset_dir" --test_dataset_dir="$test_dataset_dir"
  --outputs_dir="$outputs_dir" --device="$device" --batch_size="$batch_size" --num_epochs="$num_epochs"
  --train_steps="$train_steps" --scale="$scale" --lr="$lr" --summary_dir="${log%/*}" ${ifcontinue:+--ifcontinue})
[ "$precision" = fp32 ] || train_flags+=(--amp)
[ -z "$checkpoint_path" ] || train_flags+=(--checkpoint_path="$checkpoint_path")
