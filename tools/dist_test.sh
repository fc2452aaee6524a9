#!/usr/bin/env bash
# Test on several GPUs, or in several processes: dist_test.sh CONFIG CHECKPOINT NPROC [options of tools/test.py]
# Example:
#   bash tools/dist_test.sh configs/risurconv/risurconv-s_kicad.py work_dirs/mine 2
# On several machines, and to choose the interpreter, see dist_train.sh.
set -euo pipefail
usage() { sed -n '2,5s/^# \{0,1\}//p' "$0"; }
if [ "${1:-}" = --help ]; then
    usage
    exit 0
elif [ $# -lt 3 ]; then
    usage >&2
    exit 2
fi
config=$1 checkpoint=$2 processes=$3
shift 3
TOOL=test.py exec bash "$(dirname "$0")/dist_train.sh" "$config" "$processes" "$checkpoint" "$@"
