# shellcheck shell=bash disable=SC2034  # some variables are for the launchers
# The library behind every launcher: options and help, the log, ranks, signals. A whole launcher:
#
#   #!/usr/bin/env bash
#   # Full training on one device: bash test/train_full_1p.sh --data_path=/data
#   . "$(dirname "$0")/../../common/launch.sh"
#   option data_path '' 'folder that holds DIV2K/ and benchmark/' path required
#   option device auto 'npu, gpu, cpu or auto (the best there is)'
#   option checkpoint '' 'weights to start from' path
#   switch ifcontinue 'resume from the newest valid checkpoint'
#   synonym train_dataset_dir data_path
#   parse_options "$@"
#   npu_environment
#   train_log
#   run "$python" main.py --train_dataset_dir="$data_path" --device="$device" \
#     ${checkpoint:+--checkpoint="$checkpoint"} ${ifcontinue:+--ifcontinue} "${forwarded[@]}"
#
# Every option becomes a variable of its name; a switch is 'true' or empty, so ${name:+...} passes what was given.
# A launcher runs in the model's root (the folder above its test/, script/ or scripts/, else its own folder).
# It may use $python, ${forwarded[@]} (what follows a lone --), $log, $root (the repository) and usage_error MESSAGE.

[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"  # `sh launcher`: dash gets no further than this line
set +o posix                                       # `sh launcher` where sh is bash
_bash=$((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1]))
(( _bash >= 403 )) || { echo "error: bash $BASH_VERSION is too old; expected 4.3 or later" >&2; exit 2; }
(( _bash < 404 )) || set -u  # a misspelt variable ends the launcher; before 4.4 an empty array would, too
unset CDPATH                 # would send `cd` elsewhere

