#!/usr/bin/env bash
# Runs pytest so that Bazel gets its report and nothing reaches for a network or the user's home folder.
set -eu
python=$1
shift
export HF_HUB_OFFLINE=1 HF_HOME="$TEST_TMPDIR/huggingface" PYTHONDONTWRITEBYTECODE=1 TOKENIZERS_PARALLELISM=false
exec "$python" -m pytest -q -p no:cacheprovider --rootdir=. --junitxml="${XML_OUTPUT_FILE:-/dev/null}" "$@"
