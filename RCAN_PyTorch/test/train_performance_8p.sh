#!/usr/bin/env bash
# Two epochs on eight devices, to measure their speed: bash test/train_performance_8p.sh --data_path=/data
. "$(dirname "$0")/../../common/launch.sh"
batch_size=1280 num_epochs=2
option nproc 8 'processes, one for each device'
. test/train_options.sh
cores=$(getconf _NPROCESSORS_ONLN)  # torchrun, which main.py starts, would give each rank one thread
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$(( (cores + nproc - 1) / nproc ))}
run "$python" main.py "${train_flags[@]}" --multiprocessing_distributed \
  --device_list="$(seq -s , 0 $((nproc - 1)))" --case=perf "${forwarded[@]}"
