import RepldCore
import RepldFormat
import RepldPair
import Testing

/// The source of a pair between two hosts is brought back from the target.
@Suite("A restore over a link") struct LinkRestoreTests {
    static var granule: UInt64 { 4096 }
    static let settings = PairSettings(
        granuleByteCount: UInt32(granule),
        copyDepth: 1,
        copyChunkByteCount: UInt32(granule),
        logExtentByteCount: 65536,
        logExtentCount: 8
    )
    static let changed: [UInt64] = [2, 3, 200]

    /// A pair in sync, with its link up and nothing under way.
    func synchronized() -> MachineHarness {
        let harness = MachineHarness()
        add(harness, MachineHarness.record(), .unknown(because: nil))
        harness.restoreLink()
        return harness
    }

    /// A pair that is Suspended, with `changed` granules that the target never had; its link is up, and nothing is under way.
    func suspended() -> MachineHarness {
        let harness = synchronized()
        harness.ask(.suspend)
        for (number, granule) in Self.changed.enumerated() {
            #expect(harness.request(.write, UInt32(number), at: granule * Self.granule))
        }
        harness.completeAll()
        harness.answers = []
        return harness
    }

    func add(_ harness: MachineHarness, _ record: PairRecord, _ maps: RecoveredMaps) {
        harness.addRemotePair(record, maps, Self.settings)
    }

    /// The restore has begun, and its first chunk is being read.
    func restoring() -> MachineHarness {
        let harness = suspended()
        #expect(harness.ask(.restoreFromReplica) == .accepted(to: .restored))
        // The flushes of the gate.
        harness.complete(leg: 0)
        harness.complete(leg: 1)
        #expect(harness.facts.isSourceInconsistent && harness.disconnections == 1)
        #expect(harness.operations.map(\.kind) == [.readAndCheckZero])
        harness.performed = []
        return harness
    }

    func ask(_ harness: MachineHarness, _ operation: HostOperation, _ number: UInt32, granule: UInt64) {
        #expect(harness.request(operation, number, at: granule * Self.granule))
    }

    func failure(of request: UInt32, _ harness: MachineHarness) -> IOFailure?? {
        harness.answers.last { $0.request == request }.map(\.failure)
    }

    /// The same pair at the next start, with what the metadata area has.
    func restarted(_ harness: MachineHarness) throws -> MachineHarness {
        let record = try #require(harness.area.record)
        let next = MachineHarness()
        next.area = harness.area
        add(next, record, harness.area.maps(record, granuleByteCount: Self.granule))
        return next
    }

    func lacking(_ harness: MachineHarness) -> UInt64 { harness.facts.targetChangedByteCount / Self.granule }

    // MARK: - What hosts find

    @Test("hosts find what the target holds at once, and in the end the source has it")
    func instantAccess() {
        let harness = restoring()
        ask(harness, .read, 10, granule: 200)
        #expect(harness.operations.last?.leg == 1 && harness.operations.last?.kind == .read)
        ask(harness, .read, 11, granule: 9)
        #expect(harness.operations.last?.leg == 0, "what does not differ is read here")
        harness.completeAll()
        #expect(failure(of: 10, harness) == .some(nil) && failure(of: 11, harness) == .some(nil))
        #expect(harness.state == .restored && harness.progress == .requiresResume)
        #expect(harness.ended.last?.operation == .restoreFromReplica && harness.ended.last?.failure == nil)
        let written = harness.performed.filter { $0.kind == .write }
        #expect(written.allSatisfy { $0.leg == 0 }, "the target stays as it is")
        #expect(written.map { $0.extent.offset / Self.granule }.sorted() == Self.changed)
        #expect(!harness.facts.isSourceInconsistent && harness.facts.differingByteCount == 0)
    }

    @Test("what a host reads is copied next")
    func readsMoveUp() {
        let harness = restoring()
        ask(harness, .read, 10, granule: 200)
        harness.completeAll()
        let copied = harness.performed.filter { $0.kind == .write }.map { $0.extent.offset / Self.granule }
        #expect(copied == [2, 200, 3])
    }

