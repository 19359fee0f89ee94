#!/usr/bin/env bash
# One agent of a run over several machines: call it on each of them with the same arguments.
#   HEAD   host:port of the first machine, as all of them reach it
#   NODES  machines, or a range min:max for an elastic run (1:2)
#   RANKS  ranks on each machine: its GPUs, or on CPUs 1 for each 4 to 8 cores
# usage: HEAD=node1:29500 NODES=2 RANKS=8 ./torchrun.sh RECIPE RUN_DIR [SECTION.FIELD=VALUE]...
set -euo pipefail

: "${HEAD:?host:port of the first machine}" "${NODES:?machines, or min:max}" "${RANKS:?ranks on each machine}"
recipe=${1:?a recipe}
run=${2:?a run directory on a file system that all machines see}
shift 2

# An elastic run takes as many data ranks as there are; a fixed one is told.
case $NODES in
  *:*) spread=train.elastic=true ;;
  *) spread=plan.data=$((NODES * RANKS)) ;;
esac

export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$(( ($(nproc) + RANKS - 1) / RANKS ))}

exec torchrun \
  --nnodes="$NODES" --nproc-per-node="$RANKS" \
  --rdzv-backend=c10d --rdzv-endpoint="$HEAD" --rdzv-id="$(basename "$run")" \
  --max-restarts=10 --shutdown-timeout=120 \
  -m mainspring train "$recipe" --to "$run" "$spread" "$@"
