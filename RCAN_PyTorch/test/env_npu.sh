#!/usr/bin/env bash
# Environment of an Ascend NPU, sourced by the launchers there: CANN, then the task queue of torch_npu and HCCL's address.
. common/cann.sh
export TASK_QUEUE_ENABLE=1 PTCOPY_ENABLE=1 COMBINED_ENABLE=0 DYNAMIC_OP="ADD#MUL"
export HCCL_IF_IP=$(hostname -I | awk '{ print $1 }')
export PYTHONWARNINGS=ignore:semaphore_tracker:UserWarning
