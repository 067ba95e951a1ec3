#!/usr/bin/env bash
# Trains on a slice of Cloud TPU VMs, which it requests as a queued resource.
#
#   launch/tpu_vm.sh [--dry_run] create             requests the slice
#   launch/tpu_vm.sh [--dry_run] setup              waits for it; brings code and packages to every worker
#   launch/tpu_vm.sh [--dry_run] start COMMAND ...  starts the training on every worker
#   launch/tpu_vm.sh [--dry_run] logs               follows the logs of all workers
#   launch/tpu_vm.sh [--dry_run] resume COMMAND ... does whatever of the above is missing; all of it after a preemption
#   launch/tpu_vm.sh [--dry_run] delete             gives the slice back; keeps the storage
#
# COMMAND is the same for start and resume, and runs in a copy of this commit:
#   python -m uwe_jax.main --config=configs/uwe.py --config.data.dir=gs://BUCKET/data --workdir=gs://BUCKET/run
#
# NAME     name of the queued resource and of its TPU VM
# ZONE     its zone: us-west4-a
# TYPE     accelerator type: v5litepod-16, v5p-32, v6e-64, v4-32
# SPOT     1 for spot capacity, which may be preempted; by default, on demand
# ACCOUNT  the service account of the workers, which may use the bucket; by default Compute Engine's
# SHARE    an NFS export that all workers mount as /mnt/uwe, for data and runs that are not in a bucket: 10.0.0.2:/share
# WAIT     seconds that setup waits for the slice (21600)
set -euo pipefail
here=$(dirname "$0")
# shellcheck source=steps.sh
. "$here/steps.sh"

# on_workers TITLE COMMAND: a step on every worker at once. gcloud retries each for some time, and fails if one fails.
on_workers() {
  step "$1" gcloud compute tpus tpu-vm ssh "$NAME" --zone="$ZONE" --worker=all --command="$2"
}

# Sets `now` to the state of the queued resource, empty if there is none. The question is repeated for hours, so a few
# answers may fail; five failures in a row are an error.
look() {
  local failures=0
  until now=$(gcloud compute tpus queued-resources list --zone="$ZONE" --filter="name ~ /$NAME\$" \
    --format='value(state.state)'); do
    ((++failures < 5)) || fail "the step 'look at the state of $NAME' failed $failures times; nothing was done after it"
    sleep 30
  done
}

create() {
  local runtime
  case $TYPE in
    v4-*) runtime=tpu-ubuntu2204-base ;;
    v5litepod-*) runtime=v2-alpha-tpuv5-lite ;;
    v5p-*) runtime=v2-alpha-tpuv5 ;;
    v6e-*) runtime=v2-alpha-tpuv6e ;;
    *) fail "TYPE=$TYPE, expected v4-N, v5litepod-N, v5p-N or v6e-N" ;;
  esac
  step "request $TYPE" gcloud compute tpus queued-resources create "$NAME" --node-id="$NAME" --zone="$ZONE" \
    --accelerator-type="$TYPE" --runtime-version="$runtime" ${SPOT:+--spot} ${ACCOUNT:+--service-account="$ACCOUNT"}
}

wait_until_active() {
  local deadline=$((SECONDS + WAIT)) now before=''
  while true; do
    look
    case $now in
      ACTIVE) return ;;
      '') fail "there is no queued resource $NAME in $ZONE; create requests one" ;;
      FAILED | SUSPENDING | SUSPENDED | DELETING) fail "$NAME is $now, expected ACTIVE; resume replaces it" ;;
    esac
    [[ $now == "$before" ]] || say "$NAME is $now, waiting until it is ACTIVE"
    ((SECONDS < deadline)) ||
      fail "$NAME is still $now after $WAIT s and stays in the queue; run setup again, or delete"
    before=$now
    sleep 30
  done
}

setup() {
  if ! $dry_run; then wait_until_active; fi
  step 'pack this commit' git -C "$here/.." archive --format=tar.gz --output="$scratch/uwe.tar.gz" HEAD
  step 'copy it to every worker' gcloud compute tpus tpu-vm scp "$scratch/uwe.tar.gz" "$here/tpu_worker.sh" \
    "$NAME:/tmp/" --zone="$ZONE" --worker=all
  on_workers 'set up every worker' "sudo bash /tmp/tpu_worker.sh setup $(quoted "$SHARE")"
}

start() {
  on_workers 'start on every worker' "sudo bash /opt/uwe/launch/tpu_worker.sh start $NAME $(quoted "$SHARE" "$@")"
}

logs() {
  if [[ -n $SHARE ]]; then
    step 'follow the logs' gcloud compute tpus tpu-vm ssh "$NAME" --zone="$ZONE" --worker=0 \
      --command="tail -n 50 -F /mnt/uwe/logs/$NAME/*.log"
  else
    on_workers 'follow the logs' 'sudo journalctl --unit=uwe --lines=50 --follow'
  fi
}

delete() {
  step "delete $NAME" gcloud compute tpus queued-resources delete "$NAME" --zone="$ZONE" --force --quiet
}

# Waits for a deletion in progress.
wait_until_gone() {
  local deadline=$((SECONDS + WAIT))
  say "$NAME is DELETING, waiting until it is gone"
  while [[ $now == DELETING ]]; do
    ((SECONDS < deadline)) || fail "$NAME is still DELETING after $WAIT s; run resume again"
    sleep 30
    look
  done
}

resume() {
  local now=SUSPENDED # a dry run assumes a preempted slice
  if ! $dry_run; then look; fi
  if [[ $now == DELETING ]]; then wait_until_gone; fi
  case $now in FAILED | SUSPENDING | SUSPENDED) delete ;; esac
  case $now in FAILED | SUSPENDING | SUSPENDED | '') create ;; esac
  setup
  start "$@"
}

action=${1-}
case $action in
  start | resume) (($# > 1)) || fail "$action: no COMMAND, expected python -m uwe_jax.main ..." ;;
  create | setup | logs | delete) (($# == 1)) || fail "$action: unexpected argument $2" ;;
  *) usage ;;
esac
shift
need_name
need ZONE TYPE
SHARE=${SHARE-}
WAIT=${WAIT:-21600}
need_number 0 WAIT
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
"$action" "$@"