    @Test("a read that is lacking in part waits until it is not")
    func partlyLacking() {
        let harness = restoring()
        #expect(harness.request(.read, 10, at: 3 * Self.granule, length: 2 * Self.granule))
        #expect(harness.operations.count == 1, "it is not asked of either")
        harness.completeAll()
        #expect(failure(of: 10, harness) == .some(nil))
        let reads = harness.performed.filter { $0.kind == .read }
        #expect(reads.map(\.leg) == [0])
    }

    @Test("a write to what is lacking comes after its copy, and is kept")
    func writesAreKept() throws {
        let harness = restoring()
        #expect(harness.request(.write, 10, at: 200 * Self.granule, length: 512))
        #expect(!harness.performed.contains { $0.kind == .write && $0.leg == 0 })
        harness.completeAll()
        #expect(failure(of: 10, harness) == .some(nil))
        let writes = harness.performed.filter { $0.kind == .write && $0.extent.offset == 200 * Self.granule }
        #expect(writes.map(\.extent.length) == [Self.granule, 512], "once copied, and then overlaid")
        #expect(harness.state == .restored)
        #expect(harness.facts.changedByteCount == Self.granule, "the target lacks it until Resume")
        harness.performed = []
        #expect(harness.ask(.resume) == .accepted(to: .synchronized))
        harness.completeAll()
        let copied = harness.performed.filter { $0.kind == .write && $0.leg == 1 }.map(\.extent)
        #expect(copied == [Extent(offset: 200 * Self.granule, length: Self.granule)])
        #expect(harness.state == .synchronized)
    }

    @Test("a write waits until a start would not take its granule for lacking")
    func freshGranules() throws {
        let harness = restoring()
        harness.delaysPages = true
        #expect(harness.request(.write, 10, at: 2 * Self.granule, length: 512))
        while lacking(harness) == 3, let operation = harness.operations.first { harness.complete(leg: operation.leg) }
        #expect(!harness.performed.contains(where: isHostWrite), "the page on disk still says that it is lacking")
        while !harness.delayedPages.isEmpty { harness.endPage(0) }
        let write = try #require(harness.operations.first(where: isHostWrite))
        harness.end(write)
        #expect(failure(of: 10, harness) == .some(nil) && lacking(harness) == 2)
        let next = try restarted(harness)
        next.restoreLink()
        let written = next.performed.filter { $0.kind == .write && $0.leg == 0 }
        #expect(!written.contains { $0.extent.offset == 2 * Self.granule }, "no copy comes over it")
    }

    private func isHostWrite(_ operation: ElementOperation) -> Bool {
        operation.kind == .write && operation.extent.length == 512
    }

    // MARK: - The link

    @Test(
        "while the link is lost, what is lacking cannot be had, the rest goes on, and so does the restore when it is back"
    )
    func linkLostInTheMiddle() {
        let harness = restoring()
        harness.complete(leg: 1)
        harness.complete(leg: 0)
        ask(harness, .read, 10, granule: 200)
        ask(harness, .write, 11, granule: 3)
        harness.loseLink()
        #expect(failure(of: 10, harness) == .some(.inputOutput) && failure(of: 11, harness) == .some(.inputOutput))
        #expect(harness.state == .suspended && harness.reason == .linkLost && harness.progress == .pending)
        #expect(harness.facts.operation == .restoreFromReplica && harness.facts.isSourceInconsistent)
        ask(harness, .read, 12, granule: 3)
        ask(harness, .write, 13, granule: 200)
        #expect(failure(of: 12, harness) == .some(.inputOutput) && failure(of: 13, harness) == .some(.inputOutput))
        ask(harness, .write, 14, granule: 77)
        ask(harness, .read, 15, granule: 78)
        harness.completeAll()
        #expect(failure(of: 14, harness) == .some(nil) && failure(of: 15, harness) == .some(nil))
        #expect(harness.ended.allSatisfy { $0.operation != .restoreFromReplica })
        for operation in [ReplicationOperation.resume, .resyncReplica, .suspend, .fracture] {
            guard case .refused = harness.ask(operation, isForced: true) else {
                Issue.record("\(operation.name) is accepted in the middle of a restore")
                continue
            }
        }
        harness.performed = []
        harness.restoreLink()
        #expect(harness.state == .restored && harness.facts.changedByteCount == Self.granule)
        let written = harness.performed.filter { $0.kind == .write }.map { $0.extent.offset / Self.granule }
        #expect(written.contains(200) && !written.contains(77))
    }

