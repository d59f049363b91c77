#!/usr/bin/env bash
# The laptop-scale runs of docs/results.md: 64 px, 1000 iterations, warm-up 500, k = 5, seed 0, one meta rate throughout.
#   experiments/laptop.sh PATH-OF-ISIC-2018
# Every step resumes: stopped and started again it goes on where it was.
set -euo pipefail
data=$1
out=results/laptop
fit() { # run and method, options...
  local run=$out/$1 method=$1
  shift
  if [ -e "$run/learner.safetensors" ]; then return; fi
  if [ -e "$run/run.json" ]; then rareshot fit "$method" --data "$data" --out "$run" --resume; return; fi
  rareshot fit "$method" --data "$data" --out "$run" --scale laptop --decay 1 "$@"
}
fit maml
fit daml --branch-from $out/maml
for protocol in paper full site; do
  for run in maml daml; do rareshot evaluate $out/$run --data "$data" --protocol $protocol; done
done
rareshot evaluate $out/maml --data "$data" --protocol paper --untrained
rareshot compare $out/daml $out/maml
python experiments/table.py $out
