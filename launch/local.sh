#!/usr/bin/env bash
# Runs the processes of one run on this machine, and restarts them when the run is cut off.
#
#   launch/local.sh [--dry_run] PROCESSES COMMAND [ARGUMENT ...]
#
# Two processes of four simulated devices each, on a laptop:
#   JAX_PLATFORMS=cpu JAX_NUM_CPU_DEVICES=4 launch/local.sh 2 python -m uwe_jax.main --config=... --workdir=RUN
# One process per GPU, on a machine with eight:
#   launch/local.sh 8 python -m uwe_jax.main --config=... --workdir=RUN
# One process with all devices:
#   launch/local.sh 1 python -m uwe_jax.main --config=... --workdir=RUN
#
# When one process fails, the others get SIGTERM. If any of them ends with 1 or 2, a person has to act, and the script
# ends; otherwise it restarts all of them. It passes SIGTERM, SIGINT and SIGHUP on as SIGTERM, and ends.
#
# RESTARTS  most restarts in a row (10); after an attempt of ten minutes or more the count begins again
# PAUSE     seconds before a restart (10)
# GRACE     seconds between SIGTERM and SIGKILL (60)
set -euo pipefail

RESTARTS=${RESTARTS:-10} PAUSE=${PAUSE:-10} GRACE=${GRACE:-60}
usage='usage: launch/local.sh [--dry_run] PROCESSES COMMAND [ARGUMENT ...]'

say() { echo "local.sh: $*" >&2; }
fail() {
  say "error: $*"
  exit 2
}

# Sets `gpus` to the GPUs that the processes share.
find_gpus() {
  if [[ -n ${CUDA_VISIBLE_DEVICES-} ]]; then
    IFS=, read -ra gpus <<<"$CUDA_VISIBLE_DEVICES"
  elif command -v nvidia-smi >/dev/null; then
    mapfile -t gpus < <(nvidia-smi --query-gpu=index --format=csv,noheader)
  else
    fail 'no nvidia-smi, so no GPUs; for simulated devices set JAX_PLATFORMS=cpu JAX_NUM_CPU_DEVICES=4'
  fi
  ((${#gpus[@]} >= processes)) || fail "$processes processes, but ${#gpus[@]} GPUs; expected at least one each"
}

# A port that nothing listens on. Each attempt takes another one, since connections of the last one may linger.
free_port() {
  local port
  while port=$((10240 + RANDOM % 20000)) && (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do :; done
  echo "$port"
}

# Sets `environment` to what process $1 needs to join the others at port $2. A single process joins nothing, or what
# JAX detects: the other workers of a TPU slice.
prepare() {
  environment=()
  ((processes > 1)) || return 0
  environment=("JAX_COORDINATOR_ADDRESS=127.0.0.1:$2" "JAX_NUM_PROCESSES=$processes" "JAX_PROCESS_ID=$1")
  ((${#gpus[@]} == 0)) || environment+=("CUDA_VISIBLE_DEVICES=${gpus[$1]}")
}

# Asks all running processes to end within GRACE seconds.
terminate() {
  local pid
  for pid in "${!running[@]}"; do kill -TERM "$pid" 2>/dev/null || true; done
  deadline=$((SECONDS + GRACE))
}

# Kills all processes that still run, and their children.
kill_all() {
  local pid
  for pid in "${!running[@]}"; do
    say "process ${running[$pid]} still runs $GRACE s after SIGTERM; sending SIGKILL"
    kill -KILL -- "-$pid" 2>/dev/null || true
  done
  deadline=$((SECONDS + GRACE))
}

# Sets `code` after a process has ended: 1 or 2 if any process ended with it, else the code of the first that failed.
record_end() {
  local pid=$1 process=${running[$1]} status=0
  wait "$pid" || status=$?
  unset "running[$pid]"
  kill -KILL -- "-$pid" 2>/dev/null || true # children that it left behind
  ((status)) || return 0
  say "process $process ended with exit code $status"
  if ((code == 0 || status == 1 || status == 2)); then code=$status; fi
  [[ -n $deadline ]] || terminate # once only: the others may be writing a checkpoint
}

# Runs all processes until they end, and sets `code`.
attempt() {
  local port process pid
  port=$(free_port)
  code=0 deadline=''
  for ((process = 0; process < processes; process++)); do
    prepare "$process" "$port"
    setsid env "${environment[@]}" "$@" </dev/null & # leads a group, so that its children can be killed with it
    running[$!]=$process
  done
  if $stopped; then terminate; fi # the signal came while they started
  while ((${#running[@]})); do
    sleep 0.2 || true
    for pid in "${!running[@]}"; do
      kill -0 "$pid" 2>/dev/null || record_end "$pid"
    done
    [[ -z $deadline ]] || ((SECONDS <= deadline)) || kill_all
  done
}

((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] >= 404)) || fail "bash $BASH_VERSION, expected 4.4 or newer"
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
if ((processes > 1)) && [[ ${JAX_PLATFORMS-} != cpu ]]; then find_gpus; fi

if $dry_run; then
  echo "would start, and restart at most $RESTARTS times in a row:"
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
      say "exit code $code: a person has to act, see above; not restarted"
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
