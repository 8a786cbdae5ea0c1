#!/bin/bash
# Asks the target, scores every sample and writes the submission.
set -e
export HOME="${HOME:-/shared/home}"
export JAXMIA_REQUEUE_EXIT_CODE=85
cd /shared/work

/shared/home/jaxmia/.venv/bin/jaxmia query --config /shared/config.yaml --out /shared/run
/shared/home/jaxmia/.venv/bin/jaxmia score --config /shared/config.yaml --out /shared/run
