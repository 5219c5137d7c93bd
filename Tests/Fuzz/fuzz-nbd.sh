#!/bin/sh
# Fuzzes the NBD protocol code with a number of inputs (500000 unless told): Tests/Fuzz/fuzz-nbd.sh [INPUTS]
# Finds are kept in .build/fuzz-nbd.
set -eu
. "$(dirname "$0")/build-fuzzer.sh"
build_fuzzer NBDFuzz "RepldCore RepldFrontends" "" ""
run_repeatably "${1:-500000}" 65536
