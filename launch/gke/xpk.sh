#!/usr/bin/env bash
# Trains on several TPU slices of a GKE cluster by XPK, for those who made the cluster with it.
#
#   launch/gke/xpk.sh [--dry_run] COMMAND ...
#
# COMMAND runs in the container that launch/Dockerfile makes:
#   python -m uwe_jax.main --config=configs/uwe.py --config.data.dir=/mnt/uwe/data --workdir=/mnt/uwe/run
#
# /mnt/uwe is a Filestore that was attached to the cluster, once:
#   xpk storage attach uwe --cluster=CLUSTER --type=gcpfilestore --manifest=FILE \
#     --auto-mount=true --readonly=false --mount-point=/mnt/uwe
#
# CLUSTER  that xpk made; project and zone are those of gcloud
# NAME     of the workload
# IMAGE    of the container
# TYPE     of one slice: v5litepod-16, v5p-32, v6e-64
# SLICES   how many slices (2)
set -euo pipefail
# shellcheck source=../steps.sh
. "$(dirname "$0")/../steps.sh"

(($#)) || usage
need_name
need CLUSTER IMAGE TYPE
SLICES=${SLICES:-2}
need_number 1 SLICES
# XPK restarts after exit codes from 127 on by itself, and after 75 if told so. It runs the command in a shell: `exec`,
# so that SIGTERM comes to the program.
step "create the workload $NAME" xpk workload create --cluster="$CLUSTER" --workload="$NAME" --docker-image="$IMAGE" \
  --tpu-type="$TYPE" --num-slices="$SLICES" --max-restarts=50 --restart-on-exit-codes=75 \
  --termination-grace-period-seconds=60 --env=UWE_JAX_CACHE=/mnt/uwe/cache/models \
  --env=JAX_COMPILATION_CACHE_DIR=/mnt/uwe/cache/jax --command="exec $(quoted "$@")"
