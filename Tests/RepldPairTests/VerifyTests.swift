import RepldCore
import RepldFormat
import RepldPair
import Testing

/// The online verify: what is compared, what a write meanwhile does, what counts as a difference, and what a mark means.
@Suite struct VerifyTests {
    private static var kibibyte: UInt64 { 1024 }

    private func harness() -> MachineHarness {
        let harness = MachineHarness()
        _ = harness.addSynchronizedPair(PairSettings(granuleByteCount: 4096))
        harness.records = []
        return harness
    }

    private func extent(_ kibibytes: UInt64, _ length: UInt64) -> Extent {
        Extent(offset: kibibytes * Self.kibibyte, length: length * Self.kibibyte)
    }

    private func ends(_ harness: MachineHarness) -> [VerifyFailure?] {
        harness.events.compactMap { event in
            if case .verifyEnded(_, let failure) = event { .some(failure) } else { nil }
        }
    }

    private func ranges(_ harness: MachineHarness) -> [Extent] {
        var found: [Extent] = []
        harness.machine.forEachVerifiedRange(0) { found.append($0) }
        return found
    }

    private func begin(_ harness: MachineHarness, _ extent: Extent? = nil) -> VerifyRefusal? {
        let refusal = harness.machine.beginVerify(0, extent)
        harness.settle()
        return refusal
    }

    /// Completes everything that is or comes in flight, as a world would in which exactly `harness.differences` differ.
    private func runToTheEnd(_ harness: MachineHarness) {
        while let operation = harness.operations.first {
            let isSame = !harness.differences.contains { $0.overlaps(operation.extent) }
            harness.complete(leg: operation.leg, isMatch: operation.kind == .readAndCompare && isSame)
        }
    }

    /// A pair in which a verify has found these ranges.
    private func marked(_ ranges: [Extent]) -> MachineHarness {
        let harness = harness()
        harness.differences = ranges
        _ = begin(harness)
        runToTheEnd(harness)
        return harness
    }

    @Test func equalElementsAreReadOnceInDiskOrderTwoChunksAtATime() {
        let harness = harness()
        #expect(begin(harness) == nil)
        #expect(harness.operations.map(\.extent) == [extent(0, 256), extent(256, 256)])
        runToTheEnd(harness)
        let kinds = harness.performed.map(\.kind)
        #expect(kinds.filter { $0 == .read }.count == 4 && kinds.filter { $0 == .readAndCompare }.count == 4)
        #expect(ends(harness) == [nil])
        #expect(harness.machine.verifyCounts(0).doneByteCount == MachineHarness.volumeByteCount)
        #expect(harness.records.isEmpty, "nothing was found, and nothing is to be recorded")
        #expect(harness.state == .synchronized && harness.isIdle)
    }

    @Test func isAcceptedOnlyInSynchronizedAndOnceAtATime() {
        let harness = harness()
        #expect(begin(harness) == nil)
        #expect(begin(harness) == .alreadyRunning)
        runToTheEnd(harness)
        let outside = VerifyRefusal.outsideVolume(byteCount: MachineHarness.volumeByteCount, blockByteCount: 512)
        #expect(begin(harness, Extent(offset: 100, length: 512)) == outside)
        #expect(begin(harness, Extent(offset: 0, length: 0)) == outside)
        #expect(begin(harness, Extent(offset: 0, length: MachineHarness.volumeByteCount + 512)) == outside)
        #expect(begin(harness, Extent(offset: 512, length: 512)) == nil)
        runToTheEnd(harness)
        harness.ask(.suspend)
        #expect(begin(harness) == .state(.suspended))
    }

    @Test func aWriteMeanwhileProvesNothingAndTheChunkIsLookedAtAgain() {
        let harness = harness()
        _ = begin(harness, extent(0, 256))
        harness.complete(leg: 0)
        #expect(harness.operations.map(\.kind) == [.readAndCompare])
        _ = harness.request(.write, 1, at: 8192)
        // The comparison saw the target before the write, or after it: nobody knows.
        let compare = harness.operations.removeFirst()
        harness.complete(leg: 0)
        harness.complete(leg: 1)
        harness.machine.completed(compare.slot, leg: 1, OperationOutcome(failure: nil, isMatch: false))
        harness.settle()
        #expect(harness.operations.map(\.kind) == [.read], "it is read again, without a lock")
        runToTheEnd(harness)
        let counts = harness.machine.verifyCounts(0)
        #expect(counts.skippedCount == 1 && counts.recheckCount == 1 && counts.lockedCount == 0)
        #expect(counts.skippedByteCount == 256 * Self.kibibyte)
        #expect(counts.differentByteCount == 0 && ends(harness) == [nil])
    }

