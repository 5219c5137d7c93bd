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

# begin_control_fuzzer TARGET, then build_control_fuzzer FILES OBJECTS: the same for a fuzzer of the control plane.
#
# It takes only the named FILES of RepldControl, so that the packages of its server stay away; OBJECTS are linked as well.
# Below RepldControlAPI the modules are those of the package build, which is brought up to date first: what is fuzzed is not
# in them, and the engine would take minutes to compile again.
begin_control_fuzzer() {
    target=$1
    program="$work/$target"
    seeds="$root/Tests/Fuzz/$target/Corpus"
    built="$root/.build/debug"
    checkouts="$root/.build/checkouts"
    mkdir -p "$work/modules" "$work/corpus" "$work/finds"
    cd "$root"
    swift build --target RepldControl
    # The package build takes the folder's name for that of the package, and only the same sees what is declared package.
    package=$(basename "$root" | tr '[:upper:]' '[:lower:]' | sed 's/[^a-z0-9_]/_/g')
    language="-swift-version 6 -enable-experimental-feature Lifetimes -enable-upcoming-feature InternalImportsByDefault"
    flags="-O -wmo -parse-as-library -package-name $package -sanitize=fuzzer,address -I $work/modules -I $built/Modules
      -I $root/CSupport/CCrypt -I $root/CSupport/CLZ4 -I $checkouts/swift-system/Sources/CSystem/include
      -I $checkouts/Yams/Sources/CYaml/include
      -Xcc -fmodule-map-file=$built/CRepldCRC32C.build/module.modulemap
      -Xcc -fmodule-map-file=$built/CRepldLinux.build/module.modulemap"
}

build_control_fuzzer() {
    compile_module RepldControlAPI "$(find "$root/Sources/RepldControlAPI" -name '*.swift')"
    cd "$root/Sources/RepldControl"
    compile_module RepldControl "$1"
    objects="$work/RepldControlAPI.o $work/RepldControl.o $2"
    for module in CRepldCRC32C CRepldLinux RepldCore RepldFormat RepldPair RepldFrontends RepldWire RepldEngine \
        RepldDataPlane CSystem SystemPackage; do
        objects="$objects $(built_objects "$module")"
    done
    # shellcheck disable=SC2086
    swiftc $flags $language -module-name "$target" "$root/Tests/Fuzz/$target/$target.swift" $objects -o "$program"
}

# compile_module MODULE SOURCES [LANGUAGE]
compile_module() {
    # shellcheck disable=SC2086
    swiftc $flags ${3:-$language} -emit-module -emit-module-path "$work/modules/$1.swiftmodule" -module-name "$1" -c $2 -o "$work/$1.o"
}

# What the package build has made of a module.
built_objects() { find "$built/$1.build/" -name '*.o' | tr '\n' ' '; }

# Runs the fuzzer so that the same number of inputs are the same inputs, as long as nothing is found: what is tried next
# depends on addresses and on the order of hash tables, and both are kept the same.
#
#   run_repeatably INPUTS LONGEST_INPUT
run_repeatably() {
    rm -rf "$work/corpus"
    mkdir -p "$work/corpus"
    SWIFT_DETERMINISTIC_HASHING=1 ASAN_OPTIONS=detect_leaks=0 \
        setarch -R "$program" -runs="$1" -seed=1 -reload=0 -max_len="$2" -timeout=30 \
        -artifact_prefix="$work/finds/" "$work/corpus" "$seeds"
}