_user_directory=$PWD
root=$(cd -P "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$(dirname "$0")" || exit 2
_launcher=$PWD/${0##*/}
case ${PWD##*/} in test|script|scripts) cd .. ;; esac
log='' forwarded=()
_names=() _positionals=() _pids=() _tee='' _hurry=''
declare -A _kind=() _default=() _meaning=() _words=()  # of each option; _kind: option, switch, synonym, positional

# path: what the user gives is relative to the user's directory; the default is relative to the model's root.
option() { _declare option "$@"; }                        # NAME DEFAULT MEANING [path] [required]
switch() { _declare switch "$1" '' "$2"; }                # NAME MEANING
synonym() { _declare synonym "$1" "$2" "same as --$2"; }  # NAME OPTION: another name of an option
# NAME MEANING [path] [required]: an argument without a name, which --NAME=VALUE may also give
positional() { _positionals+=("$1"); _declare positional "$1" '' "${@:2}"; }

_declare() {  # KIND NAME DEFAULT MEANING [WORD...]
  _names+=("$2") _kind[$2]=$1 _default[$2]=$3 _meaning[$2]=$4 _words[$2]=" ${*:5} "
  [[ $1 == synonym ]] || printf -v "$2" %s "$3"
}

usage_error() { printf 'error: %s (--help lists all options)\n' "$1" >&2; exit 2; }

parse_options() {  # "$@" of the launcher
  local _name _value _given=0
  while (( $# )); do
    case $1 in
      -h|--help) _help; exit 0 ;;
      --) forwarded=("${@:2}"); break ;;
      -?*)
        _name=${1%%=*} _name=${_name#--} _value=''  # an empty value counts as missing
        [[ $_name =~ ^[A-Za-z][A-Za-z0-9_]*$ && -n ${_kind[$_name]:-} ]] || _unknown "${1%%=*}"
        [[ ${_kind[$_name]} != synonym ]] || _name=${_default[$_name]}
        if [[ $1 == *=* ]]; then _value=${1#*=}
        elif [[ ${_kind[$_name]} == switch ]]; then _value=true
        elif [[ ${2:---} != --* ]]; then _value=$2; shift  # a value that begins with -- needs the = form
        fi ;;
      *)
        while (( _given < ${#_positionals[@]} )) && [[ -n ${!_positionals[_given]} ]]; do ((++_given)); done
        (( _given < ${#_positionals[@]} )) || usage_error "'$1' is one argument too many"
        _name=${_positionals[_given++]} _value=$1 ;;
    esac
    _assign "$_name" "$_value"
    shift
  done
  for _name in "${_names[@]}"; do
    [[ ${_words[$_name]} != *' required '* || -n ${!_name} ]] || usage_error "$_name is missing: ${_meaning[$_name]}"
  done
  _prepare_environment
}

_assign() {  # NAME VALUE; by printf -v, so that a value is never read as shell text
  REPLY=$2
  case ${_kind[$1]}${_words[$1]}=$2 in
    switch*=true) ;;
    switch*=false) REPLY='' ;;
    switch*) usage_error "--$1=$2: a switch stands alone, or with =true or =false" ;;
    *=) usage_error "$1 needs a value: ${_meaning[$1]}" ;;
    *' path '*) _absolute "$2" ;;
  esac
  printf -v "$1" %s "$REPLY"
}

_absolute() {  # PATH, to REPLY; the shell leaves the tilde of --data_path=~/data alone
  # shellcheck disable=SC2088
  case $1 in /*) REPLY=$1 ;; '~'|'~/'*) REPLY=$HOME${1:1} ;; *) REPLY=$_user_directory/${1#./} ;; esac
}

_unknown() {  # --NAME; suggests the option that the user began to type, or that is the fewest edits away (Levenshtein)
  usage_error "unknown option $1; did you mean --$(printf '%s\n' "${_names[@]}" help | typed=${1#--} awk '
    BEGIN { typed = substr(ENVIRON["typed"], 1, 40); n = length(typed); least = 999 }
    function min(a, b) { return a < b ? a : b }
    { m = length($0); for (j = 0; j <= m; j++) d[0, j] = j
      for (i = 1; i <= n; i++) { d[i, 0] = i; for (j = 1; j <= m; j++)
        d[i, j] = min(min(d[i-1, j], d[i, j-1]) + 1, d[i-1, j-1] + (substr(typed, i, 1) != substr($0, j, 1))) }
      distance = index($0, typed) == 1 ? 1 : d[n, m]
      if (distance < least) { least = distance; best = $0 } }
    END { print best }')?"
}

_help() {
  local name text
  sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$_launcher"  # the comment below the launcher's first line
  printf '\nusage: bash %s [--option=value ...] [-- more]\n' "${_launcher##*/}${_positionals[*]:+ ${_positionals[*]}}"
  for name in "${_names[@]}"; do
    case ${_kind[$name]} in option) text=--$name=${_default[$name]} ;; positional) text=$name ;; *) text=--$name ;; esac
    [[ ${_words[$name]} != *' required '* ]] || text+=' (required)'
    printf '  %-36s %s\n' "$text" "${_meaning[$name]}"
  done
}

