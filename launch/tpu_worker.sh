#!/usr/bin/env bash
# What tpu_vm.sh runs on each worker of a slice, as root: NFS compares user ids, which differ between workers. Both
# commands may be repeated after one worker failed; a worker that trains is left alone.
#
#   tpu_worker.sh setup SHARE                          installs /tmp/uwe.tar.gz; mounts the NFS export SHARE as /mnt/uwe
#   tpu_worker.sh start NAME SHARE COMMAND [ARG ...]   starts the training
#
# SHARE may be empty. The log is in the journal of the unit uwe; with a SHARE, in /mnt/uwe/logs/NAME.
set -euo pipefail

setup() {
  if [[ -n $1 ]] && ! mountpoint --quiet /mnt/uwe; then
    # A new machine updates itself in the background, and holds apt's lock meanwhile.
    apt-get -o DPkg::Lock::Timeout=600 -qq update
    apt-get -o DPkg::Lock::Timeout=600 -qq -y install nfs-common
    mkdir -p /mnt/uwe
    mount -t nfs -o hard "$1" /mnt/uwe
  fi
  rm -rf /opt/uwe
  mkdir /opt/uwe
  tar -xzf /tmp/uwe.tar.gz -C /opt/uwe
  # The images come with Python 3.10; uv brings a newer one.
  python3 -m pip install --quiet --constraint /opt/uwe/constraints.txt uv
  python3 -m uv venv --quiet --python 3.11 /opt/uwe/.venv
  python3 -m uv pip install --quiet --python /opt/uwe/.venv --constraint /opt/uwe/constraints.txt '/opt/uwe[gcs,tpu]'
}

start() {
  local log shared=()
  log=/mnt/uwe/logs/$1/$(hostname).log
  if [[ -n $2 ]]; then
    if ! mountpoint --quiet /mnt/uwe; then
      echo "$(hostname): error: /mnt/uwe is not mounted; run setup first" >&2
      exit 1
    fi
    mkdir -p "$(dirname "$log")"
    shared=(--property=RequiresMountsFor=/mnt/uwe
      --property=StandardOutput="append:$log" --property=StandardError="append:$log"
      --setenv=UWE_JAX_CACHE=/mnt/uwe/cache/models --setenv=JAX_COMPILATION_CACHE_DIR=/mnt/uwe/cache/jax)
  fi
  shift 2
  systemctl reset-failed uwe 2>/dev/null || true # of an earlier failure
  # A service outlives the connection, runs once per machine, and gets SIGTERM when the machine shuts down.
  # JAX's own port for its coordinator, 8482, may be closed between TPU VMs; 8476 is open.
  systemd-run --unit=uwe --working-directory=/opt/uwe --property=KillMode=mixed --property=TimeoutStopSec=90 \
    --setenv=HOME=/root --setenv=PATH="/opt/uwe/.venv/bin:$PATH" --setenv=JAX_COORDINATOR_PORT=8476 "${shared[@]}" \
    /opt/uwe/launch/local.sh 1 "$@"
}

if systemctl is-active --quiet uwe; then
  echo "$(hostname): a training runs here; left alone"
else
  "$@"
fi
