import RepldCore
import RepldFormat
import RepldPair
import Testing

/// Hosts that would go on with other data, requests that nobody can carry out any more, and images that must not be lost.
@Suite struct TurningAwayTests {
    private func inSync() -> MachineHarness {
        let harness = MachineHarness()
        _ = harness.addSynchronizedPair(PairSettings(granuleByteCount: 4096, targetTimeoutNanoseconds: 1_000_000))
        return harness
    }

    @Test func losslessFailoverKeepsItsHosts() {
        let harness = inSync()
        harness.ask(.failover)
        _ = harness.request(.write, 1)
        #expect(harness.answers.isEmpty, "the gate is closed")
        harness.completeAll()
        #expect(harness.state == .failedover && harness.disconnections == 0)
        #expect(harness.answers.map(\.request) == [1] && harness.answers[0].failure == nil)
    }

    @Test func lossyFailoverDisconnectsItsHostsAndCarriesOutNothingOfTheirs() {
        let harness = inSync()
        harness.ask(.suspend)
        _ = harness.request(.write, 1)
        harness.completeAll()
        #expect(harness.ask(.failover) == .needsForce(.targetLacksWrites(byteCount: 4096)))
        harness.ask(.failover, isForced: true)
        _ = harness.request(.write, 2, at: 8192)
        harness.completeAll()
        #expect(harness.state == .failedover && harness.disconnections == 1)
        #expect(harness.answers.map(\.request) == [1, 2] && harness.answers[1].failure == .cancelled)
        #expect(!harness.performed.contains { $0.buffer == BufferID(rawValue: 2) }, "it never reached the target")
        _ = harness.request(.write, 3)
        harness.completeAll()
        #expect(harness.answers.last?.request == 3 && harness.answers.last?.failure == nil)
    }

    @Test func splitThatTheSourceHasLeftBehindNeedsForce() {
        let harness = inSync()
        harness.ask(.split)
        harness.completeAll()
        #expect(harness.state == .split)
        _ = harness.request(.write, 1)
        harness.completeAll()
        #expect(harness.ask(.failover) == .needsForce(.targetLacksWrites(byteCount: 4096)))
    }

    @Test func abortedRestoreLeavesAWholeTargetThatIsOverwrittenOnlyByForce() {
        let harness = inSync()
        harness.ask(.split)
        harness.completeAll()
        _ = harness.request(.write, 1)
        harness.completeAll()
        harness.grantsBuffers = false
        harness.ask(.restoreFromReplica)
        harness.completeAll()
        #expect(harness.swapped == [0])
        harness.ask(.abort, isForced: true)
        harness.completeAll()
        #expect(harness.state == .aborted && harness.swapped == [0, 0])
        #expect(harness.ask(.resyncReplica) == .needsForce(.sourceInconsistent))
        #expect(harness.ask(.prepare) == .needsForce(.sourceInconsistent))
        harness.grantsBuffers = true
        #expect(harness.ask(.restoreFromReplica) == .accepted(to: .restored))
        harness.completeAll()
        #expect(harness.state == .restored)
    }

    @Test func hungTargetOfItsOwnHostsDoesNotKeepTheVolumeFromClosing() {
        let harness = inSync()
        harness.ask(.split)
        harness.completeAll()
        _ = harness.request(.write, 1, side: 1)
        _ = harness.request(.write, 2, side: 1)
        harness.machine.close()
        harness.settle()
        #expect(!harness.isClosed)
        harness.machine.advance(to: Instant(nanoseconds: 2_000_000))
        harness.machine.tick()
        harness.settle()
        let answers = harness.answers.sorted { $0.request < $1.request }
        #expect(answers.map(\.failure) == [.timedOut, .cancelled], "the second waited for the first")
        harness.complete(leg: 0)
        // The closing flush of the target hangs as well.
        harness.machine.advance(to: Instant(nanoseconds: 4_000_000))
        harness.machine.tick()
        harness.settle()
        #expect(harness.isClosed)
        #expect(harness.records.last?.record.isClosedCleanly == false, "a stuck write may still change the target")
    }

    @Test func failoverIsRefusedWhileItCouldNotBeRecorded() {
        let harness = inSync()
        harness.writesRecords = false
        harness.ask(.suspend)
        harness.machine.advance(to: Instant(nanoseconds: 2_000_000))
        harness.machine.tick()
        harness.settle()
        #expect(harness.ended.map(\.failure) == [.recordFailed(.timedOut)])
        #expect(harness.ask(.failover) == .refused(.metadataStuck))
        // It would make the target an image that is half copied, which has to be durable: hosts could not write meanwhile.
        #expect(harness.ask(.resume) == .refused(.metadataStuck))
        #expect(harness.request(.write, 1))
        harness.complete(leg: 0)
        #expect(harness.answers.map(\.failure) == [nil], "what is refused does not touch the hosts")
        harness.writesRecords = true
        harness.machine.recordWritten(pair: 0, nil)
        harness.settle()
        #expect(harness.ask(.failover, isForced: true) == .accepted(to: .failedover))
    }
}
