import RepldCore
@testable import RepldPair
import Testing

/// Every operation in every state that a pair reaches by operations, played to its end on the machine.
@Suite struct OperationOutcomeTests {
    private static func ask(_ operation: ReplicationOperation) -> WorldEvent { .operate(0, operation, isForced: false) }

    private static let inSync: [WorldEvent] = [ask(.activate), .playOut]
    private static let changed: [WorldEvent] = [.write(0), .playOut]

    /// How each state is reached, with changes where a state has some.
    static let ways: [(state: CopyState, events: [WorldEvent])] = [
        (.initialized, []),
        (.prepared, [ask(.prepare), .playOut]),
        (.aborted, [ask(.abort), .playOut]),
        (.unsynchronized, [ask(.activate)]),
        (.synchronized, inSync),
        (.broken, inSync + [.write(1), .end(element: 1, nth: 0, .failed), .playOut]),
        (.fractured, inSync + [ask(.fracture), .playOut] + changed + [.targetWrite(pair: 0, granule: 1), .playOut]),
        (.split, inSync + [ask(.split), .playOut] + changed + [.targetWrite(pair: 0, granule: 1), .playOut]),
        (.inactive, inSync + [ask(.deactivate), .playOut] + changed),
        (.suspended, inSync + [ask(.suspend), .playOut]),
        (.suspended, inSync + [ask(.suspend), .playOut] + changed),
        (.failedover, inSync + [ask(.failover), .playOut] + changed),
        (
            .failedover,
            inSync + [ask(.suspend), .playOut] + changed + [.operate(0, .failover, isForced: true), .playOut]
        ),
        (.restored, inSync + [ask(.suspend), .playOut] + changed + [ask(.restoreFromReplica), .playOut]),
    ]

    static let operations: [ReplicationOperation] = [
        .abort, .activate, .deactivate, .failover, .failback, .fracture, .resyncReplica, .restoreFromReplica, .resume,
        .reverseRoles, .split, .suspend, .unprepare, .prepare,
    ]

    @Test(arguments: ways.indices, operations)
    func operationEndsAsTheTableSays(way: Int, operation: ReplicationOperation) {
        for writesRecordsAtOnce in [true, false] {
            for isForced in [false, true] {
                var shape = PairWorld.Shape()
                shape.writesRecordsAtOnce = writesRecordsAtOnce
                let world = PairWorld(shape)
                for event in Self.ways[way].events { _ = world.apply(event) }
                #expect(world.machine.pairs[0].copyState == Self.ways[way].state)
                expectOutcome(of: operation, isForced: isForced, in: world)
                #expect(world.violation == nil)
            }
        }
    }

    private func expectOutcome(of operation: ReplicationOperation, isForced: Bool, in world: PairWorld) {
        let before = world.machine.pairs[0].copyState
        let wasReversed = world.machine.pairs[0].isSecondSource
        let places = world.places
        let verdict = OperationTable.verdict(operation, world.machine.facts(of: 0), isForced: isForced)
        let isBegun = world.apply(.operate(0, operation, isForced: isForced))
        guard case .accepted(let to) = verdict else {
            #expect(!isBegun)
            #expect(world.machine.pairs[0].copyState == before && world.places == places)
            return
        }
        // With force where none is needed, the world asks nothing.
        guard isBegun else { return }
        let isUnderWay = world.machine.pairs[0].operation == operation
        if isUnderWay {
            let progress = world.machine.pairs[0].progress
            #expect(progress == OperationTable.rule(of: operation).progress || progress == .pending)
        }
        _ = world.apply(.playOut)
        world.check()
        #expect(world.machine.pairs[0].copyState == to ?? before)
        #expect(world.machine.pairs[0].isSecondSource == (wasReversed != (operation == .reverseRoles)))
        let servesOther = world.places != places
        let moves =
            operation == .failover || operation == .failback
            || (operation == .reverseRoles && before != .failedover)
        #expect(servesOther == moves)
        #expect(world.pairs[0].outstanding.isEmpty)
    }

    /// A restore that is given up swaps back, and says that its source is no point in time.
    @Test func abortOfARestoreNeedsForceAndSwapsBack() {
        let world = PairWorld(PairWorld.Shape())
        let start = Self.inSync + [Self.ask(.suspend), .playOut] + Self.changed + [Self.ask(.restoreFromReplica)]
        for event in start { _ = world.apply(event) }
        _ = world.apply(.end(element: 0, nth: 0, .done))
        _ = world.apply(.end(element: 1, nth: 0, .done))
        #expect(world.places == [1, 0])
        let isAbortedWithoutForce = world.apply(Self.ask(.abort))
        #expect(!isAbortedWithoutForce)
        let isAborted = world.apply(.operate(0, .abort, isForced: true))
        #expect(isAborted)
        _ = world.apply(.playOut)
        world.check()
        #expect(world.violation == nil)
        #expect(world.places == [0, 1] && world.machine.pairs[0].copyState == .aborted)
        #expect(world.machine.pairs[0].isSourceInconsistent && world.machine.pairs[0].isTargetConsistent)
    }
}
