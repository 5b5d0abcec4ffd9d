#!/usr/bin/env bash
# Sets everything up and runs the checks and the tests: bash ci/test.sh [--slow] [DIRECTORY...]
#   DIRECTORY    common, ci or a model's directory; by default every one that has tests/
#   --slow       also the tests marked slow, which take minutes (RUN_SLOW=1 does the same)
# All are run even when one fails; the last lines say which passed, and the exit status is 0 when all did.

set -uo pipefail
cd "$(dirname "$0")/.." || exit 2
slow=${RUN_SLOW:-} chosen=() known=() results=() failed=0
for tests in */tests/; do known+=("${tests%/tests/}"); done
for argument in "$@"; do
  case ${argument%/} in
    -h|--help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; exit ;;
    --slow) slow=1 ;;
    *)
      [[ " ${known[*]} " == *" ${argument%/} "* ]] ||
        { echo "error: '$argument' has no tests; known: ${known[*]}" >&2; exit 2; }
      chosen+=("${argument%/}") ;;
  esac
done
(( ${#chosen[@]} )) || chosen=("${known[@]}")
bash ci/env.sh || exit
export PYTHON=$PWD/.venv/bin/python

check() {  # NAME FOLDER COMMAND...
  local start=$SECONDS verdict=passed
  echo "==== $1"
  (cd "$2" && "${@:3}" </dev/null) || { verdict=FAILED; failed=1; }
  results+=("$(printf '%-7s %-20s %5d s' "$verdict" "$1" $((SECONDS - start)))")
}

shell_syntax() {
  local script status=0
  while read -r script; do bash -n "$script" || status=1; done < <(
    find . \( -name '.venv*' -o -name .git -o -name output \) -prune -o \( -name '*.sh' -o -path ./.ci/run \) -print)
  return $status
}

check ruff . "$PYTHON" -m ruff check --quiet .
check 'shell syntax' . shell_syntax
check layout . "$PYTHON" ci/check_layout.py
markers=(-m 'not slow')
[[ -z $slow ]] || markers=()
for directory in "${chosen[@]}"; do
  check "$directory" "$directory" "$PYTHON" -m pytest tests -q "${markers[@]}"
done
echo ====
printf '%s\n' "${results[@]}"
exit $failed
