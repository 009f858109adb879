#!/bin/bash
set -e
hyperband_setup=('module load cuda/12.4' 'source "$HOME/my env/bin/activate"')
trap 'hyperband_at=$LINENO; for hyperband_n in "${BASH_LINENO[@]:-0}"; do ((hyperband_n)) && hyperband_at=$hyperband_n; done; echo "hyperband: a setup line of the Slurm profile failed: ${hyperband_setup[hyperband_at-5]}" >&2' ERR
module load cuda/12.4
source "$HOME/my env/bin/activate"
trap - ERR
set +e
unset hyperband_setup hyperband_at hyperband_n
exec "$@"