    @Test("asked for while the link is lost, it begins when it is back, and hosts find the source until then")
    func waitsForTheLink() {
        let harness = suspended()
        harness.loseLink()
        #expect(harness.ask(.restoreFromReplica) == .accepted(to: .restored))
        ask(harness, .read, 10, granule: 200)
        #expect(harness.operations.map(\.leg) == [0] && !harness.facts.isSourceInconsistent)
        harness.completeAll()
        harness.restoreLink()
        #expect(harness.state == .restored && harness.ended.last?.failure == nil)
    }

    @Test("a link that is lost before the restore has begun only puts it off")
    func lostInTheGate() {
        let harness = suspended()
        #expect(harness.ask(.restoreFromReplica) == .accepted(to: .restored))
        harness.loseLink()
        harness.completeAll()
        #expect(!harness.facts.isSourceInconsistent && harness.facts.operation == .restoreFromReplica)
        harness.restoreLink()
        #expect(harness.state == .restored)
    }

    // MARK: - Failures

    @Test("a target that fails a read ends the operation; what is left is restored when it is asked for again")
    func targetFails() {
        let harness = restoring()
        harness.complete(leg: 1, .inputOutput)
        #expect(harness.ended.last?.failure == .pairBroken && harness.state == .suspended)
        #expect(harness.facts.isSourceInconsistent && lacking(harness) == 3)
        #expect(harness.ask(.resume) == .needsForce(.sourceInconsistent))
        ask(harness, .read, 10, granule: 200)
        #expect(harness.operations.map(\.leg) == [1], "hosts still find what the target has")
        harness.completeAll()
        #expect(harness.ask(.restoreFromReplica) == .accepted(to: .restored))
        harness.completeAll()
        #expect(harness.state == .restored)
    }

    @Test("a target that does not answer is not waited for")
    func targetHangs() {
        let harness = restoring()
        ask(harness, .read, 10, granule: 200)
        harness.machine.advance(to: Instant(nanoseconds: Self.settings.targetTimeoutNanoseconds + 2))
        harness.machine.tick()
        harness.settle()
        #expect(failure(of: 10, harness) == .some(.timedOut) && harness.reason == .targetTimedOut)
        #expect(harness.ended.last?.failure == .pairBroken)
        // What comes too late is not written.
        harness.completeAll()
        #expect(!harness.performed.contains { $0.kind == .write } && lacking(harness) == 3)
    }

    @Test("a flush that the source fails takes back what was copied since the one before")
    func flushFails() {
        let harness = restoring()
        var steps = 0
        while harness.operations.first?.kind != .flush, steps < 20 {
            steps += 1
            harness.complete(leg: harness.operations.first?.leg ?? 0)
        }
        harness.complete(leg: 0, .inputOutput)
        #expect(lacking(harness) == 3 && harness.facts.changedByteCount == 0)
        harness.completeAll()
        #expect(harness.state == .restored)
    }

    @Test("given up by force, hosts find the source as it is, and it does not overwrite the target without force")
    func aborted() {
        let harness = restoring()
        harness.complete(leg: 1)
        harness.complete(leg: 0)
        #expect(harness.ask(.abort) == .needsForce(.sourceLeftInconsistent))
        ask(harness, .write, 10, granule: 200)
        #expect(harness.ask(.abort, isForced: true) == .accepted(to: .aborted))
        harness.completeAll()
        #expect(failure(of: 10, harness) == .some(.inputOutput))
        #expect(harness.state == .aborted && harness.disconnections == 2)
        ask(harness, .read, 11, granule: 200)
        #expect(harness.operations.map(\.leg) == [0])
        harness.completeAll()
        #expect(harness.ask(.resyncReplica) == .needsForce(.sourceInconsistent))
        #expect(harness.ask(.restoreFromReplica) == .accepted(to: .restored))
        harness.completeAll()
        #expect(harness.state == .restored && !harness.facts.isSourceInconsistent)
    }

