#!/usr/bin/env bash
# Environment of an Ascend NPU, sourced by the launchers there: CANN, and time for eight ranks to compile their graphs.
. common/cann.sh
export HCCL_CONNECT_TIMEOUT=${HCCL_CONNECT_TIMEOUT:-600}
