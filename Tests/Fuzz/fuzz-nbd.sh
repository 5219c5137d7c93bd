#!/bin/sh
# Fuzzes the NBD protocol code with a number of inputs (500000 unless told): Tests/Fuzz/fuzz-nbd.sh [INPUTS]
# Finds are kept in .build/fuzz-nbd, and so is what was interesting: the next run goes on from there.
set -eu
. "$(dirname "$0")/build-fuzzer.sh"
build_fuzzer NBDFuzz "RepldCore RepldFrontends" "" ""
ASAN_OPTIONS=detect_leaks=0 "$program" -runs="${1:-500000}" -max_len=65536 \
    -artifact_prefix="$work/finds/" "$work/corpus" "$seeds"
