#!/bin/sh
# Fuzzes what reads metadata areas with a number of inputs (500000 unless told): Tests/Fuzz/fuzz-metadata.sh [INPUTS]
# The inputs follow from a seed: the same number of inputs are the same inputs, as long as nothing is found.
# One optimised compilation with address sanitizer, as fuzz-nbd.sh says. Finds are kept in .build/fuzz-metadata.
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
work="$root/.build/fuzz-metadata"
rm -rf "$work/corpus"
mkdir -p "$work/modules" "$work/corpus" "$work/finds"
flags="-O -parse-as-library -package-name repld -swift-version 6 -enable-experimental-feature Lifetimes
  -enable-upcoming-feature InternalImportsByDefault -sanitize=fuzzer,address -I $work/modules"
printf 'module CRepldCRC32C { header "%s" export * }\n' "$root/CSupport/CRepldCRC32C/include/CRepldCRC32C.h" \
    >"$work/modules/module.modulemap"
clang -O2 -fsanitize=address -c "$root/CSupport/CRepldCRC32C/crc32c.c" \
    -I "$root/CSupport/CRepldCRC32C/include" -o "$work/crc32c.o"
cd "$work/modules"
for module in RepldCore RepldFormat; do
    # shellcheck disable=SC2086
    swiftc $flags -wmo -emit-module -emit-module-path "$work/modules/$module.swiftmodule" -module-name "$module" \
        -c $(find "$root/Sources/$module" -name '*.swift') -o "$work/$module.o"
done
# shellcheck disable=SC2086
swiftc $flags -module-name MetadataFuzz "$root/Tests/Fuzz/MetadataFuzz/MetadataFuzz.swift" \
    "$work/RepldCore.o" "$work/RepldFormat.o" "$work/crc32c.o" -o "$work/MetadataFuzz"
# What is tried next depends on addresses and on the order of hash tables: both are kept the same.
SWIFT_DETERMINISTIC_HASHING=1 ASAN_OPTIONS=detect_leaks=0 \
    setarch -R "$work/MetadataFuzz" -runs="${1:-500000}" -seed=1 -reload=0 -max_len=512 \
    -artifact_prefix="$work/finds/" "$work/corpus" "$root/Tests/Fuzz/MetadataFuzz/Corpus"
