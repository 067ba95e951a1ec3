#!/usr/bin/env bash
# Trains on several TPU slices of a GKE cluster that was made with XPK.
#
#   launch/gke/xpk.sh [--dry_run] COMMAND ...
#
# COMMAND runs in a container made from launch/Dockerfile:
#   python -m uwe_jax.main --config=configs/uwe.py --config.data.dir=/mnt/uwe/data --workdir=/mnt/uwe/run
#
# /mnt/uwe is a Filestore that is attached to the cluster once:
#   xpk storage attach uwe --cluster=CLUSTER --type=gcpfilestore --manifest=FILE \
#     --auto-mount=true --readonly=false --mount-point=/mnt/uwe
#
# CLUSTER  the cluster; project and zone are those of gcloud
# NAME     name of the workload
# IMAGE    image of the container
# TYPE     accelerator type of a slice: v5litepod-16, v5p-32, v6e-64
# SLICES   number of slices (2)
set -euo pipefail
# shellcheck source=../steps.sh
. "$(dirname "$0")/../steps.sh"

(($#)) || usage
need_name
need CLUSTER IMAGE TYPE
SLICES=${SLICES:-2}
need_number 1 SLICES
# XPK restarts after exit codes from 127 on, and after 75 if asked. It runs the command in a shell; with `exec`, SIGTERM
# reaches the program.
step "create the workload $NAME" xpk workload create --cluster="$CLUSTER" --workload="$NAME" --docker-image="$IMAGE" \
  --tpu-type="$TYPE" --num-slices="$SLICES" --max-restarts=50 --restart-on-exit-codes=75 \
  --termination-grace-period-seconds=60 --env=UWE_JAX_CACHE=/mnt/uwe/cache/models \
  --env=JAX_COMPILATION_CACHE_DIR=/mnt/uwe/cache/jax --command="exec $(quoted "$@")"
