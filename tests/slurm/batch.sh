#!/bin/bash
set -e
trap 'echo "hyperband: line $LINENO of this script, a setup line of the Slurm profile, failed" >&2' ERR
module load cuda/12.4
source "$HOME/my env/bin/activate"
trap - ERR
set +e
exec "$@"
