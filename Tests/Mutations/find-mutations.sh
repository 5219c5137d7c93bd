#!/bin/bash
# Builds the simulator with the known mistakes compiled in (Sources/RepldCore/Mutation.swift), lets the engine make each of them, and
# fails when the simulator does not find one with the seeds stated for it; prints what found each. Then, in the same build:
# with no mistake the same seeds are clean, and a run that was found is shrunk to one whose command line reproduces it.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 1

scratch=.build/mutations
swift build -c release --product repld-simulate --scratch-path "$scratch" -Xswiftc -DREPLD_MUTATIONS || exit 1
simulator=$scratch/release/repld-simulate
status=0

"$simulator" --find-mutations || status=1

# Without a mutation, the seeds of each kind up to the largest budget.
while read -r kind seeds; do
    if ! clean=$("$simulator" --kind "$kind" --seeds "1..$seeds"); then
        grep -E '^(seeds|FAILED)' <<<"$clean"
        echo "without a mutation, seeds of kind $kind are not clean"
        status=1
    fi
done < <("$simulator" --list-mutations | awk 'NR > 1 && $4 > most[$3] { most[$3] = $4 } END { for (k in most) print k, most[k] }')

# What --shrink prints as its last line is a command that fails in the same way, in fewer steps.
shrunk=$("$simulator" --seed 1 --kind host --mutation forgets-in-flight --shrink) || status=1
echo "$shrunk"
read -r _ arguments <<<"$(tail -n 1 <<<"$shrunk")"
# shellcheck disable=SC2086
again=$("$simulator" $arguments)
if [ $? -ne 1 ] || ! grep -q '^failed' <<<"$again" || ! grep -qE '^--seed 1 .*--steps [0-9]{1,2}( |$)' <<<"$arguments"; then
    echo "the shrunk run does not fail, or is not short"
    status=1
fi
exit $status
