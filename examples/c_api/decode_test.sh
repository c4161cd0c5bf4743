#!/usr/bin/env bash
# Builds the example as a host would and checks what it prints.
set -euo pipefail
source=$1
header=$2
library=$3
folder=$(dirname "$(realpath "$library")")
cc -std=c99 -pedantic -Wall -Wextra -Werror "$source" -I "$(dirname "$header")" -L "$folder" \
  "-Wl,-rpath,$folder" -lsparse_attention -lm -o "$TEST_TMPDIR/decode"
"$TEST_TMPDIR/decode" | tee "$TEST_TMPDIR/printed"
# The prompt and four steps; 16 + 64 + about 410 of 4,100 keys, never all of them.
[ "$(wc -l <"$TEST_TMPDIR/printed")" = 5 ]
grep -q "^4100 keys: " "$TEST_TMPDIR/printed"
awk '{ if ($3 < 400 || $3 > 600 || $NF <= 0 || $NF >= 1) exit 1 }' "$TEST_TMPDIR/printed"
