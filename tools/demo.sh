#!/usr/bin/env bash
# Part of `tools/dev demo`: evaluates ways of attending on the shipped model and says where the results are.
#   demo.sh [--all] [FOLDER]    --all: every method that ships, in twice the time
set -euo pipefail
configs=dense,sink_local,oracle_top_k_2,oracle_top_k_16,random_10,vattention_oracle_2,hash_attention_5,quest_5
if [ "${1:-}" = --all ]; then
  shift
  configs+=,double_sparsity_5,pq_cache_5,socket_5,snap_kv_5,lightning_indexer_5,magic_pig
fi
out=${1:-results/demo}
rm -rf "$out"
count=$(tr ',' '\n' <<<"$configs" | wc -l)
echo "Evaluating $count configs in both engines on 4 tasks at 8,192 tokens with models/retrieval-6m; this takes a few minutes on 2 cores."
# Waiting threads sleep: spinning ones make everything many times slower on a machine that does other things, too.
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}
bazel-bin/tools/sah/sah evaluate --model models/retrieval-6m \
  --tasks niah_single,niah_multikey,variable_tracking,common_words --context 8192 --samples 8 \
  --engine research,efficient --config "$configs" --out "$out"
