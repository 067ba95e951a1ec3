#!/usr/bin/env bash
# Trains on several TPU slices of kubectl's GKE cluster as one JobSet.
#
#   launch/gke/jobset.sh [--dry_run] start COMMAND ...
#   launch/gke/jobset.sh [--dry_run] logs
#   launch/gke/jobset.sh [--dry_run] delete
#
# COMMAND runs in a container made from launch/Dockerfile:
#   python -m uwe_jax.main --config=configs/uwe.py --config.data.dir=gs://BUCKET/data --workdir=gs://BUCKET/run
#
# NAME      name of the JobSet
# IMAGE     image of the container
# TPU       v4, v5e, v5p or v6e
# TOPOLOGY  shape of a slice in chips, at least two hosts of four: 4x4, 2x2x4
# SLICES    number of slices (2)
# ACCOUNT   the Kubernetes service account of the pods, which may use the bucket (default)
# SHARE     an NFS export that all pods mount as /mnt/uwe, for data and runs that are not in a bucket: 10.0.0.2:/share
set -euo pipefail
here=$(dirname "$0")
# shellcheck source=../steps.sh
. "$here/../steps.sh"

hosts() {
  [[ $TOPOLOGY =~ ^[0-9]+(x[0-9]+)+$ ]] || fail "TOPOLOGY=$TOPOLOGY, expected sizes such as 4x4 or 2x2x4"
  echo $((${TOPOLOGY//x/ * } / 4))
}

# The arguments as a JSON list, which is valid YAML.
json_list() {
  local word list=''
  for word; do
    word=${word//\\/\\\\} word=${word//\"/\\\"} word=${word//$'\n'/\\n}
    list+="${list:+, }\"$word\""
  done
  echo "[$list]"
}

# The manifest with its variables replaced.
manifest() {
  local text accelerator hosts
  case $TPU in
    v4) accelerator=tpu-v4-podslice ;;
    v5e) accelerator=tpu-v5-lite-podslice ;;
    v5p) accelerator=tpu-v5p-slice ;;
    v6e) accelerator=tpu-v6e-slice ;;
    *) fail "TPU=$TPU, expected v4, v5e, v5p or v6e" ;;
  esac
  hosts=$(hosts)
  ((hosts > 1)) || fail "TOPOLOGY=$TOPOLOGY, expected at least two hosts, which are eight chips"
  text=$(<"$here/jobset.yaml")
  if [[ -z $SHARE ]]; then
    text=$(grep -v '# with SHARE$' <<<"$text")
  elif [[ $SHARE != ?*:/* ]]; then
    fail "SHARE=$SHARE, expected SERVER:/PATH"
  fi
  text=${text//\$NAME/"$NAME"}
  text=${text//\$IMAGE/"$IMAGE"}
  text=${text//\$SLICES/"$SLICES"}
  text=${text//\$HOSTS/"$hosts"}
  text=${text//\$ACCELERATOR/"$accelerator"}
  text=${text//\$TOPOLOGY/"$TOPOLOGY"}
  text=${text//\$ACCOUNT/"$ACCOUNT"}
  text=${text//\$SERVER/"${SHARE%%:*}"}
  text=${text//\$EXPORT/"${SHARE#*:}"}
  text=${text//\$COMMAND/"$(json_list "$@")"}
  echo "$text"
}

start() {
  need IMAGE TPU TOPOLOGY
  local text
  text=$(manifest "$@")
  step 'look for JobSet in the cluster' kubectl get customresourcedefinition jobsets.jobset.x-k8s.io --output=name
  # Not `apply`, which would change a run of that name.
  step "create the JobSet $NAME" kubectl create --filename=- <<<"$text"
  if $dry_run; then echo "$text"; fi
}

logs() {
  need TOPOLOGY
  step 'follow the logs' kubectl logs --selector="jobset.sigs.k8s.io/jobset-name=$NAME" --follow --prefix --tail=50 \
    --max-log-requests=$((SLICES * $(hosts)))
}

delete() {
  step "delete $NAME" kubectl delete jobset "$NAME"
}

action=${1-}
case $action in
  start) (($# > 1)) || fail 'start: no COMMAND, expected python -m uwe_jax.main ...' ;;
  logs | delete) (($# == 1)) || fail "$action: unexpected argument $2" ;;
  *) usage ;;
esac
shift
need_name
SLICES=${SLICES:-2} ACCOUNT=${ACCOUNT:-default} SHARE=${SHARE-}
need_number 1 SLICES
"$action" "$@"
