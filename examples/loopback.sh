#!/usr/bin/env bash
# The same on one machine, to try it out: `examples/loopback.sh 4 rows.parquet price [OPTION ...]`.
set -euo pipefail
count=${1:?a number of processes} rows=${2:?Parquet files} target=${3:?the column to predict}
shift 3
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("localhost", 0)); print(s.getsockname()[1])')
started=()
for ((i = 0; i < count; i++)); do
    jaxreg fit "$rows" --target "$target" --out model --coordinator "localhost:$port" \
        --processes "$count" --process "$i" "$@" &
    started+=($!)
done
for one in "${started[@]}"; do wait "$one"; done
