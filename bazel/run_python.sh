#!/usr/bin/env bash
# Runs a script of the repository with the package on its path.
set -eu
python=$1
shift
PYTHONPATH=python exec "$python" "$@"
