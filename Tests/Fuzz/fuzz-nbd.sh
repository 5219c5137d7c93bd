#!/bin/sh
# Fuzzes the NBD protocol code with a number of inputs (500000 unless told): Tests/Fuzz/fuzz-nbd.sh [INPUTS]
# One optimised compilation with address sanitizer, outside the package build: the package manager cannot link a single
# target with the fuzzer's main, and unoptimised fuzzing finds little. Finds are kept in .build/fuzz-nbd.
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
work="$root/.build/fuzz-nbd"
mkdir -p "$work/modules" "$work/corpus" "$work/finds"
flags="-O -parse-as-library -package-name repld -swift-version 6 -enable-experimental-feature Lifetimes
  -enable-upcoming-feature InternalImportsByDefault -sanitize=fuzzer,address -I $work/modules"
printf 'module CRepldCRC32C { header "%s" export * }\n' "$root/CSupport/CRepldCRC32C/include/CRepldCRC32C.h" \
    >"$work/modules/module.modulemap"
clang -O2 -fsanitize=address -c "$root/CSupport/CRepldCRC32C/crc32c.c" \
    -I "$root/CSupport/CRepldCRC32C/include" -o "$work/crc32c.o"
cd "$work/modules"
for module in RepldCore RepldFrontends; do
    # shellcheck disable=SC2086
    swiftc $flags -wmo -emit-module -emit-module-path "$work/modules/$module.swiftmodule" -module-name "$module" \
        -c $(find "$root/Sources/$module" -name '*.swift') -o "$work/$module.o"
done
# shellcheck disable=SC2086
swiftc $flags -module-name NBDFuzz "$root/Tests/Fuzz/NBDFuzz/NBDFuzz.swift" \
    "$work/RepldCore.o" "$work/RepldFrontends.o" "$work/crc32c.o" -o "$work/NBDFuzz"
ASAN_OPTIONS=detect_leaks=0 "$work/NBDFuzz" -runs="${1:-500000}" -max_len=65536 \
    -artifact_prefix="$work/finds/" "$work/corpus" "$root/Tests/Fuzz/NBDFuzz/Corpus"
