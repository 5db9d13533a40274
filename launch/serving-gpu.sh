#!/bin/bash
# The figures of docs/serving.md that wait for a GPU: one H100, 18 B random weights, under six minutes, no JAX.
#
#     pip install ".[serving]" && launch/serving-gpu.sh        # launch/serving-gpu.sh tiny rehearses it on a CPU
#
# The targets come first; whatever takes longer than its share is stopped and keeps what it has measured.
set -uo pipefail
size=${1:-wan14b} out=${2:-out/serving-gpu} python=${PYTHON:-python}
bench() {
    local seconds=$1 name=$2
    shift 2
    echo "== $name"
    timeout --signal INT --kill-after 10 "$seconds" \
        "$python" -m tm_jax.bench serving --random "$size" --out "$out/$name" "$@" || echo "$name: status $?"
}
bench 80 fp8 --dtype fp8 --chunks 30                              # ≥ 40 fps; first frame < 0.7 s
bench 45 fp8-without-vae --dtype fp8 --chunks 20 --no-decode --no-live    # ≥ 45 fps
bench 75 bf16 --dtype bf16 --chunks 30 --no-live                  # ≥ 28 fps
bench 150 study --study --chunks 5 --no-live                      # chunk 3, 7 × steps 1, 2, 4 × bf16, FP8
