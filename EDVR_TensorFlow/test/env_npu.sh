#!/usr/bin/env bash
# Environment of an Ascend NPU, sourced by the launchers there: CANN, time for eight ranks to compile their graphs, and
# the rank tables where the released port looks for them.
. common/cann.sh
export HCCL_CONNECT_TIMEOUT=${HCCL_CONNECT_TIMEOUT:-600}
for table in 8p.json scripts/8p.json; do
  [ ! -f "$table" ] || export RANK_TABLE_FILE=${RANK_TABLE_FILE:-$PWD/$table}
done
