#!/bin/sh
# Fuzzes what reads the configuration file with a number of inputs (500000 unless told): Tests/Fuzz/fuzz-configuration.sh [INPUTS]
# Finds are kept in .build/fuzz-configuration.
set -eu
. "$(dirname "$0")/build-fuzzer.sh"
begin_control_fuzzer ConfigurationFuzz
# The reader of YAML is compiled here as well, so that inputs find their way through it.
yaml="$checkouts/Yams/Sources"
(cd "$work" && clang -O2 -fsanitize=fuzzer-no-link,address -DYAML_DECLARE_STATIC -I "$yaml/CYaml/include" \
    -c "$yaml/CYaml/src/"*.c)
compile_module Yams "$(find "$yaml/Yams" -name '*.swift')" "-swift-version 5 -DSWIFT_PACKAGE"
build_control_fuzzer "Configuration.swift YAMLSection.swift ControlListening.swift ControlError.swift
  PairSettingsRule.swift" "$work/Yams.o $work/api.o $work/parser.o $work/reader.o $work/scanner.o $work/emitter.o
  $work/writer.o $(built_objects Logging)"
# Half as many as are asked for: text takes longer than the other fuzzers' bytes.
run_repeatably "$((${1:-500000} / 2))" 2048
