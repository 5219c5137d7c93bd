import Foundation
import RepldControl
import RepldControlAPI
import RepldPair
import Testing

@Suite struct OperationTests {
    @Test(arguments: ["Suspend", "suspend", "SUSPEND", "22"])
    func takesNumbersAndNames(operation: String) async throws {
        let fixture = try await ServiceFixture.paired()
        #expect(try await fixture.set(.name(operation)) == MethodReply(returnCode: .success))
        #expect(try await fixture.pair().copyState == Enumerated(CopyState.suspended))
    }

    /// Codes outside the table, and those of groups, snapshots and later versions.
    @Test(arguments: [-1, 0, 1, 28, 40, 255, 65536], [3, 5, 6, 13, 19, 25, 26, 27])
    func everyOtherCodeHasItsAnswer(unknown: Int, unsupported: Int) async throws {
        let fixture = try await ServiceFixture.paired()
        let error = await refusal { try await fixture.set(.number(unknown)) }
        #expect(error?.code.returnCode == .invalidParameter)
        let known = await refusal { try await fixture.set(.number(unsupported), force: true) }
        #expect(known?.code.returnCode == .notSupported)
        let words = ReplicationOperation(rawValue: UInt8(unsupported)).map { OperationTable.rule(of: $0).support.words }
        #expect(known?.message.hasSuffix(try #require(words)) == true)
    }

    @Test func whatAlreadyHoldsIsAcceptedAndDoesNothing() async throws {
        let fixture = try await ServiceFixture.paired()
        fixture.plane.become(.synchronized)
        let calls = fixture.plane.calls
        for operation in ["Activate", "ResyncReplica", "Resume"] {
            #expect(try await fixture.set(.name(operation)) == MethodReply(returnCode: .success))
        }
        #expect(fixture.plane.calls == calls)
    }

    /// From, operation, and what comes of it: nil is accepted, a state is the operation suggested instead.
    @Test(
        arguments: [
            (CopyState.suspended, "Resume", nil as ReplicationOperation?), (.broken, "ResyncReplica", nil),
            (.suspended, "Activate", .resume), (.suspended, "ResyncReplica", .resume),
            (.broken, "Resume", .resyncReplica),
            (.broken, "Activate", .resyncReplica),
        ]
    )
    func followsTheTable(state: CopyState, operation: String, suggested: ReplicationOperation?) async throws {
        let fixture = try await ServiceFixture.paired()
        fixture.plane.become(state, .dormant)
        guard let suggested else {
            let reply = try await fixture.set(.name(operation))
            #expect(reply.returnCode == Enumerated(ReturnCode.jobStarted))
            #expect(reply.job?.hasPrefix("m1.") == true)
            return
        }
        let error = await refusal { try await fixture.set(.name(operation)) }
        #expect(error?.code == .notInThisState)
        #expect(error?.status.suggestedOperation == Enumerated(suggested))
        #expect(error?.status.copyState == Enumerated(state))
        #expect(error?.status.acceptedFrom?.isEmpty == false)
    }

    @Test func aDetachThatLosesSomethingNeedsForce() async throws {
        let fixture = try await ServiceFixture.paired()
        fixture.plane.progress(done: 256 << 10)
        let error = await refusal { try await fixture.set(.name("Detach")) }
        #expect(error?.code == .needsForce)
        #expect(error?.status.bytesAtStake == 768 << 10)
        #expect(try await fixture.set(.name("Detach"), force: true).returnCode == Enumerated(ReturnCode.success))
        #expect(try await fixture.service.pairList().isEmpty)
        let left = try FileManager.default.contentsOfDirectory(atPath: fixture.directory.file("state/pairs"))
        #expect(left.isEmpty)
    }

    @Test func oneOperationAtATime() async throws {
        let fixture = try await ServiceFixture.paired()
        fixture.plane.become(.suspended, .dormant)
        fixture.plane.hold()
        async let first = fixture.set(.name("Resume"))
        while !fixture.plane.isHeld { await Task.yield() }
        let error = await refusal { try await fixture.set(.name("Detach"), force: true) }
        #expect(error?.code == .operationInProgress)
        #expect(error?.message == "'Detach' on pair m1 has to wait: 'Resume' is under way on it")
        fixture.plane.release()
        #expect(try await first.returnCode == Enumerated(ReturnCode.jobStarted))
        #expect(try await fixture.set(.name("Suspend")).returnCode == Enumerated(ReturnCode.success))
    }

