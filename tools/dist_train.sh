#!/usr/bin/env bash
# Train on several GPUs, or in several processes on the CPU: dist_train.sh CONFIG NPROC [options of tools/train.py]
# Example:
#   bash tools/dist_train.sh configs/risurconv/risurconv-s_kicad.py 2 --amp
# The batch size of the config is that of one process. On several machines, run it on each with NNODES,
# NODE_RANK (0 first), MASTER_ADDR and PORT set. PYTHON names the interpreter, by default python.
set -euo pipefail
usage() { sed -n '2,6s/^# \{0,1\}//p' "$0"; }
if [ "${1:-}" = --help ]; then
    usage
    exit 0
elif [ $# -lt 2 ]; then
    usage >&2
    exit 2
fi
config=$1 processes=$2
shift 2
if [ "${NNODES:-1}" = 1 ]; then
    nodes=(--standalone) # picks a free port
else
    nodes=(--nnodes "$NNODES" --node-rank "$NODE_RANK" --master-addr "$MASTER_ADDR" --master-port "${PORT:-29500}")
fi
# else torchrun and MMEngine give each process one thread
threads=$(($(nproc) / processes))
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((threads > 0 ? threads : 1))}
export MKL_NUM_THREADS=${MKL_NUM_THREADS:-$OMP_NUM_THREADS}
exec "${PYTHON:-python}" -m torch.distributed.run "${nodes[@]}" --nproc-per-node "$processes" \
    "$(dirname "$0")/${TOOL:-train.py}" "$config" --launcher pytorch "$@"
