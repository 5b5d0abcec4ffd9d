#!/usr/bin/env bash
# Builds .venv, once: bash ci/env.sh. Everything under ci/ and every launcher uses it.
#   PYTHON=/usr/bin/python3.11     build it with this Python; by default with the first of 3.11, 3.12, 3.10 that works
#   MODELZOO_EXTRAS='torch dev'    install these extras of pyproject.toml only; by default all
# Versions come from ci/constraints.txt. Where to download from is pip's own configuration; when that names an index (or
# folder) with CPU builds of PyTorch, such a build is taken. A .venv that you made yourself is used as it is.

set -euo pipefail
case ${1:-} in
  '') ;;
  -h|--help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; exit ;;
  *) echo "error: unexpected argument '$1' (--help says what can be set)" >&2; exit 2 ;;
esac
case ${PYTHON:-} in */*) PYTHON=$(realpath -s -- "$PYTHON") ;; esac
cd "$(dirname "$0")/.."
extras=${MODELZOO_EXTRAS:-all}
state=.venv/modelzoo  # holds 'building', or what .venv was built from; without this file .venv is the user's own

fail() { echo "error: $1" >&2; exit 1; }

version() { .venv/bin/python -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null || echo none; }

recipe() { { cat ci/env.sh ci/constraints.txt pyproject.toml; echo "$extras"; version; } | sha256sum | cut -c 1-64; }

is_ready() { [[ -f $state && $(<"$state") == "$(recipe) $(version)" ]]; }

find_python() {  # prints the first that runs (a pyenv shim may not), is 3.10 to 3.12 and can make an environment
  local names=(python3.11 python3.12 python3.10 python3) name path
  [[ -z ${PYTHON:-} ]] || names=("$PYTHON")
  for name in "${names[@]}"; do
    while read -r path; do
      if "$path" -c 'import sys, venv, ensurepip; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null
      then echo "$path"; return; fi
    done < <(type -aP -- "$name")
  done
  fail "no usable Python among: ${names[*]}. Expected 3.10, 3.11 or 3.12 with its venv module (Debian and Ubuntu: \
apt-get install python3-venv); another place: PYTHON=/path/to/python3.11 bash ci/env.sh"
}

requirements() {  # prints the dependencies of the chosen extras, one a line
  .venv/bin/python - "$extras" <<'PYTHON'
import sys
try:
    import tomllib
except ImportError:  # Python 3.10: pip brings the same reader
    from pip._vendor import tomli as tomllib
with open('pyproject.toml', 'rb') as file:
    project = tomllib.load(file)['project']
known = project['optional-dependencies']
chosen = list(known) if sys.argv[1] == 'all' else sys.argv[1].replace(',', ' ').split()
unknown = sorted(set(chosen) - set(known))
if unknown:
    sys.exit(f'error: unknown extra {unknown[0]!r} in MODELZOO_EXTRAS; known: {sorted(known)}')
print(*project['dependencies'], *(package for name in chosen for package in known[name]), sep='\n')
PYTHON
}

! is_ready || exit 0
mkdir -p output
exec 9>output/env.lock
flock -n 9 || { echo "another ci/env.sh is at work; waiting for it" >&2; flock 9; }
rmdir .venv 2>/dev/null || true  # an empty one is a build killed at its first step
if [[ -e .venv && ! -e $state ]]; then
  [[ $(version) != none ]] || fail ".venv: its Python does not run, and ci/env.sh did not make it; move it away"
  exit 0
fi
! is_ready || exit 0

if [[ ! -e $state || $(<"$state") != *" $(version)" ]]; then  # none yet, half built, or its Python has gone
  python=$(find_python)
  echo "building .venv with $("$python" -V) (some minutes; all frameworks take 6 GB)"
  rm -rf .venv.old
  [[ ! -e .venv ]] || mv .venv .venv.old  # renamed first: half removed it would look like the user's
  mkdir .venv
  echo building >"$state"
  "$python" -m venv .venv
  rm -rf .venv.old
fi
packages=$(requirements) || exit 2
echo building >"$state"
printf '%s\n' "$packages" >.venv/requirements.txt
.venv/bin/python -m pip install --disable-pip-version-check -c ci/constraints.txt -r .venv/requirements.txt ||
  fail "pip could not install everything (its message is above); once that is mended, run the same command again"
echo "$(recipe) $(version)" >"$state"
echo ".venv is ready"
