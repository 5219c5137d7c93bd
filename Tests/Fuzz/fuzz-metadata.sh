#!/bin/sh
# Fuzzes what reads metadata areas with a number of inputs (500000 unless told): Tests/Fuzz/fuzz-metadata.sh [INPUTS]
# Finds are kept in .build/fuzz-metadata.
set -eu
. "$(dirname "$0")/build-fuzzer.sh"
build_fuzzer MetadataFuzz "RepldCore RepldFormat" "" ""
run_repeatably "${1:-500000}" 512
