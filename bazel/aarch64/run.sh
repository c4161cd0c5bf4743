#!/usr/bin/env bash
# Runs a test of an AArch64 build on this machine: programs in QEMU, scripts as they are. The emulated
# processor has ARMv8.0 alone, so that an instruction of a later version ends the test.
set -euo pipefail
[ "$(head -c 2 "$1")" != '#!' ] || exec "$@"
exec qemu-aarch64 -cpu cortex-a57 -L /usr/aarch64-linux-gnu "$@"
