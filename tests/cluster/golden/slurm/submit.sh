#!/bin/bash
# Submits the training, and the scoring to start when every shard is done. Run again after a failure, it continues with
# what is left.
set -eu
training=$(sbatch --parsable /shared/run/cluster/train.sbatch)
training=${training%%;*} # "id;cluster" where there are several clusters
scoring=$(sbatch --parsable --dependency="afterok:$training" --kill-on-invalid-dep=yes /shared/run/cluster/score.sbatch)
echo "training: job array $training of 4, scoring: job ${scoring%%;*}, logs: /shared/run/cluster/logs"
