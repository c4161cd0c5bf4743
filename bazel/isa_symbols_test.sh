#!/usr/bin/env bash
# Objects of a kernel may define names of their own instruction set alone. Any other, an inline
# function of a header, say, is merged by the linker with its namesakes, and a program for every
# machine may end up with the one that this machine cannot run.
set -euo pipefail
wrong=0
for object in "$@"; do
  defined=$(nm --defined-only --extern-only --demangle "$object" | awk 'NF >= 3' )
  [ -n "$defined" ] || { echo "$object defines nothing"; exit 1; }
  if others=$(grep -vE '(^| )[[:xdigit:]]* ?[A-Za-z] .*sparse_attention::cpu::(generic|avx2|avx512|avx512_bf16|neon)::' <<<"$defined"); then
    echo "$object:"
    echo "$others"
    wrong=1
  fi
done
exit $wrong
