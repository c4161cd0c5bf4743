#!/usr/bin/env bash
# Part of `tools/dev demo`: evaluates six ways of attending on the shipped model and says where the results are.
set -euo pipefail
out=${1:-results/demo}
rm -rf "$out"
echo "Evaluating 6 configs on 4 tasks at 8,192 tokens with models/retrieval-6m; this takes a few minutes on 2 cores."
# Waiting threads sleep: spinning ones make everything many times slower on a machine that does other things, too.
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}
bazel-bin/tools/sah/sah evaluate --model models/retrieval-6m \
  --tasks niah_single,niah_multikey,variable_tracking,common_words --context 8192 --samples 8 \
  --config dense,sink_local,oracle_top_k_2,oracle_top_k_16,random_10,vattention_oracle_2 --out "$out"
