#!/usr/bin/env bash
# What the shared library shows and what it asks for: the functions of the header, no others of ours,
# and nothing but Abseil and the C and C++ run-time libraries: neither LibTorch nor Python.
set -euo pipefail
library=$1
header=$2

declared=$(grep -oE '\bsah_[a-z_0-9]+\(' "$header" | tr -d '(' | sort -u |
  while read -r name; do
    # Calls in comments name functions, too; declarations are what follows SAH_API.
    tr '\n' ' ' <"$header" | grep -qE "SAH_API [a-z_0-9 ]+(const)?[ *]*$name\(" && echo "$name"
  done)
# Inline functions of std::string that libstdc++.so defines, too, cannot be hidden; they are weak.
exported=$(nm --dynamic --defined-only "$library" |
  awk 'NF >= 3 && !($2 == "W" && $3 ~ /^_ZNK?St7__cxx1112basic_string/) {print $3}' | sort -u)
[ "$(wc -l <<<"$declared")" -ge 20 ] || { echo "found too few declarations: $declared"; exit 1; }
diff <(echo "$declared") <(echo "$exported") || {
  echo "the header's functions (<) and the library's symbols (>) differ"
  exit 1
}

needed=$(readelf --dynamic --wide "$library" | awk -F'[][]' '/\(NEEDED\)/ {print $2}')
[ -n "$needed" ] || { echo "no NEEDED entries were read"; exit 1; }
if others=$(grep -vE '^(libabsl_[a-z_0-9]+|libc|libm|libpthread|libstdc\+\+|libgcc_s|ld-linux-[a-z0-9-]+)\.so\.[0-9]+$' <<<"$needed"); then
  echo "the library needs:"
  echo "$others"
  exit 1
fi