    @Test func aRevisionThatIsOldIsRefused() async throws {
        let fixture = try await ServiceFixture.paired()
        let old = try await fixture.pair().revision
        _ = try await fixture.set(.name("Suspend"), revision: old)
        let error = await refusal { try await fixture.set(.name("Resume"), revision: old) }
        #expect(error?.code.returnCode == .cacheOutOfDate)
        let current = try #require(error?.status.revision)
        #expect(current > old)
        _ = try await fixture.set(.name("Resume"), revision: current)
    }

    @Test func waitsForTheState() async throws {
        let fixture = try await ServiceFixture.paired()
        let follower = Task { await fixture.service.followDataPlane() }
        async let waiting = fixture.set(.name("Activate"), wait: .name("synchronized"))
        fixture.plane.become(.synchronized)
        #expect(try await waiting.returnCode == Enumerated(ReturnCode.success))
        await fixture.service.stop()
        await follower.value
    }

    @Test func aWaitEndsWhereTheStateCannotFollow() async throws {
        let fixture = try await ServiceFixture.paired()
        let follower = Task { await fixture.service.followDataPlane() }
        fixture.plane.become(.suspended, .dormant)
        async let waiting = refusal { try await fixture.set(.name("Resume"), wait: .number(4)) }
        while fixture.plane.calls.count(where: { $0 == .operate(.resume) }) < 1 { await Task.yield() }
        while try await fixture.pair().copyState != Enumerated(CopyState.unsynchronized) { await Task.yield() }
        fixture.plane.become(.broken, .dormant, reason: "the target is gone")
        let error = await waiting
        #expect(error?.code == .copyStateNotReached)
        #expect(error?.message.hasSuffix("the target is gone") == true)
        await fixture.service.stop()
        await follower.value
    }

    @Test func aWaitThatRunsOutLeavesTheJob() async throws {
        let fixture = try await ServiceFixture.paired()
        _ = try await fixture.set(.name("Suspend"))
        let error = await refusal { try await fixture.set(.name("Resume"), wait: .name("Synchronized"), timeout: 0) }
        #expect(error?.code.returnCode == .timeout)
        #expect(error?.job != nil)
        #expect(try await fixture.pair().job?.state == Enumerated(JobState.running))
    }

    @Test func eventsTellWhatHappenedAndEndTheJob() async throws {
        let fixture = try await ServiceFixture.paired()
        let follower = Task { await fixture.service.followDataPlane() }
        let before = try await fixture.pair().revision
        fixture.plane.become(.synchronized)
        await fixture.service.stop()
        await follower.value
        let events = await fixture.service.events(after: 0)
        #expect(events.map(\.sequence) == Array(1...UInt64(events.count)))
        #expect(events.suffix(3).map(\.kind) == ["copy-state-changed", "operation-ended", "job-ended"])
        let words = ["Unsynchronized -> Synchronized", "Activate is done", "job m1.1 (Activate) is Completed"]
        #expect(events.suffix(3).map(\.message) == words)
        let pair = try await fixture.pair()
        #expect(pair.job?.state == Enumerated(JobState.completed))
        #expect(pair.revision > before)
    }
}

@Suite struct EventLogTests {
    private func event(_ kind: String) -> EventReply {
        EventReply(sequence: 0, time: Date(timeIntervalSince1970: 0), kind: kind, message: "")
    }

    @Test func keepsTheNewestInOrder() {
        var log = EventLog()
        for _ in 0..<EventLog.capacity + 10 { log.append(event("a")) }
        let kept = log.events(after: 0).map(\.sequence)
        #expect(kept == Array(11...UInt64(EventLog.capacity + 10)))
        #expect(log.events(after: log.newest).isEmpty)
        #expect(log.events(after: log.newest - 1).count == 1)
        #expect(log.events(after: log.newest + 1).count == EventLog.capacity)
    }

    @Test func wakesItsFollowers() async {
        var log = EventLog()
        let wakeups = log.subscribe()
        log.append(event("a"))
        log.append(event("b"))
        log.finish()
        var count = 0
        for await _ in wakeups.stream { count += 1 }
        #expect(count == 1)
    }
}
