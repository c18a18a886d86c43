#!/usr/bin/env bash
# The training runs of docs/results.md: benchmarks/training.sh NAME [SEED] trains one, into runs/NAME (seed 1) or
# runs/NAME-SEED; --resume is always on.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

cheetah="--algo sac --env HalfCheetah-v5 --steps 150000"
climber="--algo dqn --env CrazyClimberNoFrameskip-v4 --steps 50000
  --eval-every 12500 --eval-episodes 5 --final-episodes 20"
declare -A runs=(
  [cheetah-dense]="$cheetah"
  [cheetah-90]="$cheetah --sparsity 0.90"
  [cheetah-98]="$cheetah --sparsity 0.98"
  [cheetah-narrow]="$cheetah --hidden 46,46 --weight-bits 8"
  [climber-dense]="$climber"
  [climber-90]="$climber --sparsity 0.90"
)

name="${1:-}" seed="${2:-1}"
if [[ -z "$name" || -z "${runs[$name]:-}" ]]; then
  echo "usage: benchmarks/training.sh NAME [SEED], NAME one of: ${!runs[*]}" >&2
  exit 2
fi
folder="runs/$name"
[[ "$seed" == 1 ]] || folder+="-$seed"
# shellcheck disable=SC2086 # the options are words
exec "${POLICYPRESS:-.venv/bin/policypress}" train ${runs[$name]} --seed "$seed" --out "$folder" --resume
