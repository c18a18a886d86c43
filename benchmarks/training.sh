#!/usr/bin/env bash
# The training runs of docs/results.md: benchmarks/training.sh NAME trains one, into runs/NAME; --resume is always on.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

cheetah="--algo sac --env HalfCheetah-v5 --steps 150000 --seed 1"
climber="--algo dqn --env CrazyClimberNoFrameskip-v4 --steps 50000 --seed 1
  --eval-every 12500 --eval-episodes 5 --final-episodes 20"
declare -A runs=(
  [cheetah-dense]="$cheetah"
  [cheetah-90]="$cheetah --sparsity 0.90"
  [cheetah-98]="$cheetah --sparsity 0.98"
  [cheetah-narrow]="$cheetah --hidden 46,46 --weight-bits 8"
  [climber-dense]="$climber"
  [climber-90]="$climber --sparsity 0.90"
)

name="${1:-}"
if [[ -z "$name" || -z "${runs[$name]:-}" ]]; then
  echo "usage: benchmarks/training.sh NAME, one of: ${!runs[*]}" >&2
  exit 2
fi
# shellcheck disable=SC2086 # the options are words
exec "${POLICYPRESS:-.venv/bin/policypress}" train ${runs[$name]} --out "runs/$name" --resume
