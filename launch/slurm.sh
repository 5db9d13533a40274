#!/bin/bash
# One training on several GPU nodes under Slurm, one process a node:
#
#     sbatch --nodes 8 launch/slurm.sh wan14b_student --prepared /shared/clips
#
# The repository, its virtual environment, runs/ and the clips lie on a file system that all nodes share.
# Slurm sends SIGTERM to this script five minutes before the time is over and when the job is preempted: a
# checkpoint follows, the job is queued again and the same command resumes.  A dead node ends the others with
# status 75, and the job is queued again too.
#SBATCH --job-name tm_jax
#SBATCH --ntasks-per-node 1
#SBATCH --gpus-per-node 8
#SBATCH --cpus-per-task 64
#SBATCH --exclusive
#SBATCH --requeue
#SBATCH --open-mode append
#SBATCH --signal B:TERM@300
#SBATCH --time 24:00:00
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:-$(dirname "$0")/..}"

# A compiled step costs minutes: every restart reads it from here.
export JAX_COMPILATION_CACHE_DIR="${JAX_COMPILATION_CACHE_DIR:-$PWD/cache/compiled}"
export XLA_PYTHON_CLIENT_MEM_FRACTION=0.92

again=0
srun --kill-on-bad-exit=1 --label .venv/bin/python train.py "$@" &
run=$!
# srun passes the signal on to every process.
trap 'again=1; kill -TERM "$run"' TERM
status=0
wait "$run" || status=$?
if [[ $again -eq 1 ]]; then # the trap ended the first wait
    status=0
    wait "$run" || status=$?
fi
if [[ $again -eq 1 || $status -eq 75 ]]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
