import RepldCore
import RepldFormat
import Testing

@testable import RepldPair

/// Stories of operations that meet crashes, errors, hosts and each other; most were found by the search.
@Suite struct OperationScenarioTests {
    private func ask(_ operation: ReplicationOperation, _ pair: Int = 0, isForced: Bool = false) -> WorldEvent {
        .operate(pair, operation, isForced: isForced)
    }

    private func world(_ events: [WorldEvent], pairCount: Int = 1, writesRecordsAtOnce: Bool = true) -> PairWorld {
        var shape = PairWorld.Shape()
        shape.pairCount = pairCount
        shape.writesRecordsAtOnce = writesRecordsAtOnce
        let world = PairWorld(shape)
        for event in events { expect(event, in: world) }
        return world
    }

    private func expect(_ event: WorldEvent, in world: PairWorld) {
        let isDone = world.apply(event)
        #expect(isDone, "\(event)")
        world.check()
        #expect(world.violation == nil, "\(event)")
    }

    private var inSync: [WorldEvent] { [ask(.activate), .playOut] }
    private let kill = WorldEvent.crash([.kept, .kept], isRecordWritten: false)

    private func verdict(
        _ operation: ReplicationOperation,
        _ world: PairWorld,
        _ pair: Int = 0,
        isForced: Bool = false
    ) -> OperationVerdict {
        OperationTable.verdict(operation, world.machine.facts(of: pair), isForced: isForced)
    }

    /// After a kill nobody knows what the old source lacks of what hosts wrote since the failover.
    @Test(arguments: [ReplicationOperation.reverseRoles, .failover])
    func reversalAfterAKillLeavesATargetThatNeedsForceToServe(operation: ReplicationOperation) {
        let world = world(
            inSync + [ask(.failover), .playOut, .write(0), .playOut, kill, .playOut, ask(.reverseRoles), .playOut]
        )
        #expect(world.machine.pairs[0].copyState == .suspended)
        #expect(verdict(operation, world) == .needsForce(.targetLacksWrites(byteCount: 8192)))
    }

    @Test func restoreThatIsAbortedBeforeItBeganDoesNotBegin() {
        let world = world(inSync + [ask(.suspend), .playOut, .read(1), ask(.restoreFromReplica)])
        expect(ask(.abort, isForced: true), in: world)
        #expect(world.machine.pairs[0].copyState == .aborted)
        expect(.playOut, in: world)
        #expect(world.machine.pairs[0].copyState == .aborted && world.places == [0, 1])
    }

    /// The write is marked when it is issued; until then it counts by itself.
    @Test func writeThatWaitsForARecordIsCountedAmongWhatTheTargetLacks() {
        let start = inSync + [.flush, .end(element: 1, nth: 0, .failed), .write(0)]
        let world = world([], writesRecordsAtOnce: false)
        for event in [.record(pair: 0, isWritten: true)] + start { expect(event, in: world) }
        #expect(world.machine.pairs[0].copyState == .broken)
        #expect(verdict(.failover, world) == .needsForce(.targetLacksWrites(byteCount: 4096)))
    }

    @Test func restoreGoesOnWhenAWriteFailsWhileItsLastGateDrains() {
        let world = world(inSync + [ask(.suspend), .playOut, ask(.restoreFromReplica)])
        // The two flushes of the first gate; nothing differs, so that the last gate follows at once.
        expect(.write(0), in: world)
        expect(.end(element: 0, nth: 0, .done), in: world)
        expect(.end(element: 1, nth: 0, .done), in: world)
        for _ in 0..<4 where world.machine.gate.isClosed == false { expect(.tick, in: world) }
        while let failing = world.inFlight.firstIndex(where: { $0.operation.kind == .write && $0.element == 1 }) {
            world.end(failing, .failed)
            world.settle()
        }
        expect(.playOut, in: world)
        #expect(world.machine.pairs[0].copyState == .restored && world.places == [0, 1])
    }

    @Test func restoreServesTheTargetAtOnceWritesToBothAndGoesOnAfterAKill() {
        let world = world(inSync + [ask(.suspend), .playOut, .write(0), .write(1), .playOut, ask(.restoreFromReplica)])
        expect(.end(element: 0, nth: 0, .done), in: world)
        expect(.end(element: 1, nth: 0, .done), in: world)
        #expect(world.places == [1, 0])
        expect(.write(1), in: world)
        let written = world.inFlight.filter { $0.operation.kind == .write && !$0.isCopy }.map(\.element)
        #expect(written.sorted() == [0, 1])
        expect(kill, in: world)
        #expect(world.machine.pairs[0].operation == .restoreFromReplica && world.places == [1, 0])
        expect(.playOut, in: world)
        #expect(world.machine.pairs[0].copyState == .restored && world.places == [0, 1])
    }

    @Test func sourceThatFailsDuringARestoreLeavesItFailedoverAndFailbackEndsIt() {
        let world = world(inSync + [ask(.suspend), .playOut, .write(0), .playOut, ask(.restoreFromReplica)])
        expect(.end(element: 0, nth: 0, .done), in: world)
        expect(.end(element: 1, nth: 0, .done), in: world)
        while !world.inFlight.contains(where: { $0.element == 0 && $0.isCopy }) {
            expect(.end(element: 1, nth: 0, .done), in: world)
        }
        expect(.end(element: 0, nth: 0, .failed), in: world)
        #expect(world.machine.pairs[0].copyState == .failedover && world.places == [1, 0])
        #expect(world.machine.pairs[0].isSourceInconsistent == true)
        expect(ask(.failback), in: world)
        expect(.playOut, in: world)
        #expect(world.machine.pairs[0].copyState == .synchronized && world.places == [0, 1])
    }

