#!/usr/bin/env bash
# Runs the users' own launchers on photographs: bash ci/smoke.sh [DIRECTORY...]
#   DIRECTORY    a model's directory; by default every one that is there
# Each model trains for a few steps, is evaluated, upscales pictures and is exported, by its tests/smoke.sh. What it made
# and said lies in output/smoke/DIRECTORY; output/smoke/report.html shows it. An earlier smoke run is replaced.
# All are run even when one fails; the exit status is 0 when all passed.

set -uo pipefail
cd "$(dirname "$0")/.." || exit 2
chosen=() known=()
for script in */tests/smoke.sh; do known+=("${script%/tests/smoke.sh}"); done
for argument in "$@"; do
  case ${argument%/} in
    -h|--help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; exit ;;
    *)
      [[ " ${known[*]} " == *" ${argument%/} "* ]] ||
        { echo "error: '$argument' has no tests/smoke.sh; known: ${known[*]}" >&2; exit 2; }
      chosen+=("${argument%/}") ;;
  esac
done
(( ${#chosen[@]} )) || chosen=("${known[@]}")
bash ci/env.sh || exit
export PYTHON=$PWD/.venv/bin/python
smoke=$PWD/output/smoke
mkdir -p "$smoke"
exec 9>"$smoke/lock"
flock -n 9 || { echo "error: another smoke run is at work in $smoke; wait for its end" >&2; exit 2; }

rm -rf "${smoke:?}/data"
"$PYTHON" common/make_sample.py "$smoke/data" || exit
failed=0
for model in "${chosen[@]}"; do
  echo "==== $model"
  rm -rf "${smoke:?}/$model"
  mkdir "$smoke/$model"
  start=$SECONDS
  bash "$model/tests/smoke.sh" "$smoke/data" "$smoke/$model" </dev/null 2>&1 9>&- | tee "$smoke/$model/smoke.log"
  status=${PIPESTATUS[0]}
  (( status == 0 )) || { failed=1; echo "error: $model/tests/smoke.sh ended with status $status" >&2; }
  printf '{"status": %d, "seconds": %d}\n' "$status" $((SECONDS - start)) >"$smoke/$model/result.json"
done
echo ====
"$PYTHON" ci/report.py "$smoke" "${chosen[@]}" || failed=1
exit $failed
