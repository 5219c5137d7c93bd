# Sourced by the fuzz-*.sh beside it: builds one fuzzer and says where things are.
# One optimised compilation with address sanitizer, outside the package build: the package manager cannot link a single
# target with the fuzzer's main, and unoptimised fuzzing finds little.
#
#   build_fuzzer TARGET MODULES MODULE_MAP_LINES LINKER_FLAGS
#
# TARGET is the folder of the fuzzer beside this file, MODULES the sources that it needs, in the order of their
# dependencies. Sets `work`, `program`, `seeds` (the kept corpus), and makes `$work/corpus` and `$work/finds`.
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
work="$root/.build/$(basename "$0" .sh)"

build_fuzzer() {
    program="$work/$1"
    seeds="$root/Tests/Fuzz/$1/Corpus"
    mkdir -p "$work/modules" "$work/corpus" "$work/finds"
    flags="-O -parse-as-library -package-name repld -swift-version 6 -enable-experimental-feature Lifetimes
      -enable-upcoming-feature InternalImportsByDefault -sanitize=fuzzer,address -I $work/modules"
    printf 'module CRepldCRC32C { header "%s" export * }\n%s\n' \
        "$root/CSupport/CRepldCRC32C/include/CRepldCRC32C.h" "$3" >"$work/modules/module.modulemap"
    clang -O2 -fsanitize=address -c "$root/CSupport/CRepldCRC32C/crc32c.c" \
        -I "$root/CSupport/CRepldCRC32C/include" -o "$work/crc32c.o"
    cd "$work/modules"
    objects="$work/crc32c.o"
    for module in $2; do
        # shellcheck disable=SC2086
        swiftc $flags -wmo -emit-module -emit-module-path "$work/modules/$module.swiftmodule" -module-name "$module" \
            -c $(find "$root/Sources/$module" -name '*.swift') -o "$work/$module.o"
        objects="$objects $work/$module.o"
    done
    # shellcheck disable=SC2086
    swiftc $flags -module-name "$1" "$root/Tests/Fuzz/$1/$1.swift" $objects $4 -o "$program"
}

# Runs the fuzzer so that the same number of inputs are the same inputs, as long as nothing is found: what is tried next
# depends on addresses and on the order of hash tables, and both are kept the same.
#
#   run_repeatably INPUTS LONGEST_INPUT
run_repeatably() {
    rm -rf "$work/corpus"
    mkdir -p "$work/corpus"
    SWIFT_DETERMINISTIC_HASHING=1 ASAN_OPTIONS=detect_leaks=0 \
        setarch -R "$program" -runs="$1" -seed=1 -reload=0 -max_len="$2" \
        -artifact_prefix="$work/finds/" "$work/corpus" "$seeds"
}
