import RepldControl
import RepldControlAPI
import RepldPair
import Testing

@Suite struct PlanTests {
    private let pair = PairWords(name: "m1", sourcePath: "/dev/a", targetPath: "/dev/b", byteCount: 1 << 20)

    private func facts(_ state: CopyState) -> PairFacts {
        PairFacts(
            copyState: state,
            isTargetConsistent: true,
            isSourceAhead: true,
            changedByteCount: 128 << 10,
            targetChangedByteCount: 64 << 10,
            differingByteCount: 192 << 10,
            volumeClientCount: 2,
            targetClientCount: 3
        )
    }

    /// The plan of every operation in every state is what the table would say, without a word about what is refused.
    @Test(arguments: CopyStateSet.all.states, ReplicationOperation.allCases)
    func agreesWithTheTable(state: CopyState, operation: ReplicationOperation) {
        let facts = facts(state)
        let plan = OperationPlan.plan(operation, facts, pair)
        #expect(plan.copyState == Enumerated(state))
        switch OperationTable.verdict(operation, facts, isForced: false) {
        case .accepted(let result):
            #expect(plan.verdict == .accepted && plan.reason == nil && plan.bytesAtStake == nil)
            let isEnd = operation == .detach || operation == .dissolve
            #expect(plan.resultingCopyState == (isEnd ? nil : Enumerated(result ?? state)))
        case .holds:
            #expect(plan.verdict == .alreadyHolds && plan.resultingCopyState == Enumerated(state))
            #expect(plan.overwritten.isEmpty && plan.byteCountToCopy == 0 && !plan.startsJob)
        case .needsForce:
            #expect(plan.verdict == .needsForce && plan.reason != nil)
            #expect(plan.startsJob == OperationTable.rule(of: operation).startsJob)
        case .refused:
            #expect(plan.verdict == .refused && plan.reason != nil && plan.resultingCopyState == nil)
            #expect(plan.overwritten.isEmpty && plan.byteCountToCopy == 0 && plan.clientsDisconnected == 0)
        }
        // The element that is copied from is never the one that is overwritten.
        #expect(plan.overwritten.count <= 1)
        #expect(plan.overwritten.isEmpty || plan.byteCountToCopy > 0)
    }

    @Test func saysWhichSideIsOverwritten() {
        let resync = OperationPlan.plan(.resyncReplica, facts(.fractured), pair)
        #expect(resync.overwritten == [.init(role: "target", path: "/dev/b", byteCount: 192 << 10)])
        #expect(resync.clientsDisconnected == 3)
        let restore = OperationPlan.plan(.restoreFromReplica, facts(.split), pair)
        #expect(restore.overwritten == [.init(role: "source", path: "/dev/a", byteCount: 192 << 10)])
        #expect(restore.resultingCopyState == Enumerated(CopyState.restored))
        let failback = OperationPlan.plan(.failback, facts(.failedover), pair)
        #expect(failback.verdict == .needsForce && failback.bytesAtStake == 128 << 10)
        #expect(failback.overwritten.map(\.path) == ["/dev/a"])
    }

    @Test func saysWhoIsDisconnected() {
        #expect(OperationPlan.plan(.reverseRoles, facts(.split), pair).clientsDisconnected == 5)
        #expect(OperationPlan.plan(.detach, facts(.split), pair).clientsDisconnected == 3)
        #expect(OperationPlan.plan(.resetToAsync, facts(.split), pair).clientsDisconnected == 0)
        #expect(OperationPlan.plan(.suspend, facts(.synchronized), pair).clientsDisconnected == 0)
    }

    @Test func aSplitThatWaitsCopiesFirst() {
        #expect(OperationPlan.plan(.split, facts(.synchronized), pair).byteCountToCopy == 0)
        #expect(OperationPlan.plan(.split, facts(.unsynchronized), pair).byteCountToCopy == 192 << 10)
    }

    @Test func isAnsweredAndNothingIsDone() async throws {
        let fixture = try await ServiceFixture.paired()
        fixture.plane.become(.synchronized)
        let calls = fixture.plane.calls
        let before = try await fixture.pair().revision
        let request = SetReplicationRelationshipRequest(operation: .name("Suspend"), plan: true)
        let reply = try await fixture.service.setReplicationRelationship(pair: "m1", request)
        #expect(reply.plan?.resultingCopyState == Enumerated(CopyState.suspended))
        #expect(fixture.plane.calls == calls)
        #expect(try await fixture.pair().revision == before)
    }
}

@Suite struct CapabilityTests {
    @Test func theWholeTableIsThere() throws {
        let reply = CapabilitiesReply()
        #expect(reply.operations.map(\.operation.number) == Array(2...27))
        #expect(reply.copyStates.map(\.number) == [2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 16, 17, 18])
        let resync = try #require(reply.operations.first { $0.operation.name == "ResyncReplica" })
        #expect(resync.edges.count == 3 && resync.edges[2].requiresForce)
        #expect(reply.operations.filter { !$0.isSupported }.map(\.operation.number) == [3, 5, 6, 13, 19, 25, 26, 27])
    }

    /// The two questions are one: an operation is accepted in a state if and only if the state is one of the operation's.
    @Test(arguments: CopyStateSet.all.states)
    func bothQuestionsHaveOneAnswer(state: CopyState) {
        let accepted = Set(SupportedOperationsReply(state).operations.map(\.operation))
        for operation in ReplicationOperation.allCases {
            let states = SupportedCopyStatesReply(operation).copyStates
            #expect(states.contains { $0.copyState == Enumerated(state) } == accepted.contains(Enumerated(operation)))
        }
        let isAccessible = SupportedCopyStatesReply(.detach).copyStates.first { $0.copyState == Enumerated(state) }
        #expect(isAccessible?.hostAccessible == [.fractured, .split, .failedover].contains(state))
    }

    @Test func onePairSaysWhy() async throws {
        let fixture = try await ServiceFixture.paired()
        fixture.plane.become(.suspended)
        fixture.plane.setFacts { facts in
            (facts.isTargetConsistent, facts.changedByteCount) = (true, 4096)
        }
        let reply = try await fixture.service.operations(ofPair: "m1")
        let byName = Dictionary(uniqueKeysWithValues: reply.operations.map { ($0.operation.name, $0) })
        #expect(byName["Resume"]?.verdict == .accepted)
        #expect(byName["Suspend"]?.verdict == .alreadyHolds)
        #expect(byName["Failover"]?.verdict == .needsForce)
        #expect(byName["Failover"]?.reason?.contains("4KiB") == true)
        #expect(byName["Activate"]?.verdict == .refused)
        #expect(byName["Activate"]?.reason?.contains("not accepted in state Suspended") == true)
    }
}