    @Test func aChunkThatIsAlwaysBeingWrittenIsComparedUnderTheLock() {
        let harness = harness()
        _ = harness.request(.write, 1, at: 4096)
        _ = begin(harness, extent(0, 256))
        // Nothing was read: a write is under way, at every attempt. Under the lock the first piece waits for it.
        #expect(harness.operations.allSatisfy { $0.kind == .write })
        let counts = harness.machine.verifyCounts(0)
        #expect(counts.skippedCount == 1 && counts.recheckCount == 3 && counts.lockedCount == 1)
        harness.complete(leg: 0)
        harness.complete(leg: 1)
        #expect(harness.operations.map(\.extent) == [extent(0, 64)])
        _ = harness.request(.write, 2, at: 8192)
        _ = harness.request(.write, 3, at: 128 * Self.kibibyte)
        #expect(harness.operations.map(\.kind) == [.read, .write, .write], "only what is locked has to wait")
        harness.operations.removeAll { $0.kind == .write && $0.leg == 9 }
        runToTheEnd(harness)
        #expect(ends(harness) == [nil] && harness.answers.count == 3)
        #expect(harness.machine.verifyCounts(0).doneByteCount == 256 * Self.kibibyte)
    }

    @Test func aDifferenceCountsOnlyUnderTheLock() {
        let harness = harness()
        _ = begin(harness, extent(0, 256))
        harness.complete(leg: 0)
        harness.complete(leg: 1, isMatch: false)
        #expect(harness.operations.map(\.extent) == [extent(0, 64)])
        // This time it is equal.
        runToTheEnd(harness)
        #expect(ends(harness) == [nil] && ranges(harness).isEmpty)
        #expect(harness.machine.facts(of: 0).verifyMarkedByteCount == 0)
    }

    @Test func exactRangesAreMarkedMergedAndDurableBeforeTheEndIsTold() {
        let harness = harness()
        harness.writesRecords = false
        // The second lies across two pieces of the lock, the third ends with the volume.
        let wanted = [
            Extent(offset: 512, length: 1024), Extent(offset: 64 * Self.kibibyte - 512, length: 1024),
            Extent(offset: MachineHarness.volumeByteCount - 512, length: 512),
        ]
        harness.differences = wanted
        _ = begin(harness)
        runToTheEnd(harness)
        #expect(ranges(harness) == wanted)
        #expect(harness.machine.verifyCounts(0).differentByteCount == 2560)
        #expect(harness.machine.facts(of: 0).verifyMarkedByteCount == 4 * 4096, "marks are whole granules")
        #expect(ends(harness).isEmpty)
        #expect(harness.records.count == 1)
        harness.machine.recordWritten(pair: 0, nil)
        harness.settle()
        #expect(ends(harness).isEmpty && harness.records.count == 2, "the first record began before the last mark")
        harness.machine.recordWritten(pair: 0, nil)
        harness.settle()
        #expect(ends(harness) == [nil])
        #expect(harness.state == .synchronized && harness.dirtyByteCount == 0)
    }

    @Test func whatCannotBeRecordedIsToldAsAFailure() {
        let harness = harness()
        harness.writesRecords = false
        harness.differences = [Extent(offset: 0, length: 512)]
        _ = begin(harness)
        runToTheEnd(harness)
        while ends(harness).isEmpty {
            harness.machine.recordWritten(pair: 0, .inputOutput)
            harness.settle()
        }
        #expect(ends(harness) == [.recordFailed(.inputOutput)])
        #expect(harness.machine.facts(of: 0).verifyMarkedByteCount == 4096, "the mark stays")
    }

    @Test func moreRangesThanAreListedAreCounted() {
        let harness = harness()
        harness.differences = (0..<1010).map { Extent(offset: $0 * 1024, length: 512) }
        _ = begin(harness)
        runToTheEnd(harness)
        #expect(ranges(harness).count == 1000)
        let counts = harness.machine.verifyCounts(0)
        #expect(counts.unlistedRangeCount == 10 && counts.differentByteCount == 1010 * 512)
        let told = harness.events.filter { if case .verifyFound = $0 { true } else { false } }
        #expect(told.count == 16)
    }

