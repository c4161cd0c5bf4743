#!/usr/bin/env bash
# Runs tests/transformers with every transformers version that the package supports, and tests/lm_eval with lm-eval:
# each is installed with its own needs into a folder of the user's cache, beside the environment's one torch. Prints a
# table.
#   tools/matrix_test.sh [pytest arguments]
# TRANSFORMERS_VERSIONS and LM_EVAL_VERSION name other versions. The compiled module must be in place (tools/dev
# python-module).
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."

# Threads beyond a busy machine's cores wait for one another.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

VERSIONS=${TRANSFORMERS_VERSIONS:-4.57.6 5.0.0 5.5.4 5.23.0}
LM_EVAL=${LM_EVAL_VERSION:-0.4.13}
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

# lm-eval asks for torch; in an environment of its own that sees the project's packages it finds it.
install_lm_eval() {
  local target=$CACHE/lm-eval-$LM_EVAL-$(basename "$(dirname "$(dirname "$PYTHON")")")
  if [ ! -e "$target/complete" ]; then
    echo "Installing lm-eval $LM_EVAL" >&2
    rm -rf "$target"
    "$PYTHON" -m venv "$target"
    "$PYTHON" -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
      >"$("$target/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/project.pth"
    "$target/bin/python" -m pip install --quiet --disable-pip-version-check "lm-eval[hf]==$LM_EVAL" >&2
    touch "$target/complete"
  fi
  echo "$target/bin/python"
}

table=$(mktemp)
trap 'rm -f "$table" "$table.log"' EXIT
code=0

# row NAME PYTHONPATH PYTHON TESTS [ARGUMENTS]
row() {
  local name=$1 path=$2 python=$3
  shift 3
  HF_HUB_OFFLINE=1 PYTHONPATH=$path "$python" -m pytest -q -p no:cacheprovider "$@" >"$table.log" 2>&1 ||
    { code=1; cat "$table.log"; }
  local summary
  summary=$(tail -1 "$table.log")
  count() { grep -oE "[0-9]+ ($1)" <<<"$summary" | cut -d' ' -f1 || true; }
  local passed failed skipped
  passed=$(count passed) failed=$(count 'failed|errors?') skipped=$(count skipped)
  printf '%-22s %7s %7s %8s\n' "$name" "${passed:-0}" "${failed:-0}" "${skipped:-0}" >>"$table"
}

for version in $VERSIONS; do
  install "$version"
  row "transformers $version" "$(folder "$version"):python" "$PYTHON" tests/transformers "$@"
done
row "lm-eval $LM_EVAL" python "$(install_lm_eval)" tests/lm_eval "$@"
printf '%-22s %7s %7s %8s\n' "with" passed failed skipped
cat "$table"
exit "$code"
