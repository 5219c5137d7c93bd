#!/bin/sh
# Fuzzes what reads frames and their payloads with a number of inputs (500000 unless told): Tests/Fuzz/fuzz-wire.sh [INPUTS]
# Finds are kept in .build/fuzz-wire.
set -eu
. "$(dirname "$0")/build-fuzzer.sh"
lz4="module CLZ4 [system] { header \"$root/CSupport/CLZ4/CLZ4.h\" link \"lz4\" export * }"
build_fuzzer WireFuzz "RepldCore RepldFormat RepldWire" "$lz4" -llz4
run_repeatably "${1:-500000}" 4096
