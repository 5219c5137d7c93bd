import Foundation
import RepldControl
import RepldControlAPI
import RepldEngine
import RepldPair
import Testing

/// The service's answers are the table's, in every state.
@Suite struct VerdictTests {
    /// Those that end the pair have tests of their own.
    private static var operations: [ReplicationOperation] {
        OperationTable.rules.filter { $0.support == .mirror }.map(\.operation).filter {
            $0 != .detach && $0 != .dissolve
        }
    }

    /// Facts that make every condition of the table tell: nothing is certain, everything is at stake.
    private func doubtful(_ facts: inout PairFacts, _ state: CopyState) {
        facts = PairFacts(
            copyState: state,
            isTargetConsistent: true,
            isSourceAhead: true,
            changedByteCount: 128 << 10,
            targetChangedByteCount: 64 << 10,
            differingByteCount: 192 << 10
        )
    }

    @Test(arguments: CopyStateSet.all.states)
    func answersAsTheTableSays(state: CopyState) async throws {
        let fixture = try await ServiceFixture.paired(activates: false)
        for operation in Self.operations {
            for isForced in [false, true] {
                fixture.plane.setFacts { doubtful(&$0, state) }
                let before = fixture.plane.calls.count
                var facts = PairFacts(copyState: state)
                doubtful(&facts, state)
                let verdict = OperationTable.verdict(operation, facts, isForced: isForced)
                let code = Int(operation.rawValue)
                switch verdict {
                case .accepted:
                    let reply = try await fixture.set(.number(code), force: isForced)
                    let isJob = OperationTable.rule(of: operation).startsJob
                    #expect(reply.returnCode == Enumerated(isJob ? ReturnCode.jobStarted : .success))
                    #expect((reply.job != nil) == isJob)
                case .holds:
                    #expect(try await fixture.set(.number(code), force: isForced) == MethodReply(returnCode: .success))
                    #expect(fixture.plane.calls.count == before)
                case .needsForce, .refused:
                    let error = await refusal { try await fixture.set(.number(code), force: isForced) }
                    #expect(error?.code.returnCode == .failed, "\(operation) in \(state)")
                    #expect(error?.status.copyState == Enumerated(state))
                    #expect(error?.status.acceptedFrom?.isEmpty == false)
                    #expect(error?.message.contains("m1") == true)
                    #expect(fixture.plane.calls.count == before)
                }
            }
        }
    }

    @Test func aRefusalOfTheDataPlaneHasTheTablesWordsAndEndsTheJob() async throws {
        let fixture = try await ServiceFixture.paired(activates: false)
        let facts = PairFacts(copyState: .failedover)
        fixture.plane.refuseNext(.operationRefused(.refused(.state), facts))
        let error = await refusal { try await fixture.set(.name("Activate")) }
        #expect(error?.code == .notInThisState)
        #expect(error?.status.copyState == Enumerated(CopyState.failedover))
        let job = try #require(try await fixture.service.jobList().first)
        #expect(job.state == Enumerated(JobState.exception))
        #expect(job.errorCode == ReturnCode.failed.rawValue)
        #expect(job.errorDescription?.contains("not accepted in state Failedover") == true)
    }

    @Test func theModeIsKeptAndTheLocalTargetIsTold() async throws {
        let fixture = try await ServiceFixture.paired()
        let reply = try await fixture.set(.name("reset-to-async"))
        #expect(reply.returnCode == Enumerated(ReturnCode.success))
        #expect(reply.extendedStatus?.message.contains("the target is local") == true)
        #expect(try await fixture.pair().mode == Enumerated(ReplicationMode.asynchronous))
        let after = try fixture.afterKill()
        try await after.service.start()
        #expect(try await after.pair().mode == Enumerated(ReplicationMode.asynchronous))
        _ = try await after.set(.number(17))
        #expect(try await after.pair().mode == Enumerated(ReplicationMode.synchronous))
    }
}

/// What a refusal says, and what it suggests.
@Suite struct OperationWordsTests {
    private let pair = PairWords(name: "m1", sourcePath: "/dev/a", targetPath: "/dev/b", byteCount: 1 << 20)

    private func refusal(_ operation: ReplicationOperation, _ facts: PairFacts) -> ControlError? {
        let verdict = OperationTable.verdict(operation, facts, isForced: false)
        return OperationWords.refusal(of: operation, verdict, facts, pair)
    }

