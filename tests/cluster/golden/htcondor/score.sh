#!/bin/bash
# Queries the target, scores every sample, and writes the submission and the report.
set -e
export HOME="${HOME:-/shared/home}"
export JAXMIA_REQUEUE_EXIT_CODE=85
cd /shared/work

/shared/home/jaxmia/.venv/bin/jaxmia query --config /shared/config.yaml --out /shared/run
/shared/home/jaxmia/.venv/bin/jaxmia score --config /shared/config.yaml --out /shared/run
/shared/home/jaxmia/.venv/bin/jaxmia report --config /shared/config.yaml --out /shared/run
