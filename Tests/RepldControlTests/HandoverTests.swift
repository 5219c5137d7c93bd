import Foundation
import RepldControl
import RepldControlAPI
import RepldCore
import RepldDataPlane
import RepldEngine
import RepldFormat
import RepldPair
import Synchronization
import Testing

/// Pairs that move between two daemons.
@Suite struct HandoverTests {
    @Test func aPlannedFailoverMovesThePair() async throws {
        try await TwoHosts.moving { hosts in
            let started = try await hosts.north.set(.name("Failover"))
            #expect(started.returnCode == Enumerated(ReturnCode.jobStarted))
            let job = try await hosts.north.ended(started.job)
            #expect(job.state == Enumerated(JobState.completed), "\(job)")
            let (north, south) = (try await hosts.north.pair(), try await hosts.south.pair())
            #expect(north.role == .replica && south.role == .source)
            #expect(south.copyState == Enumerated(CopyState.failedover) && south.sourcePath == "repl://north/db1")
            #expect(south.servingPath == hosts.south.directory.file("copy") && south.targetPath == south.servingPath)
            #expect(
                north.sourcePath == hosts.north.directory.file("source") && north.servingPath == "repl://south/copy"
            )
            #expect(hosts.south.plane.isExported("copy") && !hosts.north.plane.isExported("db1"))
            #expect(hosts.south.plane.calls.contains(.takeOver(isEqual: true)))
            let calls = hosts.north.plane.calls
            #expect(try #require(calls.firstIndex(of: .withhold)) < #require(calls.firstIndex(of: .settle)))
        }
    }

    /// What the peer refuses leaves hosts where they are.
    @Test(arguments: ["prepare", "claim"])
    func aRefusalLetsHostsComeAgain(step: String) async throws {
        try await TwoHosts.moving { hosts in
            hosts.south.plane.breakElement(step)
            let job = try await hosts.north.ended(hosts.north.set(.name("Failover")).job)
            #expect(job.state == Enumerated(JobState.exception) && job.errorDescription?.contains("on fire") == true)
            #expect(hosts.north.plane.isExported("db1") && !hosts.south.plane.isExported("copy"))
            #expect(try await hosts.south.pair().role == .replica)
            hosts.south.plane.mendElement(step)
            let again = try await hosts.north.ended(hosts.north.set(.name("Failover")).job)
            #expect(again.state == Enumerated(JobState.completed))
        }
    }

    /// What the source has sent last is on its way to the disk.
    @Test(arguments: [1, ReplicationService.claimAttemptLimit - 1])
    func aReplicaThatIsBusyIsWaitedFor(callCount: Int) async throws {
        try await TwoHosts.moving { hosts in
            hosts.south.plane.state.withLock { $0.busyClaimCount = callCount }
            let job = try await hosts.north.ended(hosts.north.set(.name("Failover")).job)
            #expect(job.state == Enumerated(JobState.completed), "\(job)")
            #expect(hosts.south.plane.isExported("copy") && hosts.south.plane.claimCount == callCount + 1)
        }
    }

    @Test func aReplicaThatStaysBusyIsNotWaitedForForever() async throws {
        try await TwoHosts.moving { hosts in
            hosts.south.plane.state.withLock { $0.busyClaimCount = .max }
            let job = try await hosts.north.ended(hosts.north.set(.name("Failover")).job)
            #expect(job.state == Enumerated(JobState.exception))
            #expect(job.errorDescription?.contains("is still being written; try again") == true)
            #expect(hosts.north.plane.isExported("db1") && !hosts.south.plane.isExported("copy"))
            #expect(hosts.south.plane.claimCount == ReplicationService.claimAttemptLimit)
        }
    }

    @Test func whatCannotBeSettledStays() async throws {
        try await TwoHosts.moving { hosts in
            hosts.north.plane.breakElement("settle")
            let job = try await hosts.north.ended(hosts.north.set(.name("ReverseRoles")).job)
            #expect(job.state == Enumerated(JobState.exception))
            #expect(hosts.north.plane.isExported("db1"))
        }
    }

    /// Hosts that wait for a peer to be asked must not be let in because a move cannot begin.
    @Test func hostsThatAreKeptAwayAlreadyAreNotLetIn() async throws {
        try await TwoHosts.moving { hosts in
            hosts.north.plane.breakElement("withhold")
            let job = try await hosts.north.ended(hosts.north.set(.name("Failover")).job)
            #expect(job.state == Enumerated(JobState.exception), "\(job)")
            #expect(!hosts.north.plane.calls.contains(.release))
            #expect(try await hosts.north.pair().role == .source)
        }
    }

    @Test func aLostAnswerIsAskedForAgain() async throws {
        try await TwoHosts.moving { hosts in
            let check = hosts.link.sent.count
            let job = try await hosts.north.set(.name("Suspend"))
            #expect(job.returnCode == Enumerated(ReturnCode.success) && hosts.link.sent.count == check)
            hosts.north.plane.become(.synchronized)
            hosts.north.plane.beforeEachCall { [link = hosts.link] in if $0 == .settle { link.lose(.answer) } }
            let moved = try await hosts.north.ended(hosts.north.set(.name("Failover")).job)
            #expect(moved.state == Enumerated(JobState.completed), "\(moved)")
            #expect(hosts.south.plane.calls.count { $0 == .takeOver(isEqual: true) } == 1)
        }
    }

    /// Killed before it has heard of it, the source finds out after its start, and its job with it.
    @Test func aMoveWhoseAnswerIsLostEndsAfterAStart() async throws {
        try await TwoHosts.moving { hosts in
            let lost = [FakeLink.Loss](repeating: .answer, count: 100)
            hosts.north.plane.beforeEachCall { [link = hosts.link] in if $0 == .settle { link.lose(lost) } }
            let started = try await hosts.north.set(.name("Failover"))
            let wakeups = await hosts.south.service.subscribe()
            if try await hosts.south.pair().role != .source {
                for await _ in wakeups.stream where try await hosts.south.pair().role == .source { break }
            }
            wakeups.finish()
            #expect(!hosts.north.plane.isExported("db1"), "nobody knows who serves")
            hosts.link.lose([])
            try await hosts.restartNorth()
            let north = hosts.north
            let job = try await north.ended(started.job)
            #expect(job.state == Enumerated(JobState.completed), "\(job)")
            try await north.service.waitForReplica("m1")
            #expect(!north.plane.isExported("db1") && hosts.south.plane.isExported("copy"))
        }
    }

    /// The source had settled, and nobody could be asked: taken over without it, and told so with the next attempt, it has met its peer.
    @Test func aMoveThatWasTakenAloneMeanwhileIsMet() async throws {
        try await TwoHosts.moving { hosts in
            let lost = [FakeLink.Loss](repeating: .message, count: 1000)
            hosts.north.plane.beforeEachCall { [link = hosts.link] in if $0 == .settle { link.lose(lost) } }
            let wakeups = await hosts.north.service.subscribe()
            let started = try await hosts.north.set(.name("Failover"))
            if !hosts.north.plane.calls.contains(.settle) {
                for await _ in wakeups.stream where hosts.north.plane.calls.contains(.settle) { break }
            }
            wakeups.finish()
            hosts.link.cut()
            _ = try await hosts.south.set(.name("Failover"), force: true)
            #expect(hosts.south.plane.isExported("copy") && !hosts.north.plane.isExported("db1"))
            hosts.link.lose([])
            hosts.link.mend()
            let job = try await hosts.north.ended(started.job)
            #expect(job.state == Enumerated(JobState.completed), "\(job)")
            #expect(!hosts.south.plane.calls.contains { if case .meet = $0 { true } else { false } })
            let back = try await hosts.south.set(.name("Failback"), force: true)
            #expect(back.job != nil, "a peer that was not met would have to tell first")
        }
    }

    /// The size that hosts know goes with them.
    @Test func aLargerVolumeTakesTheSizeThatHostsKnow() async throws {
        try await TwoHosts.moving(copyByteCount: 4 << 20) { hosts in
            let job = try await hosts.north.ended(hosts.north.set(.name("Failover")).job)
            #expect(job.state == Enumerated(JobState.completed), "\(job)")
            #expect(hosts.south.plane.volumeStatus("copy")?.byteCount == 1 << 20)
        }
    }

    /// The host has just died, and the connection to it is not known to be dead.
    @Test func aFailoverThatFindsTheConnectionDeadIsCarriedOutAlone() async throws {
        try await TwoHosts.moving { hosts in
            hosts.link.lose(.connection)
            let reply = try await hosts.south.set(.name("Failover"))
            #expect(reply.extendedStatus?.code == "failed-over-alone")
            #expect(hosts.south.plane.isExported("copy"))
        }
    }

    /// Nobody knows what it is doing.
    @Test func aSourceThatIsThereAndDoesNotAnswerIsNotTakenForGone() async throws {
        try await TwoHosts.moving { hosts in
            hosts.link.lose(.message)
            let error = await refusal { try await hosts.south.set(.name("Failover"), force: true) }
            #expect(error?.code == .noAnswer, "\(String(describing: error))")
            #expect(!hosts.south.plane.isExported("copy"))
        }
    }

    @Test func anUnplannedFailoverIsTakenNoteOfByTheFormerSource() async throws {
        try await TwoHosts.moving { hosts in
            hosts.link.cut()
            let plan = try await hosts.south.service.setReplicationRelationship(
                pair: "m1",
                SetReplicationRelationshipRequest(operation: .name("Failover"), plan: true)
            )
            #expect(plan.plan?.verdict == .accepted)
            let reply = try await hosts.south.set(.name("Failover"))
            #expect(reply.extendedStatus?.code == "failed-over-alone")
            #expect(hosts.south.plane.isExported("copy"))
            let early = await refusal { try await hosts.south.set(.name("Failback"), force: true) }
            #expect(early?.message.contains("has not told yet") == true)
            let changed = [Extent(offset: 0, length: 65536), Extent(offset: 196_608, length: 65536)]
            hosts.north.plane.setChanges(changed)
            hosts.north.plane.setFacts { $0.isSourceAhead = true }
            hosts.link.mend()
            hosts.north.plane.tell(.takenOver)
            try await hosts.north.service.waitForReplica("m1")
            #expect(hosts.south.plane.calls.contains(.meet(changed, isAhead: true, isFirst: true)))
            let forced = await refusal { try await hosts.south.set(.name("Failback")) }
            #expect(forced?.code == .needsForce)
        }
    }

    @Test func aHalfCopiedReplicaIsBroughtBackBeforeItServes() async throws {
        try await TwoHosts.moving { hosts in
            hosts.south.plane.hearRecord(.unsynchronized, .resyncReplica) { $0.hasUndo = true }
            hosts.link.cut()
            let unforced = await refusal { try await hosts.south.set(.name("Failover")) }
            #expect(unforced?.code == .needsForce && unforced?.message.contains("is taken back") == true)
            hosts.south.plane.breakElement("takeBack")
            let failed = await refusal { try await hosts.south.set(.name("Failover"), force: true) }
            #expect(failed?.message.contains("cannot be taken back") == true, "\(String(describing: failed))")
            #expect(hosts.south.plane.calls.last == .unclaimReplica && !hosts.south.plane.isExported("copy"))
            hosts.south.plane.mendElement("takeBack")
            _ = try await hosts.south.set(.name("Failover"), force: true)
            #expect(hosts.south.plane.isExported("copy"))
            let order = hosts.south.plane.calls.compactMap { call -> String? in
                switch call {
                case .takeBack: "back"
                case .prepareTakeOver(let record): record.isTargetConsistent && !record.hasUndo ? "record" : "wrong"
                default: nil
                }
            }
            #expect(order == ["record", "back", "record", "back"])
        }
    }

    /// The volume has another name than the pair, and it is the volume that becomes the host's own.
    @Test func aLostRecordOfAPairThatWasTakenOverIsSaidWithAWayOut() async throws {
        try await TwoHosts.moving { hosts in
            let metadata = try hosts.north.metadataPath()
            hosts.link.cut()
            _ = try await hosts.south.set(.name("Failover"))
            try Data().write(to: URL(fileURLWithPath: metadata))
            hosts.link.mend()
            hosts.north.plane.tell(.takenOver)
            let service = hosts.north.service
            try await service.wait { await service.events(after: 0).contains { $0.kind == "pair-not-moved" } }
            let told = await service.events(after: 0).last { $0.kind == "pair-not-moved" }?.message ?? ""
            #expect(told.contains("'replctl set m1 Detach --force' makes volume 'db1' this host's own"), "\(told)")
        }
    }

    @Test func everythingIsComparedForAReasonThatIsTold() async throws {
        try await TwoHosts.moving { hosts in
            hosts.north.plane.tell(.historyCompared(.lostRecord))
            let service = hosts.north.service
            try await service.wait {
                await service.events(after: 0).contains { event in
                    event.kind == "history-compared" && event.pair == "m1" && event.volume == "db1"
                        && event.message == HandshakeRule.lostRecord.words
                }
            }
        }
    }

    @Test func aModeIsToldBeforeItHolds() async throws {
        try await TwoHosts.moving { hosts in
            _ = try await hosts.north.set(.name("ResetToAsync"))
            hosts.link.cut()
            let error = await refusal { try await hosts.south.set(.name("Failover")) }
            #expect(error?.code == .needsForce && error?.message.contains("Asynchronous") == true)
            let late = try await hosts.north.set(.name("ResetToSync"))
            #expect(
                late.returnCode == Enumerated(ReturnCode.success),
                "to ask for force where none is needed does no harm"
            )
        }
    }
}