    @Test func everyForceReasonSaysHowMuchAndWhere() throws {
        var facts = PairFacts(copyState: .suspended, isTargetConsistent: true, changedByteCount: 65536)
        let lacks = try #require(refusal(.failover, facts))
        #expect(lacks.code == .needsForce)
        #expect(lacks.status.bytesAtStake == 65536)
        #expect(
            lacks.message.contains("the target /dev/b lacks up to 64KiB (65536 bytes) that hosts were told are written")
        )
        facts = PairFacts(copyState: .failedover, isSourceAhead: true, changedByteCount: 4096)
        let ahead = try #require(refusal(.failback, facts))
        #expect(
            ahead.message.contains("the source /dev/a has up to 4KiB (4096 bytes) of changes that the target never had")
        )
        facts = PairFacts(copyState: .synchronized, isTargetConsistent: true)
        #expect(refusal(.prepare, facts)?.status.bytesAtStake == 1 << 20)
        facts = PairFacts(copyState: .invalid, differingByteCount: 512)
        #expect(refusal(.resyncReplica, facts)?.message.contains("512 bytes on the target /dev/b") == true)
        #expect(refusal(.restoreFromReplica, facts)?.message.contains("512 bytes on the source /dev/a") == true)
        facts = PairFacts(copyState: .fractured, operation: .restoreFromReplica, differingByteCount: 1024)
        #expect(
            refusal(.abort, facts)?.message.contains("the source /dev/a is left half overwritten, up to 1KiB") == true
        )
        facts = PairFacts(copyState: .split, isTargetConsistent: true, volumeClientCount: 1, targetClientCount: 2)
        #expect(refusal(.reverseRoles, facts)?.message.contains("3 clients are connected") == true)
    }

    @Test func whatForceDoesNotHelpIsTold() {
        var facts = PairFacts(copyState: .suspended, differingByteCount: 4096)
        let unusable = refusal(.failover, facts)
        #expect(unusable?.code == .targetNotUsable)
        #expect(unusable?.status.suggestedOperation == Enumerated(ReplicationOperation.resume))
        facts = PairFacts(copyState: .synchronized, isTargetConsistent: true, doesOtherPairFlow: true)
        #expect(refusal(.failover, facts)?.code == .otherPairFlows)
        facts = PairFacts(copyState: .failedover, operation: .failback)
        #expect(refusal(.suspend, facts)?.message.contains("Failback is under way") == true)
    }

    /// From, wanted, and the operation that would get there.
    @Test(
        arguments: [
            (CopyState.suspended, ReplicationOperation.activate, ReplicationOperation.resume as ReplicationOperation?),
            (.fractured, .resume, .resyncReplica), (.initialized, .resyncReplica, .activate),
            (.synchronized, .restoreFromReplica, .split), (.unsynchronized, .failover, .split),
            (.broken, .split, .resyncReplica), (.suspended, .split, .resume), (.failedover, .fracture, .failback),
            (.unsynchronized, .failback, nil), (.synchronized, .addSyncPair, nil),
        ]
    )
    func suggestsWhatGetsThere(
        state: CopyState,
        wanted: ReplicationOperation,
        suggested: ReplicationOperation?
    ) {
        let isConsistent = state == .synchronized
        #expect(
            OperationWords.suggestion(for: wanted, PairFacts(copyState: state, isTargetConsistent: isConsistent))
                == suggested
        )
    }

    /// Whatever is suggested is accepted without force, and never gives anything up.
    @Test(arguments: CopyStateSet.all.states, ReplicationOperation.allCases)
    func aSuggestionIsAccepted(state: CopyState, wanted: ReplicationOperation) {
        for isConsistent in [false, true] {
            let facts = PairFacts(copyState: state, isTargetConsistent: isConsistent, changedByteCount: 4096)
            guard let suggested = OperationWords.suggestion(for: wanted, facts) else { continue }
            guard case .accepted = OperationTable.verdict(suggested, facts, isForced: false) else {
                Issue.record("\(suggested) is not accepted in \(state)")
                continue
            }
            #expect(![.abort, .prepare, .unprepare, .detach, .dissolve].contains(suggested))
        }
    }
}
