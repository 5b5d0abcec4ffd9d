#!/usr/bin/env bash
# Builds .venv, once: bash ci/env.sh. Everything under ci/ and every launcher uses it.
#   PYTHON=/usr/bin/python3.11     build it with this Python; by default with the first of 3.11, 3.12, 3.10 that works
#   MODELZOO_EXTRAS='torch dev'    install these extras of pyproject.toml only; by default all
# Versions come from ci/constraints.txt. Where to download from is pip's own configuration; when that names an index (or
# folder) with CPU builds of PyTorch, such a build is taken. A .venv that you made yourself is used as it is.
#
# Builds .venv-tf115, with TensorFlow 1.15: bash ci/env.sh --tf115. Without a Python 3.7 it says so, and builds nothing.
#   PYTHON37=/usr/bin/python3.7    build it with this Python; by default with the first on PATH or of pyenv that works

set -euo pipefail
venv=.venv constraints=ci/constraints.txt extras=${MODELZOO_EXTRAS:-all} versions='3.10 3.11 3.12'
asked=${PYTHON:-} names=(python3.11 python3.12 python3.10 python3)
case ${1:-} in
  '') ;;
  --tf115)
    venv=.venv-tf115 constraints=ci/constraints-tf115.txt extras='tensorflow dev' versions=3.7
    asked=${PYTHON37:-} names=(python3.7 "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.7*/bin/python3.7) ;;
  -h|--help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; exit ;;
  *) echo "error: unexpected argument '$1' (--help says what can be set)" >&2; exit 2 ;;
esac
case $asked in */*) asked=$(realpath -s -- "$asked") ;; esac
cd "$(dirname "$0")/.."
state=$venv/modelzoo  # holds 'building', or what it was built from; without this file the environment is the user's own

fail() { echo "error: $1" >&2; exit 1; }

version() { "$venv/bin/python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null || echo none; }

recipe() { { cat ci/env.sh "$constraints" pyproject.toml; echo "$extras"; version; } | sha256sum | cut -c 1-64; }

is_ready() { [[ -f $state && $(<"$state") == "$(recipe) $(version)" ]]; }

find_python() {  # prints the first that runs (a pyenv shim may not), has a version that we want, can make an environment
  local name path
  [[ -z $asked ]] || names=("$asked")
  for name in "${names[@]}"; do
    while read -r path; do
      if "$path" -c 'import sys, venv, ensurepip; sys.exit("%d.%d" % sys.version_info[:2] not in sys.argv[1:])' \
        $versions 2>/dev/null; then echo "$path"; return; fi
    done < <(type -aP -- "$name")
  done
  [[ $versions != 3.7 || -n $asked ]] || return 0
  fail "no usable Python among: ${names[*]}. Expected ${versions// / or } with its venv module (Debian and Ubuntu: \
apt-get install python3-venv); another place: see bash ci/env.sh --help"
}

requirements() {  # prints the dependencies of the chosen extras, one a line
  "$venv/bin/python" - "$extras" <<'PYTHON'
import sys
try:
    import tomllib
except ImportError:  # before Python 3.11: pip brings the same reader
    from pip._vendor import tomli as tomllib
with open('pyproject.toml', encoding='utf-8') as file:
    project = tomllib.loads(file.read())['project']
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
rmdir "$venv" 2>/dev/null || true  # an empty one is a build killed at its first step
if [[ -e $venv && ! -e $state ]]; then
  [[ $(version) != none ]] || fail "$venv: its Python does not run, and ci/env.sh did not make it; move it away"
  exit 0
fi
! is_ready || exit 0

if [[ ! -e $state || $(<"$state") != *" $(version)" ]]; then  # none yet, half built, or its Python has gone
  python=$(find_python)
  [[ -n $python ]] || { echo "no Python 3.7 on PATH, in pyenv or \$PYTHON37: without TensorFlow 1.15"; exit 0; }
  echo "building $venv with $("$python" -V 2>&1) (some minutes; all frameworks take 6 GB)"
  rm -rf "$venv.old"
  [[ ! -e $venv ]] || mv "$venv" "$venv.old"  # renamed first: half removed it would look like the user's
  mkdir "$venv"
  echo building >"$state"
  "$python" -m venv "$venv"
  rm -rf "$venv.old"
fi
packages=$(requirements) || exit 2
echo building >"$state"
printf '%s\n' "$packages" >"$venv/requirements.txt"
"$venv/bin/python" -m pip install --disable-pip-version-check -c "$constraints" -r "$venv/requirements.txt" ||
  fail "pip could not install everything (its message is above); once that is mended, run the same command again"
echo "$(recipe) $(version)" >"$state"
echo "$venv is ready"
