#!/bin/bash
# Trains one shard of the shadow models: train.sh SHARD, counted from 0. Finished work is not repeated.
set -e
export HOME="${HOME:-/shared/home}"
export JAXMIA_REQUEUE_EXIT_CODE=85
cd /shared/work

# exec, so that the signal to stop reaches the trainer itself.
exec /shared/home/jaxmia/.venv/bin/jaxmia train --config /shared/config.yaml --out /shared/run --shard "$1/4"
