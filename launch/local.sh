#!/usr/bin/env bash
# Runs the processes of one run on this machine, and starts them again when the run was cut off.
#
#   launch/local.sh [--dry_run] PROCESSES COMMAND [ARGUMENT ...]
#
# Two processes of four simulated devices each, on a laptop:
#   JAX_PLATFORMS=cpu JAX_NUM_CPU_DEVICES=4 launch/local.sh 2 python -m uwe_jax.main --config=... --workdir=RUN
# One process a GPU, on a machine with eight:
#   launch/local.sh 8 python -m uwe_jax.main --config=... --workdir=RUN
# One process with all devices that there are:
#   launch/local.sh 1 python -m uwe_jax.main --config=... --workdir=RUN
#
# When one process ends badly, the others get SIGTERM. Exit code 1 or 2 of any of them then ends it all, for a person
# has to mend something; any other starts all of them again. SIGTERM, SIGINT and SIGHUP are passed on as SIGTERM, and
# end it.
#
# RESTARTS  most restarts in a row (10); an attempt of ten minutes or more begins the row anew
# PAUSE     seconds before a restart (10)
# GRACE     seconds that a process has between SIGTERM and SIGKILL (60)
set -euo pipefail

RESTARTS=${RESTARTS:-10} PAUSE=${PAUSE:-10} GRACE=${GRACE:-60}
usage='usage: launch/local.sh [--dry_run] PROCESSES COMMAND [ARGUMENT ...]'

say() { echo "local.sh: $*" >&2; }
fail() {
  say "error: $*"
  exit 2
}

# The GPUs that the processes share out, or an error that says what is missing.
find_gpus() {
  if [[ -n ${CUDA_VISIBLE_DEVICES-} ]]; then
    IFS=, read -ra gpus <<<"$CUDA_VISIBLE_DEVICES"
  elif command -v nvidia-smi >/dev/null; then
    mapfile -t gpus < <(nvidia-smi --query-gpu=index --format=csv,noheader)
  else
    fail 'no nvidia-smi found, so no GPUs; for simulated devices set JAX_PLATFORMS=cpu JAX_NUM_CPU_DEVICES=4'
  fi
  ((${#gpus[@]} >= processes)) || fail "$processes processes, but ${#gpus[@]} GPUs found; expected at least one each"
}

# A port that nothing listens on. Each attempt takes another one, for connections of the last one may linger.
free_port() {
  local port
  while port=$((10240 + RANDOM % 20000)) && (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do :; done
  echo "$port"
}

# Sets `environment` to what process $1 needs to join the others, at port $2. One process alone joins nothing, or what
# JAX finds by itself: the other workers of a TPU slice.
prepare() {
  environment=()
  ((processes > 1)) || return 0
  environment=("JAX_COORDINATOR_ADDRESS=127.0.0.1:$2" "JAX_NUM_PROCESSES=$processes" "JAX_PROCESS_ID=$1")
  ((${#gpus[@]} == 0)) || environment+=("CUDA_VISIBLE_DEVICES=${gpus[$1]}")
}

# Asks all that run to end, within GRACE seconds.
terminate() {
  local pid
  for pid in "${!running[@]}"; do kill -TERM "$pid" 2>/dev/null || true; done
  deadline=$((SECONDS + GRACE))
}

# Ends all that still run, with what they started.
kill_all() {
  local pid
  for pid in "${!running[@]}"; do
    say "process ${running[$pid]} still runs $GRACE s after SIGTERM: SIGKILL"
    kill -KILL -- "-$pid" 2>/dev/null || true
  done
  deadline=$((SECONDS + GRACE))
}

# Takes account of a process that has ended: `code` becomes that of the run, which is 0 if all ended well; 1 or 2 if one
# of them did with that; else that of the first that ended badly.
account_for() {
  local pid=$1 process=${running[$1]} status=0
  wait "$pid" || status=$?
  unset "running[$pid]"
  kill -KILL -- "-$pid" 2>/dev/null || true # data processes that it left behind
  ((status)) || return 0
  say "process $process ended with exit code $status"
  if ((code == 0 || status == 1 || status == 2)); then code=$status; fi
  [[ -n $deadline ]] || terminate # once is enough: the others may be writing a checkpoint
}

# Runs all processes to their end, and sets `code`.
attempt() {
  local port process pid
  port=$(free_port)
  code=0 deadline=''
  for ((process = 0; process < processes; process++)); do
    prepare "$process" "$port"
    setsid env "${environment[@]}" "$@" </dev/null & # the leader of a group: what it starts can be ended with it
    running[$!]=$process
  done
  if $stopped; then terminate; fi # the signal came while they were being started
  while ((${#running[@]})); do
    sleep 0.2 || true
    for pid in "${!running[@]}"; do
      kill -0 "$pid" 2>/dev/null || account_for "$pid"
    done
    [[ -z $deadline ]] || ((SECONDS <= deadline)) || kill_all
  done
}

((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] >= 404)) || fail "bash $BASH_VERSION found, expected 4.4 or newer"
dry_run=false
if [[ ${1-} == --dry_run ]]; then dry_run=true && shift; fi
(($# >= 2)) || fail "$usage"
[[ $1 =~ ^[1-9][0-9]*$ ]] || fail "$1 processes, expected a number from 1; $usage"
processes=$1
shift
for variable in RESTARTS PAUSE GRACE; do
  [[ ${!variable} =~ ^(0|[1-9][0-9]*)$ ]] || fail "$variable=${!variable}, expected a whole number"
done
command -v -- "$1" >/dev/null || fail "$1: no such command"
gpus=()
if ((processes > 1)) && [[ ${JAX_PLATFORMS-} != *cpu* ]]; then find_gpus; fi

if $dry_run; then
  echo "would start, and after a cut start again, $RESTARTS times in a row at most:"
  for ((process = 0; process < processes; process++)); do
    prepare "$process" PORT
    printf '  %s' "${environment[*]}${environment:+ }"
    printf '%q ' "$@"
    echo
  done
  exit
fi

declare -A running=()
deadline='' stopped=false code=0 restarts=0
trap 'stopped=true; terminate' TERM INT HUP
while true; do
  began=$SECONDS
  attempt "$@"
  case $code in
    0) exit 0 ;;
    1 | 2)
      say "exit code $code: a person has to mend something, see above; not restarted"
      exit "$code"
      ;;
  esac
  ((SECONDS - began < 600)) || restarts=0
  if ((restarts == RESTARTS)) && ! $stopped; then
    say "gave up after $RESTARTS restarts in a row; the last attempt ended with exit code $code"
    exit "$code"
  fi
  restarts=$((restarts + 1))
  $stopped || say "restart $restarts of at most $RESTARTS in a row, in $PAUSE s"
  for ((second = 0; second < PAUSE; second++)); do
    $stopped || sleep 1 || true
  done
  if $stopped; then
    say "stopped; the same command continues the run"
    exit "$code"
  fi
done
