#!/usr/bin/env bash
# Fine-tuning on one device: bash test/train_finetuning_1p.sh --data_path=/data --finetuning_checkpoint_path=RCAN_BIX2.pt
. "$(dirname "$0")/../../common/launch.sh"
batch_size=160 num_epochs=2
option device_id 0 'index of the device'
option finetuning_checkpoint_path "" "weights to start from, of any scale: what test.py reads" path required
. test/train_options.sh
[ -n "$ifcontinue" ] || train_flags+=(--iffinetuning --finetuning_checkpoint_path="$finetuning_checkpoint_path")
run "$python" main.py "${train_flags[@]}" --device_id="$device_id" --case=perf "${forwarded[@]}"