    @Test func closingDuringARestoreGoesOnAtTheNextStart() {
        let world = world(
            inSync + [ask(.suspend), .playOut, .write(0), .playOut, ask(.restoreFromReplica)]
                + [.end(element: 0, nth: 0, .done), .end(element: 1, nth: 0, .done), .close, .playOut]
        )
        #expect(world.machine.pairs[0].operation == .restoreFromReplica)
        expect(.playOut, in: world)
        #expect(world.machine.pairs[0].copyState == .restored && world.places == [0, 1])
    }

    @Test func detachOfAFailedOverPairLeavesHostsWhereTheyAre() {
        let world = world(inSync + [ask(.failover), .playOut, .write(0), .playOut])
        let serving = world.places[0]
        expect(.detach(0), in: world)
        #expect(world.places[0] == serving && serving == 1)
        expect(.read(0), in: world)
        expect(.playOut, in: world)
    }

    @Test(arguments: [ReplicationOperation.activate, .failback])
    func copyCanBeCancelledAndForgetsNothing(operation: ReplicationOperation) {
        let start =
            operation == .activate
            ? [ask(.activate)] : inSync + [ask(.failover), .playOut, .write(0), .playOut, ask(.failback)]
        let world = world(start)
        expect(.end(element: world.places[0], nth: 0, .done), in: world)
        expect(.cancel(0), in: world)
        expect(.playOut, in: world)
        #expect(world.machine.pairs[0].copyState == (operation == .activate ? .suspended : .failedover))
        let isClean = world.machine.pairs[0].dirty.isClean
        #expect(!isClean)
    }

    @Test func otherPairsFlowingRefusesWhatMovesThePrimaryAndDifferencesSpread() {
        let world = world(inSync + [ask(.activate, 1), .playOut], pairCount: 2)
        for operation in [ReplicationOperation.failover, .reverseRoles] {
            #expect(verdict(operation, world, isForced: true) == .refused(.otherPairFlows))
        }
        expect(ask(.suspend, 1), in: world)
        expect(ask(.suspend), in: world)
        expect(.playOut, in: world)
        expect(.write(0), in: world)
        expect(.playOut, in: world)
        expect(ask(.failover, isForced: true), in: world)
        expect(.playOut, in: world)
        #expect(world.places == [1, 0, 2])
        let isSpread = world.machine.pairs[1].dirty.isDirty(granule: 0)
        #expect(isSpread)
        #expect(verdict(.failover, world, 1, isForced: true) == .refused(.otherPairFlows))
    }
}

/// The own export of a target.
@Suite struct TargetSideTests {
    private func split() -> MachineHarness {
        let harness = MachineHarness()
        _ = harness.addSynchronizedPair(PairSettings(granuleByteCount: 4096, targetTimeoutNanoseconds: 1_000_000))
        harness.ask(.split)
        harness.completeAll()
        return harness
    }

    @Test func targetIsOpenOnlyWhileItIsTheHosts() {
        let harness = MachineHarness()
        _ = harness.addSynchronizedPair()
        _ = harness.request(.read, 1, side: 1)
        #expect(harness.answers.map(\.failure) == [.cancelled])
        harness.writesRecords = false
        harness.ask(.fracture)
        let isOpenEarly = harness.machine.isTargetOpen(0)
        #expect(!isOpenEarly)
        for _ in 0..<2 {
            harness.machine.recordWritten(pair: 0, nil)
            harness.settle()
        }
        let isOpen = harness.machine.isTargetOpen(0)
        #expect(isOpen)
        harness.ask(.resyncReplica)
        #expect(harness.closedExports == [0])
        let isOpenLate = harness.machine.isTargetOpen(0)
        #expect(!isOpenLate)
    }

    @Test func hungTargetHoldsUpOnlyItsOwnHosts() {
        let harness = split()
        _ = harness.request(.write, 1, side: 1)
        _ = harness.request(.write, 2, side: 1)
        _ = harness.request(.write, 3)
        #expect(harness.legs == [1, 0])
        harness.machine.advance(to: Instant(nanoseconds: 5_000_000))
        harness.machine.tick()
        harness.settle()
        harness.complete(leg: 0)
        #expect(harness.answers.map(\.request) == [3])
        #expect(harness.state == .split)
        harness.completeAll()
        #expect(harness.answers.map(\.request) == [3, 1, 2])
    }

    @Test func targetTakesOnlySoManyRequests() {
        let harness = split()
        for number in 0..<VolumeMachine.targetSlotLimit {
            let isTaken = harness.request(.write, UInt32(number), at: UInt64(number) * 4096, side: 1)
            #expect(isTaken)
        }
        let isTaken = harness.request(.read, 999, side: 1)
        #expect(!isTaken)
        let isTakenByVolume = harness.request(.read, 1000)
        #expect(isTakenByVolume)
    }

    @Test func whatHostsWroteOnTheTargetIsCopiedOverAndWaitsForTheirWrites() {
        let harness = split()
        _ = harness.request(.write, 1, at: 8192, side: 1)
        harness.completeAll()
        _ = harness.request(.write, 2, at: 16384)
        harness.completeAll()
        _ = harness.request(.write, 3, at: 8192, side: 1)
        #expect(harness.machine.facts(of: 0).targetChangedByteCount == 4096)
        harness.ask(.resyncReplica)
        #expect(harness.state == .split && harness.progress == .pending)
        harness.complete(leg: 1)
        #expect(harness.state == .unsynchronized && harness.dirtyByteCount == 8192)
        harness.completeAll()
        #expect(harness.state == .synchronized)
    }
}
