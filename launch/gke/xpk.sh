#!/usr/bin/env bash
# Trains on several TPU slices of a GKE cluster that was made with XPK.
#
#   launch/gke/xpk.sh [--dry_run] COMMAND ...
#
# COMMAND runs in a container made from launch/Dockerfile:
#   python -m uwe_jax.main --config=configs/uwe.py --config.data.dir=gs://BUCKET/data --workdir=gs://BUCKET/run
#
# The nodes' service account, or the pods' with Workload Identity Federation, may use the bucket.
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
  --termination-grace-period-seconds=60 --command="exec $(quoted "$@")"
