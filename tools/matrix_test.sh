#!/usr/bin/env bash
# Runs tests/transformers with every transformers version that the package supports: each is installed with its own
# needs into a folder of the user's cache, beside the environment's one torch. Prints a table.
#   tools/matrix_test.sh [pytest arguments]
# TRANSFORMERS_VERSIONS names other versions. The compiled module must be in place (tools/dev python-module).
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."

# Threads beyond a busy machine's cores wait for one another.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

VERSIONS=${TRANSFORMERS_VERSIONS:-4.57.6 5.0.0 5.5.4 5.23.0}
CACHE=${HOME:-}/.cache/sparse_attention_hub
PYTHON=$(tools/dev python-path)

# A folder is keyed by the version of Python too: wheels differ.
folder() { echo "$CACHE/transformers-$1-$("$PYTHON" -c 'import sys; print("py%d%d" % sys.version_info[:2])')"; }

install() {
  local target
  target=$(folder "$1")
  [ -e "$target/complete" ] && return 0
  echo "Installing transformers $1" >&2
  rm -rf "$target"
  mkdir -p "$target"
  "$PYTHON" -m pip install --quiet --disable-pip-version-check --target "$target" "transformers==$1"
  touch "$target/complete"
}

table=$(mktemp)
trap 'rm -f "$table" "$table.log"' EXIT
code=0
for version in $VERSIONS; do
  install "$version"
  PYTHONPATH="$(folder "$version"):python" "$PYTHON" -m pytest -q -p no:cacheprovider tests/transformers "$@" \
    >"$table.log" 2>&1 || { code=1; cat "$table.log"; }
  summary=$(tail -1 "$table.log")
  count() { grep -oE "[0-9]+ $1" <<<"$summary" | cut -d' ' -f1 || true; }
  passed=$(count passed) failed=$(count 'failed|[0-9]+ error') skipped=$(count skipped)
  printf '%-14s %7s %7s %8s\n' "$version" "${passed:-0}" "${failed:-0}" "${skipped:-0}" >>"$table"
done
printf '%-14s %7s %7s %8s\n' transformers passed failed skipped
cat "$table"
exit "$code"