/// What is decided about a move, without hosts.
@Suite struct MoveRuleTests {
    private func record(_ state: CopyState, _ change: (inout PairRecord) -> Void = { _ in }) -> PairRecord {
        var record = PairRecord(
            sequence: 7,
            pair: PairID(high: 1, low: 2),
            volumeByteCount: 1 << 20,
            copyState: state.rawValue,
            isClosedCleanly: false
        )
        record.term = 3
        change(&record)
        return record
    }

    private func terms(_ operation: ReplicationOperation, isSecondHere: Bool = true, isEqual: Bool = true)
        -> TakeOverRecord.Terms
    {
        TakeOverRecord.Terms(
            operation: operation,
            isSecondHere: isSecondHere,
            isEqual: isEqual,
            isPeerAhead: !isEqual,
            granuleByteCount: 65536,
            generation: Generation(9),
            servingEpoch: 5
        )
    }

    @Test func theNextRecordSaysWhoServes() throws {
        let last = record(.synchronized) { $0.lineage.generation = Generation(8) }
        let over = try #require(TakeOverRecord.make(after: last, terms(.failover)))
        #expect(over.lineage.takenOverAt == HistoryPoint(Generation(8), last.sequence))
        #expect(
            over.lineage.generation == Generation(9) && over.lineage.history.last(of: Generation(8)) == last.sequence
        )
        #expect(over.sequence == 8 && over.term == 4 && over.servingEpoch == 5)
        #expect(over.copyState == CopyState.failedover.rawValue && over.isSecondPrimary && !over.isSecondSource)
        #expect(over.isClosedCleanly && over.mapTrust == .exact && !over.isSourceAhead)
        let unequal = try #require(TakeOverRecord.make(after: record(.suspended), terms(.failover, isEqual: false)))
        #expect(!unequal.isClosedCleanly && unequal.mapTrust == .none && unequal.isSourceAhead)
        let back = try #require(TakeOverRecord.make(after: over, terms(.failback, isSecondHere: false)))
        #expect(back.copyState == CopyState.synchronized.rawValue && !back.isSecondPrimary && !back.isSecondSource)
        let turned = try #require(TakeOverRecord.make(after: record(.synchronized), terms(.reverseRoles)))
        #expect(turned.copyState == CopyState.synchronized.rawValue && turned.isSecondPrimary && turned.isSecondSource)
        #expect(TakeOverRecord.make(after: over, terms(.failover, isSecondHere: false)) == nil)
        #expect(TakeOverRecord.make(after: record(.synchronized), terms(.failback)) == nil)
    }

    @Test func aHalfRestoredSourceIsNoImageForWhoeverTakesOver() throws {
        let half = record(.suspended) { $0.isSourceInconsistent = true }
        let over = try #require(TakeOverRecord.make(after: half, terms(.failover, isEqual: false)))
        #expect(over.isTargetConsistent && over.isSourceInconsistent)
        let turned = try #require(TakeOverRecord.make(after: half, terms(.reverseRoles, isEqual: false)))
        #expect(!turned.isTargetConsistent && !turned.isSourceInconsistent)
    }

    @Test func theLastWordDecidesWithoutTheSource() {
        func verdict(_ record: PairRecord, _ mode: ReplicationMode?, isSecondHere: Bool = true) -> LastWord.Verdict {
            LastWord(record: record, isSecondHere: isSecondHere, mode: mode).verdict
        }
        func needsForce(_ verdict: LastWord.Verdict) -> Bool { if case .needsForce = verdict { true } else { false } }
        func isRefused(_ verdict: LastWord.Verdict) -> Bool { if case .refused = verdict { true } else { false } }
        #expect(verdict(record(.synchronized), .synchronous) == .accepted)
        #expect(needsForce(verdict(record(.synchronized), .asynchronous)))
        #expect(needsForce(verdict(record(.synchronized), nil)))
        #expect(needsForce(verdict(record(.suspended) { $0.isTargetConsistent = true }, .synchronous)))
        for state in [CopyState.initialized, .prepared, .unsynchronized] {
            #expect(isRefused(verdict(record(state), .synchronous)))
        }
        #expect(isRefused(verdict(record(.synchronized), .synchronous, isSecondHere: false)))
    }

    @Test func aHalfCopiedReplicaIsTakenWithWhatItHeldBefore() {
        func verdict(kept: UInt64?, hasUndo: Bool = true, _ state: CopyState = .unsynchronized) -> LastWord.Verdict {
            let half = record(state) { $0.hasUndo = hasUndo }
            return LastWord(record: half, isSecondHere: true, mode: .synchronous, keptByteCount: kept).verdict
        }
        for state in [CopyState.unsynchronized, .suspended, .partitioned, .broken] {
            guard case .needsForce(let words) = verdict(kept: 65536, state) else {
                Issue.record("\(state) is \(verdict(kept: 65536, state))")
                continue
            }
            #expect(words.contains("is taken back (64"), "\(words)")
        }
        for refused in [verdict(kept: nil), verdict(kept: 65536, hasUndo: false)] {
            guard case .refused = refused else {
                Issue.record("nothing was kept, and it is \(refused)")
                continue
            }
        }
    }

    @Test func extentsAreJoinedWhereTheGapIsSmallest() {
        let extents = [0, 10, 100, 104, 200].map { Extent(offset: $0, length: 2) }
        #expect(CoarseExtents.joined(extents, limit: 5) == extents)
        #expect(
            CoarseExtents.joined(extents, limit: 3) == [
                Extent(offset: 0, length: 12), Extent(offset: 100, length: 6), Extent(offset: 200, length: 2),
            ]
        )
        #expect(CoarseExtents.joined(extents, limit: 1) == [Extent(offset: 0, length: 202)])
        #expect(CoarseExtents.joined([], limit: 1).isEmpty)
    }

    @Test func entriesOfAnEarlierVersionHaveNotMoved() throws {
        let replica = ReplicaEntry(
            pair: PairID(high: 1, low: 2),
            name: "m1",
            volumeNumber: 1,
            hostID: String(repeating: "b", count: 32),
            sourceVolume: "db1",
            sourceByteCount: 4096,
            granuleByteCount: 65536,
            createdAt: Date(timeIntervalSince1970: 0)
        )
        let text = String(decoding: try ControlJSON.encode(replica), as: UTF8.self)
        let older = text.replacing(",\"isSecondHere\":true", with: "")
        #expect(older != text)
        let read = try ControlJSON.decode(ReplicaEntry.self, from: Data(older.utf8))
        #expect(read == replica && read.isSecondHere && read.mode == nil)
    }
}