    @Test func marksNeedForceAndResyncReplicaRepairsThem() {
        let harness = marked([Extent(offset: 8192, length: 512)])
        for operation in [ReplicationOperation.failover, .reverseRoles, .split, .detach, .dissolve] {
            #expect(harness.ask(operation) == .needsForce(.targetFoundDifferent(byteCount: 4096)))
        }
        #expect(harness.ask(.activate) == .holds)
        #expect(harness.ask(.resyncReplica) == .accepted(to: .synchronized))
        #expect(harness.state == .unsynchronized && harness.dirtyByteCount == 4096)
        harness.differences = []
        harness.completeAll()
        #expect(harness.state == .synchronized && harness.dirtyByteCount == 0)
        #expect(harness.performed.filter { $0.leg == 1 && $0.kind == .write }.map(\.extent) == [extent(8, 4)])
        #expect(harness.machine.facts(of: 0).differingByteCount == 0)
        #expect(harness.ask(.resyncReplica) == .holds)
        #expect(harness.ended.last?.operation == .resyncReplica && harness.ended.last?.failure == nil)
    }

    /// The repair does not wait until no write is under way, which under load may be never.
    @Test func repairBeginsWhileHostsWrite() {
        let harness = marked([Extent(offset: 8192, length: 512)])
        _ = harness.request(.write, 1, at: 65536)
        harness.ask(.resyncReplica)
        #expect(harness.operations.contains { $0.kind == .readAndCheckZero })
        harness.completeAll()
        #expect(harness.state == .synchronized && harness.answers.count == 1)
    }

    @Test(arguments: [ReplicationOperation.suspend, .deactivate, .fracture])
    func marksAreWhatDiffersWhenMirroringStops(operation: ReplicationOperation) {
        let harness = marked([Extent(offset: 8192, length: 512)])
        harness.ask(operation)
        #expect(harness.dirtyByteCount == 4096)
        #expect(harness.machine.facts(of: 0).verifyMarkedByteCount == 0)
        #expect(harness.ask(.failover) == .needsForce(.targetLacksWrites(byteCount: 4096)), "it is not lossless")
        harness.start(0)
        harness.completeAll()
        #expect(harness.state == .synchronized && harness.dirtyByteCount == 0)
    }

    @Test func aBrokenPairCopiesWhatWasMarked() {
        let harness = marked([Extent(offset: 8192, length: 512)])
        _ = harness.request(.write, 1, at: 0)
        harness.complete(leg: 0)
        harness.complete(leg: 1, .inputOutput)
        #expect(harness.state == .broken && harness.dirtyByteCount == 8192)
    }

    @Test func aForcedFailoverLeavesTheSourceAhead() {
        let harness = marked([Extent(offset: 8192, length: 512)])
        harness.ask(.failover, isForced: true)
        harness.completeAll()
        #expect(harness.state == .failedover && harness.disconnections == 1, "hosts find other data")
        #expect(harness.machine.facts(of: 0).isSourceAhead && harness.dirtyByteCount == 4096)
        #expect(harness.ask(.failback) == .needsForce(.sourceChangesLost(byteCount: 4096)))
    }

    @Test func reversedRolesKeepTheMarks() {
        let harness = marked([Extent(offset: 8192, length: 512)])
        harness.ask(.reverseRoles, isForced: true)
        harness.completeAll()
        #expect(harness.state == .synchronized && harness.disconnections == 1)
        #expect(harness.machine.facts(of: 0).verifyMarkedByteCount == 4096 && harness.dirtyByteCount == 0)
        #expect(harness.ask(.split) == .needsForce(.targetFoundDifferent(byteCount: 4096)))
    }

    @Test func aMarkedExtentIsNotReadFromTheTarget() {
        let harness = marked([Extent(offset: 8192, length: 512)])
        _ = harness.request(.read, 1, at: 8192)
        harness.complete(leg: 0, .inputOutput)
        #expect(harness.answers.last?.failure == .inputOutput)
        _ = harness.request(.read, 2, at: 65536)
        harness.complete(leg: 0, .inputOutput)
        harness.completeAll()
        #expect(harness.answers.last?.failure == nil && harness.readsServedByTarget == 1)
    }

    @Test func endsWhenThePairLeavesSynchronized() {
        let harness = harness()
        _ = begin(harness)
        harness.ask(.suspend)
        #expect(ends(harness) == [.leftSynchronized(.suspended)])
        harness.completeAll()
        #expect(harness.isIdle && ends(harness).count == 1)
    }

