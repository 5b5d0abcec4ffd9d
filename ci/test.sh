#!/usr/bin/env bash
# Sets everything up and runs the checks and the tests: bash ci/test.sh [--slow] [--tf115] [DIRECTORY...]
#   DIRECTORY    common, ci or a model's directory; by default every one that has tests/
#   --slow       also the tests marked slow, which take minutes (RUN_SLOW=1 does the same)
#   --tf115      with TensorFlow 1.15 on Python 3.7: the tests of common and of the TensorFlow models, and their smoke
#                runs in output/smoke-tf115. Where no Python 3.7 is found, a line that says so
# All are run even when one fails; the last lines say which passed, and the exit status is 0 when all did.

set -uo pipefail
cd "$(dirname "$0")/.." || exit 2
slow=${RUN_SLOW:-} tf115='' chosen=() known=() results=() failed=0
[[ " $* " != *' --tf115 '* ]] || tf115=--tf115
for tests in */tests/; do
  [[ -n $tf115 && $tests != common/* && $tests != *_TensorFlow/* ]] || known+=("${tests%/tests/}")
done
for argument in "$@"; do
  case ${argument%/} in
    -h|--help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; exit ;;
    --slow) slow=1 ;;
    --tf115) ;;
    *)
      [[ " ${known[*]} " == *" ${argument%/} "* ]] ||
        { echo "error: '$argument' has no tests; known: ${known[*]}" >&2; exit 2; }
      chosen+=("${argument%/}") ;;
  esac
done
(( ${#chosen[@]} )) || chosen=("${known[@]}")
bash ci/env.sh $tf115 || exit
export PYTHON=$PWD/.venv${tf115#-}/bin/python
[[ -z $tf115 || -x $PYTHON ]] || exit 0

check() {  # NAME FOLDER COMMAND...
  local start=$SECONDS verdict=passed
  echo "==== $1"
  (cd "$2" && "${@:3}" </dev/null) || { verdict=FAILED; failed=1; }
  results+=("$(printf '%-7s %-22s %5d s' "$verdict" "$1" $((SECONDS - start)))")
}

shell_syntax() {
  local script status=0
  while read -r script; do bash -n "$script" || status=1; done < <(
    find . \( -name '.venv*' -o -name .git -o -name output \) -prune -o \( -name '*.sh' -o -path ./.ci/run \) -print)
  return $status
}

smoke_run() {  # DIRECTORY; ci/smoke.sh and its report are for .venv
  local smoke=$PWD/output/smoke-tf115
  rm -rf "$smoke/data" "${smoke:?}/$1"
  "$PYTHON" common/make_sample.py "$smoke/data" && bash "$1/tests/smoke.sh" "$smoke/data" "$smoke/$1"
}

if [[ -z $tf115 ]]; then
  check ruff . "$PYTHON" -m ruff check --quiet .
  check 'shell syntax' . shell_syntax
  check layout . "$PYTHON" ci/check_layout.py
fi
markers=(-m 'not slow')
[[ -z $slow ]] || markers=()
for directory in "${chosen[@]}"; do
  check "$directory" "$directory" "$PYTHON" -m pytest tests -q "${markers[@]}"
  [[ -z $tf115 || ! -f $directory/tests/smoke.sh ]] || check "$directory smoke" . smoke_run "$directory"
done
echo ====
printf '%s\n' "${results[@]}"
exit $failed
