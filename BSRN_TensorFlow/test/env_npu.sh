#!/usr/bin/env bash
# Environment of an Ascend NPU, sourced by the launchers there: CANN, time for eight ranks to compile their graphs, and
# the rank table where the released port looks for it.
. common/cann.sh
export HCCL_CONNECT_TIMEOUT=${HCCL_CONNECT_TIMEOUT:-600}
[ ! -f configs/rank_table_8p.json ] || export RANK_TABLE_FILE=${RANK_TABLE_FILE:-$PWD/configs/rank_table_8p.json}