_prepare_environment() {
  python=python3  # an interpreter that the user names wins: setting $PYTHON is a deliberate act
  [[ ! -x $root/.venv/bin/python ]] || python=$root/.venv/bin/python
  [[ -z ${PYTHON:-} ]] || python=$PYTHON
  [[ $python != */* ]] || { _absolute "$python"; python=$REPLY; }
  command -v "$python" >/dev/null || usage_error "no Python at '$python'; run bash ci/env.sh, or set PYTHON"
  export PYTHONUNBUFFERED=1 PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
  export GLOG_v=${GLOG_v:-3}  # MindSpore reads it before any Python runs: errors only
  if [[ -n ${RANK_TABLE_FILE:-} ]]; then
    _absolute "$RANK_TABLE_FILE"; export RANK_TABLE_FILE=$REPLY
    [[ -f $REPLY ]] || usage_error "RANK_TABLE_FILE=$REPLY: no such file; make it, or unset RANK_TABLE_FILE"
  fi
  # Output goes through a pipe: Python cannot see that there is a terminal on which it may draw a progress bar.
  if [[ -t 1 ]] && { : >/dev/tty; } 2>/dev/null; then export PROGRESS_TTY=1; fi
}

npu_environment() {  # sources the model's test/env_npu.sh on an NPU, unless the test platform has done so already
  [[ ${etp_running_flag:-} != true && -f test/env_npu.sh ]] || return 0
  case ${device:-auto} in npu) ;; auto) compgen -G '/dev/davinci[0-9]*' >/dev/null || return 0 ;; *) return 0 ;; esac
  set +u  # CANN's scripts read variables that may be unset
  # shellcheck source=/dev/null
  . test/env_npu.sh
  (( _bash < 404 )) || set -u
}

train_log() {  # sets $log to test/output/ID/train_ID.log
  local id=${ASCEND_DEVICE_ID:-${device_id:-0}}
  [[ $id =~ ^[0-9]+$ ]] || usage_error "device id '$id'; expected a number such as 0"
  log=$PWD/test/output/$id/train_$id.log
  echo "device id is $id"
}

# Runs a program (not a shell function), its output on the screen and at the end of $log; returns its status.
run() {  # COMMAND...
  local status
  _open "$@"
  _start "$@" >&4 2>&4
  until wait "${_pids[0]}" 2>/dev/null; status=$?; ! kill -0 "${_pids[0]}" 2>/dev/null; do :; done
  (( status <= 128 )) || echo "error: ${1##*/} (pid ${_pids[0]}) $(_how "$status")" >&4
  _close
  return "$status"
}

# Starts N processes that find each other by RANK, WORLD_SIZE, MASTER_ADDR and the N free ports from MASTER_PORT on.
# Rank 0 writes to the screen and $log, rank i to train_i.log beside it. The first failure ends all and is returned.
run_ranks() {  # N COMMAND...
  local ranks=$1 rank port devices variables file failed=() status=0
  shift
  [[ $ranks =~ ^[1-9][0-9]{0,3}$ ]] || usage_error "number of processes '$ranks'; expected a number such as 8"
  IFS=, read -r -a devices <<< "${device_list:-$(seq -s , 0 $((ranks - 1)))}"
  (( ${#devices[@]} >= ranks )) || usage_error "device_list '$device_list' is too short for $ranks processes"
  port=$(_free_ports "$ranks") || usage_error "found no $ranks free ports"
  [[ -n $log ]] || train_log
  _open "$@"
  for ((rank = 0; rank < ranks; rank++)); do
    variables=(RANK="$rank" LOCAL_RANK="$rank" RANK_ID="$rank" WORLD_SIZE="$ranks" RANK_SIZE="$ranks"
      DEVICE_ID="${devices[rank]}" ASCEND_DEVICE_ID="${devices[rank]}" MASTER_ADDR=127.0.0.1 MASTER_PORT="$port")
    file=${log%/*}/train_$rank.log
    if (( rank == 0 )); then _start env "${variables[@]}" "$@" >&4 2>&4
    else _heading "$@" >>"$file"; _start env -u PROGRESS_TTY "${variables[@]}" "$@" >>"$file" 2>&1; fi
  done
  until (( ${#_pids[@]} == 0 || status )); do sleep 0.2; _poll_ranks; done 2>/dev/null  # bash's own job messages
  # Ranks without their peer have nothing to finish: ten seconds at most, however long a step may take.
  (( status == 0 )) || STOP_GRACE=$(( ${STOP_GRACE:-30} < 10 ? ${STOP_GRACE:-30} : 10 )) _end TERM "${_pids[@]/#/-}"
  for rank in "${failed[@]}"; do (( rank == 0 )) || tail -v -n 20 "${log%/*}/train_$rank.log" >&4; done
  _close
  return "$status"
}

# Not `wait -n`: it tells no pid before bash 5.1, and sleeps on when the last child ended just before it was called.
_poll_ranks() {  # sets the caller's failed and status; of several failures a signal says most: the others lost a peer
  local code
  for rank in "${!_pids[@]}"; do
    ! kill -0 "${_pids[rank]}" || continue
    wait "${_pids[rank]}"; code=$?
    (( code == 0 )) || failed+=("$rank")
    (( code == 0 )) || echo "rank $rank (pid ${_pids[rank]}) $(_how "$code"); ending the other ranks" >&4
    (( code <= status )) || status=$code
    unset "_pids[rank]"
  done
}

_heading() { printf '==== %(%F %T)T%s\n' -1 "$(printf ' %q' "$@")"; }  # COMMAND...: begins each run's part of a log

_how() { if (( $1 > 128 )); then echo "was killed by signal $(($1 - 128))"; else echo "exited with status $1"; fi; }

_free_ports() {  # N: the first of N neighbouring ports that nobody answers, below those that Linux hands out by itself
  "$python" -c '
import random, socket, sys
first = random.randrange(20000, 32000)
while not all(socket.socket().connect_ex(("127.0.0.1", first + i)) for i in range(int(sys.argv[1]))):
    first = random.randrange(20000, 32000)
print(first)' "$1"
}

_open() {  # COMMAND...: opens descriptor 4, which leads to the screen and (through tee) to $log, and sets the traps
  local pipe signal
  _pids=() _tee='' _tag=launch.$$.$RANDOM$RANDOM
  exec 4>&1
  if [[ -n $log ]]; then
    mkdir -p "${log%/*}" && _heading "$@" >>"$log" || exit 2
    pipe=$(mktemp -u "${TMPDIR:-/tmp}/launch.XXXXXXXX") && mkfifo "$pipe" || exit 2
    # Neither signals nor a closed screen end tee: it ends with the last writer, and no line is lost.
    (trap '' HUP INT QUIT PIPE TERM; exec tee -a "$log" <"$pipe" 4>&-) &
    _tee=$!
    exec 4>"$pipe"
    rm "$pipe"
  fi
  # shellcheck disable=SC2064
  for signal in HUP INT QUIT TERM; do trap "_stop $signal $((128 + $(kill -l $signal)))" $signal; done
}

# Starts a child with default signals in its own process group (a plain background child would ignore Ctrl-C), and with
# a tag in its environment, by which its descendants are found even if they left the group (as torchrun's ranks do).
_start() {  # COMMAND...
  local guard=()  # ends the child when the launcher is killed by -9; without util-linux's setpriv it would live on
  ! setpriv --pdeathsig TERM true 2>/dev/null || guard=(setpriv --pdeathsig TERM)
  set -m
  (trap '' TTOU  # it may write to the terminal from the background, under `stty tostop`, too
   export LAUNCHED_BY="${LAUNCHED_BY:-} $_tag"
   exec "${guard[@]}" "$@" </dev/null 4>&-) &
  _pids+=("$!")
  set +m
}

_remaining() {  # prints the process ids of all living descendants
  local pid
  for pid in "${_pids[@]}"; do ! kill -0 "$pid" 2>/dev/null || echo "$pid"; done
  grep -l -a -F -s "$_tag" /proc/[0-9]*/environ | cut -d / -f 3
}

# shellcheck disable=SC2046
_end() {  # SIGNAL PID...: sends it, and kills whoever is left after STOP_GRACE (30) seconds
  local pid deadline=$((SECONDS + ${STOP_GRACE:-30}))
  kill -s "$1" -- "${@:2}" 2>/dev/null
  while [[ -n $(_remaining) && -z $_hurry ]] && (( SECONDS <= deadline )); do sleep 0.1; done
  kill -s KILL -- "${@:2}" $(_remaining) 2>/dev/null
  for pid in "${_pids[@]}"; do wait "$pid" 2>/dev/null; done
}

_stop() {  # SIGNAL STATUS: the trap
  trap '' HUP QUIT PIPE TERM
  trap '_hurry=true' INT
  echo "received SIG$1: ending what was started (Ctrl-C again: at once)" >&4
  _end "$1" "${_pids[@]/#/-}"
  _close
  exit "$2"
}

# shellcheck disable=SC2046
_close() {  # ends what a dead child left behind, and lets tee write the last lines
  local tries
  [[ -z $(_remaining) ]] || _end TERM $(_remaining)
  exec 4>&-
  for ((tries = 0; tries < 100; tries++)); do kill -0 "${_tee:-none}" 2>/dev/null || break; sleep 0.05; done
  trap - HUP INT QUIT TERM
}
