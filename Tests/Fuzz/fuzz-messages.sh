#!/bin/sh
# Fuzzes what the control plane decodes with a number of inputs (500000 unless told): Tests/Fuzz/fuzz-messages.sh [INPUTS]
# Finds are kept in .build/fuzz-messages.
set -eu
. "$(dirname "$0")/build-fuzzer.sh"
begin_control_fuzzer MessageFuzz
build_control_fuzzer "PeerMessages.swift HandoverMessages.swift DifferencesMessage.swift GrowMessage.swift ControlError.swift Registry.swift RegistryEntries.swift
  RegistryPeerEntries.swift PairSettingsRule.swift RecoveryPointRule.swift MetadataPlacing.swift PairTimes.swift
  ElementMark.swift OperationWords.swift DurableFile.swift UserFile.swift PasswordHash.swift" ""
# Half as many as are asked for: text takes longer than the other fuzzers' bytes.
run_repeatably "$((${1:-500000} / 2))" 4096
