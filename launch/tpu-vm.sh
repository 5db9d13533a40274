#!/bin/bash
# One training on all hosts of a TPU VM slice, started from anywhere:
#
#     launch/tpu-vm.sh NAME ZONE wan14b_student --prepared /mnt/shared/clips
#
# Every host has the checkout in ~/tm_jax with its .venv, and runs/ and the clips on a mounted file system that all
# share.  JAX learns from the VM's metadata who the others are.
set -euo pipefail
name=$1 zone=$2
shift 2
exec gcloud compute tpus tpu-vm ssh "$name" --zone "$zone" --worker all \
    --command "cd ~/tm_jax && .venv/bin/python train.py $(printf '%q ' "$@")"
