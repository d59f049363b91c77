#!/usr/bin/env bash
# The laptop-scale runs of docs/results.md: 64 px, 1000 iterations, warm-up 500, k = 5, seed 0.
#   experiments/laptop.sh PATH-OF-ISIC-2018
# Every step resumes: stopped and started again it goes on where it was.
set -euo pipefail
data=$1
out=results/laptop
fit() { # name of the run, method, options...
  local run=$out/$1 method=$2
  shift 2
  if [ -e "$run/learner.safetensors" ]; then return; fi
  if [ -e "$run/run.json" ]; then rareshot fit "$method" --data "$data" --out "$run" --resume; return; fi
  rareshot fit "$method" --data "$data" --out "$run" --scale laptop "$@"
}
judge() { # name of the run, options...
  local run=$out/$1
  shift
  for protocol in paper full site; do rareshot evaluate "$run" --data "$data" --protocol "$protocol" "$@"; done
}
fit maml maml
fit daml daml --branch-from $out/maml
judge maml
judge daml
judge maml --untrained
rareshot evaluate $out/maml --data "$data" --protocol paper --by-image
rareshot evaluate $out/daml --data "$data" --protocol paper --by-image
fit maml-transductive maml --norm transductive
fit daml-transductive daml --norm transductive --branch-from $out/maml-transductive
judge maml-transductive
judge daml-transductive
rareshot compare $out/daml $out/maml