    @Test("overwritten by force with the half restored source, the target is equal to it")
    func resynchronizedByForce() {
        let harness = restoring()
        harness.complete(leg: 1, .inputOutput)
        #expect(harness.ask(.resume, isForced: true) == .accepted(to: .synchronized))
        harness.completeAll()
        #expect(harness.state == .synchronized && harness.disconnections == 2)
        let copied = harness.performed.filter { $0.kind == .write }.map { $0.extent.offset / Self.granule }
        #expect(copied.sorted() == Self.changed)
    }

    @Test("a detach lets whoever waits go, and the source is what it is")
    func detached() {
        let harness = restoring()
        ask(harness, .write, 10, granule: 200)
        harness.machine.detachPair(0)
        harness.settle()
        harness.completeAll()
        #expect(failure(of: 10, harness) == .some(.cancelled) && harness.disconnections == 2)
        #expect(harness.detached == [0])
        ask(harness, .read, 11, granule: 200)
        #expect(harness.operations.map(\.leg) == [0])
        harness.completeAll()
    }

    @Test("a volume that closes lets whoever waits go")
    func closed() {
        let harness = restoring()
        ask(harness, .write, 10, granule: 200)
        harness.machine.close()
        harness.settle()
        harness.completeAll()
        #expect(failure(of: 10, harness) == .some(.inputOutput) && harness.isClosed)
    }

    // MARK: - Starts

    @Test("a start goes on with it, and does not forget what hosts have written", arguments: [true, false])
    func restartedInTheMiddle(isClean: Bool) throws {
        let harness = restoring()
        ask(harness, .write, 10, granule: 77)
        ask(harness, .write, 11, granule: 200)
        while failure(of: 11, harness) == nil, let operation = harness.operations.first {
            harness.complete(leg: operation.leg)
        }
        #expect(lacking(harness) > 0)
        if isClean {
            harness.machine.close()
            harness.settle()
            harness.completeAll()
            #expect(harness.isClosed)
        }
        let next = try restarted(harness)
        #expect(next.facts.operation == .restoreFromReplica && next.facts.isSourceInconsistent)
        ask(next, .read, 20, granule: 3)
        #expect(failure(of: 20, next) == .some(.inputOutput), "its peer is not there yet")
        next.restoreLink()
        #expect(next.state == .restored)
        let written = next.performed.filter { $0.kind == .write && $0.leg == 0 }.map { $0.extent.offset / Self.granule }
        #expect(written.contains(3) && !written.contains(200) && !written.contains(77))
        #expect(next.facts.changedByteCount >= 2 * Self.granule)
    }

    @Test("a start that cannot rely on the maps serves nothing before an operator has said whose data counts")
    func lostMaps() throws {
        let harness = restoring()
        ask(harness, .write, 10, granule: 77)
        while failure(of: 10, harness) == nil, let operation = harness.operations.first {
            harness.complete(leg: operation.leg)
        }
        var record = try #require(harness.area.record)
        record.mapTrust = .none
        let next = MachineHarness()
        add(next, record, .unknown(because: "damaged"))
        next.restoreLink()
        #expect(next.state == .invalid && next.reason == .restoreForgotten)
        ask(next, .read, 20, granule: 9)
        ask(next, .write, 21, granule: 9)
        #expect(failure(of: 20, next) == .some(.inputOutput) && failure(of: 21, next) == .some(.inputOutput))
        for operation in [ReplicationOperation.restoreFromReplica, .resyncReplica] {
            guard case .needsForce = next.ask(operation) else {
                Issue.record("\(operation.name) needs no force")
                continue
            }
        }
        #expect(next.ask(.restoreFromReplica, isForced: true) == .accepted(to: .restored))
        next.completeAll()
        #expect(next.state == .restored && next.facts.differingByteCount == 0)
    }

    @Test("a peer that holds something else ends the restore, and nothing is served")
    func targetIsAnother() {
        let harness = restoring()
        harness.loseLink()
        harness.completeAll()
        harness.machine.forgetTarget(pair: 0, because: nil)
        harness.settle()
        #expect(harness.state == .invalid && harness.ended.last?.failure == .pairBroken)
        harness.restoreLink()
        ask(harness, .read, 20, granule: 200)
        #expect(failure(of: 20, harness) == .some(.inputOutput))
    }
}