    @Test func isCancelledAndBegunAgainWhileOldReadsAreInFlight() {
        let harness = harness()
        _ = begin(harness)
        let isCancelled = harness.machine.cancelVerify(0)
        harness.settle()
        #expect(isCancelled && ends(harness) == [.cancelled])
        #expect(begin(harness) == nil)
        #expect(harness.operations.count == 2, "no more reads than two, old ones among them")
        runToTheEnd(harness)
        #expect(ends(harness) == [.cancelled, nil] && harness.isIdle)
        let again = harness.machine.cancelVerify(0)
        #expect(!again)
    }

    @Test func aFailedReadEndsItWithTheSide() {
        let harness = harness()
        _ = begin(harness, extent(0, 256))
        harness.complete(leg: 0)
        harness.complete(leg: 1, .inputOutput)
        #expect(ends(harness) == [.targetReadFailed(.inputOutput, extent(0, 256))])
        #expect(harness.state == .synchronized && harness.isIdle)
    }

    /// A verify holds a lock that hosts wait for, and its target hangs: they go on after the time limit.
    @Test func aTargetThatHangsUnderTheLockHoldsNobodyUp() {
        let harness = harness()
        _ = begin(harness, extent(0, 256))
        harness.complete(leg: 0)
        harness.complete(leg: 1, isMatch: false)
        harness.complete(leg: 0)
        _ = harness.request(.write, 1, at: 0)
        #expect(harness.operations.map(\.kind) == [.readAndCompare])
        harness.machine.advance(to: Instant(nanoseconds: 31_000_000_000))
        harness.machine.tick()
        harness.settle()
        #expect(harness.state == .broken && ends(harness) == [.leftSynchronized(.broken)])
        harness.complete(leg: 0)
        #expect(harness.answers.map(\.failure) == [nil])
        harness.completeAll()
        #expect(harness.isIdle)
    }

    @Test func restsWhileTheGateIsClosedAndGoesOnAfterwards() {
        let harness = harness()
        harness.grantsBuffers = false
        _ = begin(harness)
        harness.grantsBuffers = true
        harness.ask(.reverseRoles)
        harness.completeAll()
        #expect(harness.swapped == [0] && harness.state == .synchronized)
        runToTheEnd(harness)
        #expect(ends(harness).last == .some(nil))
        #expect(harness.machine.verifyCounts(0).doneByteCount == MachineHarness.volumeByteCount)
    }

    @Test func marksAreInTheBitmapsOfAPairThatIsClosed() {
        let harness = marked([Extent(offset: 8192, length: 512)])
        let isMarked = harness.machine.withPair(0) {
            $0.targetChanged.isDirty(touching: Extent(offset: 8192, length: 512))
        }
        #expect(isMarked == true)
        harness.machine.close()
        harness.settle()
        harness.completeAll()
        #expect(harness.isClosed)
        #expect(harness.records.last?.record.isClosedCleanly == true)
        #expect(harness.records.last?.record.mapTrust == .exact)
    }

    @Test func aPairThatWasClosedWithMarksHasThemAgain() {
        let harness = MachineHarness()
        var record = PairRecord(
            sequence: 7,
            pair: PairID(high: 1, low: 1),
            volumeByteCount: MachineHarness.volumeByteCount,
            copyState: CopyState.synchronized.rawValue,
            isClosedCleanly: true
        )
        record.mapTrust = .exact
        record.granuleShift = 12
        var maps = RecoveredMaps.unknown(because: nil)
        maps.trust = .exact
        maps.targetChanged = [1 << 5]
        _ = harness.machine.addPair(record, maps, isNew: false, settings: PairSettings(granuleByteCount: 4096))
        harness.settle()
        #expect(harness.state == .synchronized && harness.dirtyByteCount == 0)
        let byteCount = harness.machine.withPair(0) { $0.verifyMarkedByteCount }
        #expect(byteCount == 4096)
    }

    @Test func closingEndsIt() {
        let harness = harness()
        _ = begin(harness)
        harness.machine.close()
        harness.settle()
        #expect(ends(harness) == [.closing])
        harness.completeAll()
        #expect(harness.isClosed)
    }

    @Test func detachingEndsIt() {
        let harness = harness()
        _ = begin(harness)
        harness.machine.detachPair(0)
        harness.settle()
        #expect(ends(harness) == [.detached] && harness.detached.isEmpty)
        harness.completeAll()
        #expect(harness.detached == [0] && harness.isIdle)
    }
}
