#!/bin/sh
# Fuzzes what reads frames and their payloads with a number of inputs (500000 unless told): Tests/Fuzz/fuzz-wire.sh [INPUTS]
# The inputs follow from a seed: the same number of inputs are the same inputs, as long as nothing is found.
# One optimised compilation with address sanitizer, as fuzz-nbd.sh says. Finds are kept in .build/fuzz-wire.
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
work="$root/.build/fuzz-wire"
rm -rf "$work/corpus"
mkdir -p "$work/modules" "$work/corpus" "$work/finds"
flags="-O -parse-as-library -package-name repld -swift-version 6 -enable-experimental-feature Lifetimes
  -enable-upcoming-feature InternalImportsByDefault -sanitize=fuzzer,address -I $work/modules"
printf 'module CRepldCRC32C { header "%s" export * }\nmodule CLZ4 [system] { header "%s" link "lz4" export * }\n' \
    "$root/CSupport/CRepldCRC32C/include/CRepldCRC32C.h" "$root/CSupport/CLZ4/CLZ4.h" >"$work/modules/module.modulemap"
clang -O2 -fsanitize=address -c "$root/CSupport/CRepldCRC32C/crc32c.c" \
    -I "$root/CSupport/CRepldCRC32C/include" -o "$work/crc32c.o"
cd "$work/modules"
for module in RepldCore RepldFormat RepldWire; do
    # shellcheck disable=SC2086
    swiftc $flags -wmo -emit-module -emit-module-path "$work/modules/$module.swiftmodule" -module-name "$module" \
        -c $(find "$root/Sources/$module" -name '*.swift') -o "$work/$module.o"
done
# shellcheck disable=SC2086
swiftc $flags -module-name WireFuzz "$root/Tests/Fuzz/WireFuzz/WireFuzz.swift" \
    "$work/RepldCore.o" "$work/RepldFormat.o" "$work/RepldWire.o" "$work/crc32c.o" -llz4 -o "$work/WireFuzz"
# What is tried next depends on addresses and on the order of hash tables: both are kept the same.
SWIFT_DETERMINISTIC_HASHING=1 ASAN_OPTIONS=detect_leaks=0 \
    setarch -R "$work/WireFuzz" -runs="${1:-500000}" -seed=1 -reload=0 -max_len=4096 \
    -artifact_prefix="$work/finds/" "$work/corpus" "$root/Tests/Fuzz/WireFuzz/Corpus"
