import RepldCore
import RepldFormat
import RepldPair
import Testing

/// A metadata area that hangs: hosts wait for it no longer than for a target.
@Suite("A record that does not come back") struct StuckRecordTests {
    private let limit = PairSettings().targetTimeoutNanoseconds

    private func wait(_ harness: MachineHarness, nanoseconds: UInt64) {
        harness.machine.advance(to: Instant(nanoseconds: nanoseconds))
        harness.machine.tick()
        harness.settle()
    }

    @Test("does not hold a write for ever, where a restart would compare everything anyway")
    func goesOn() throws {
        let harness = MachineHarness()
        _ = harness.addSynchronizedPair()
        harness.writesRecords = false
        #expect(harness.request(.write, 1))
        harness.complete(leg: 1, .inputOutput)
        harness.complete(leg: 0)
        #expect(harness.answers.isEmpty, "the answer waits for the record of the break")
        wait(harness, nanoseconds: limit / 2)
        #expect(harness.answers.isEmpty)
        wait(harness, nanoseconds: limit + 1)
        #expect(harness.answers.map(\.request) == [1] && harness.answers[0].failure == nil)
        #expect(harness.request(.write, 2))
        harness.complete(leg: 0)
        #expect(harness.answers.map(\.request) == [1, 2])
        // What comes back late may say what is no longer true: the present state is recorded again.
        let before = harness.records.count
        harness.writesRecords = true
        harness.machine.recordWritten(pair: 0, nil)
        harness.settle()
        #expect(harness.records.count > before)
        #expect(harness.records.last?.record.copyState == CopyState.broken.rawValue)
    }

    @Test("refuses writes while a start could take the wrong element for the newer one")
    func refuses() throws {
        let harness = MachineHarness()
        _ = harness.addSynchronizedPair()
        harness.writesRecords = false
        #expect(harness.ask(.failover) == .accepted(to: .failedover))
        harness.completeAll()
        #expect(harness.state == .failedover)
        #expect(harness.request(.write, 1))
        #expect(harness.operations.isEmpty, "the write waits")
        wait(harness, nanoseconds: limit + 1)
        #expect(harness.answers.map(\.failure) == [.inputOutput])
        #expect(harness.ended.map(\.failure) == [.recordFailed(.timedOut)])
        harness.writesRecords = true
        harness.machine.recordWritten(pair: 0, nil)
        harness.settle()
        #expect(harness.request(.write, 2))
        harness.completeAll()
        #expect(harness.answers.last?.request == 2 && harness.answers.last?.failure == nil)
    }
}
