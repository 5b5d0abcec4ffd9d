# shellcheck shell=bash
# The part of an Ascend NPU's environment that all frameworks share, for test/env_npu.sh: where CANN lies, quiet logs.
install_path=/usr/local/Ascend
if [ -f /etc/Ascend/ascend_cann_install.info ]; then
  named=$(sed -n 's/^Install_Path=//p' /etc/Ascend/ascend_cann_install.info)
  install_path=${named:-$install_path}
fi
if [ -d "$install_path/ascend-toolkit/latest" ]; then
  . "$install_path/ascend-toolkit/set_env.sh"
elif [ -f "$install_path/nnae/set_env.sh" ]; then
  . "$install_path/nnae/set_env.sh"
fi
if command -v msnpureport >/dev/null; then
  for device_number in 0 1 2 3 4 5 6 7; do msnpureport -g error -d "$device_number"; done
  msnpureport -e disable
fi
export ASCEND_SLOG_PRINT_TO_STDOUT=0 ASCEND_GLOBAL_LOG_LEVEL=3 ASCEND_GLOBAL_EVENT_ENABLE=0 HCCL_WHITELIST_DISABLE=1
ulimit -SHn 512000 2>/dev/null || ulimit -Sn "$(ulimit -Hn)"  # a plain user may not raise the hard limit
