import RepldCore
import RepldFormat

@testable import RepldPair

/// What must never be.
extension PairWorld {
    /// Both elements of a pair by their roles, wherever hosts are served.
    func sourceElement(_ pair: Int) -> Int { machine.pairs[pair].isMisplaced ? places[pair + 1] : places[0] }
    func targetElement(_ pair: Int) -> Int { machine.pairs[pair].isMisplaced ? places[0] : places[pair + 1] }

    private func isWrite(_ kind: ElementOperation.Kind) -> Bool {
        switch kind {
        case .write, .discard, .zeroMayDeallocate, .zeroKeepAllocated: true
        case .read, .flush, .readAndCheckZero, .readAndCompare, .save: false
        }
    }

    private func isBeingWritten(_ granule: Int, element: Int) -> Bool {
        inFlight.contains {
            $0.element == element && isWrite($0.operation.kind) && granules($0.operation.extent).contains(granule)
        }
    }

    // MARK: - When an operation on an element begins

    func checkBegin(_ operation: ElementOperation, element: Int, isCopy: Bool) {
        guard isWrite(operation.kind) else { return }
        if operation.leg > 0 {
            let pair = Int(operation.leg) - 1
            // A copy that only evens out what a crash or an error of the source left keeps a target a usable image.
            let isEvening = !machine.pairs[pair].isFlowingBack && machine.pairs[pair].isTargetConsistent
            if machine.pairs[pair].isMirroring, !isEvening { halfCopied.insert(element) }
            if isCopy { return checkCopy(pair) }
            if !machine.pairs[pair].isMirroring { return checkTargetWrite(pair) }
        } else {
            checkSourceWrite(granules(operation.extent), element: element, isCopy: isCopy)
            if isCopy { return }
        }
        guard history.isWriting(Int(operation.buffer.rawValue)) else { return }
        for pair in pairs.indices where machine.pairs[pair].isInUse && !machine.pairs[pair].wantsDetach {
            for case .valid(let record) in pairs[pair].blocks
            where record.isSecondPrimary != machine.pairs[pair].isSecondPrimary {
                fail("a host's write begins while a block of pair \(pair) says that the other element serves")
            }
        }
    }

    private func checkCopy(_ pair: Int) {
        if machine.isTargetOpen(pair) { fail("the mover writes the target of pair \(pair) while hosts use it") }
        // What hosts wrote on the target counts while they are served by it, and the copy goes to the source.
        let isForward = !machine.pairs[pair].isMisplaced
        if isForward, pairs[pair].isTargetOwned {
            fail("a copy overwrites what hosts wrote on the target of pair \(pair)")
        }
    }

    private func checkTargetWrite(_ pair: Int) {
        for case .valid(let record) in pairs[pair].blocks {
            let state = CopyState(rawValue: record.copyState)
            if state != .fractured, state != .split {
                fail("a host writes the target of pair \(pair) while a block says \(state?.name ?? "nothing")")
            }
        }
    }

    // MARK: - After each event

    func check() {
        machine.checkInvariants()
        if isReplica { checkPairsOfReplica() }
        let serving = places[0]
        for granule in 0..<shape.granuleCount where !isBeingWritten(granule, element: serving) {
            guard let counting = countingElement(granule) else { continue }
            let version = disks[counting].cached[granule].version
            if !history.mayHold(version, granule: granule, afterPowerLoss: false) {
                fail("granule \(granule) holds \(version); hosts expect \(history.allowed[granule].sorted())")
            }
        }
        for pair in pairs.indices where machine.pairs[pair].isInUse && !machine.pairs[pair].wantsDetach {
            checkDifferences(of: pair)
            checkImages(of: pair)
            checkUndo(of: pair)
        }
    }

    /// Nothing flows in the pairs of a replica, and nothing is about to.
    private func checkPairsOfReplica() {
        for pair in pairs.indices where machine.pairs[pair].isInUse {
            if machine.pairs[pair].isMirroring { fail("pair \(pair) flows, and its volume is a replica") }
            if machine.pairs[pair].isMisplaced { fail("pair \(pair) of a replica has its target serve") }
        }
    }

    /// Whatever differs is remembered as different.
    private func checkDifferences(of pair: Int) {
        for granule in 0..<shape.granuleCount {
            let isMoving =
                isBeingWritten(granule, element: places[0]) || isBeingWritten(granule, element: places[pair + 1])
            let left = disks[places[0]].cached[granule].version
            let right = disks[places[pair + 1]].cached[granule].version
            guard !isMoving, left != right else { continue }
            let number = UInt64(granule)
            let isCovered =
                machine.pairs[pair].dirty.isDirty(granule: number)
                || machine.pairs[pair].targetChanged.isDirty(granule: number)
            if !isCovered {
                fail("granule \(granule) of pair \(pair) differs (\(left), \(right)), and nothing says so")
            }
        }
        let state = machine.pairs[pair].copyState
        if state == .synchronized, machine.isIdle, !areEqual(pair) { fail("Synchronized is not equal") }
    }

    /// Keeps up which elements are a point in time, by what their pairs have come to.
    func noteImages() {
        for pair in pairs.indices where machine.pairs[pair].isInUse {
            let state = machine.pairs[pair].copyState
            if state == .synchronized || state == .restored, areEqual(pair) {
                halfCopied.subtract([places[0], places[pair + 1]])
            }
            // A copy forward takes the source for what it is.
            if state == .unsynchronized { halfCopied.remove(places[0]) }
        }
    }

    /// Whether both elements of a pair hold the same, but for what is being written.
    private func areEqual(_ pair: Int) -> Bool {
        (0..<shape.granuleCount).allSatisfy { granule in
            isBeingWritten(granule, element: places[0]) || isBeingWritten(granule, element: places[pair + 1])
                || disks[places[0]].cached[granule].version == disks[places[pair + 1]].cached[granule].version
        }
    }

    /// An element that a copy was in the middle of is not taken for a point in time.
    private func checkImages(of pair: Int) {
        if machine.pairs[pair].isTargetConsistent, halfCopied.contains(targetElement(pair)) {
            fail("the target of pair \(pair) counts as a usable image, and is half copied")
        }
        let source = sourceElement(pair)
        // With several pairs of one source, the one that copied to it knows.
        let isKnown = pairs.indices.contains {
            machine.pairs[$0].isSourceInconsistent && sourceElement($0) == source
        }
        if !isKnown, halfCopied.contains(source) {
            fail("the source of pair \(pair) is half copied, and does not count as inconsistent")
        }
    }

    /// The element that serves after a start has what hosts were told is written.
    func checkAfterStart(isPowerLost: Bool, wasClean: Bool) {
        let isClean = wasClean && pairs.indices.allSatisfy { recovered($0)?.isClosedCleanly == true }
        for granule in 0..<shape.granuleCount {
            let version = disks[places[0]].cached[granule].version
            if !history.mayHold(version, granule: granule, afterPowerLoss: isPowerLost && !isClean) {
                fail("after a start granule \(granule) holds \(version), which hosts cannot expect")
            }
        }
    }

    /// An operation that is told to have ended is durable, in both blocks where a start must not forget it.
    func checkEndIsDurable(_ operation: ReplicationOperation, _ pair: Int) {
        let mustBeTwice = [.failover, .failback, .fracture, .split, .restoreFromReplica, .reverseRoles].contains(
            operation
        )
        let records = pairs[pair].blocks.compactMap { block in
            if case .valid(let record) = block { record } else { nil }
        }
        let newest = records.max { $0.sequence < $1.sequence }
        for record in mustBeTwice ? records : newest.map({ [$0] }) ?? [] {
            let isSame =
                record.copyState == machine.pairs[pair].copyState.rawValue
                && record.isSecondPrimary == machine.pairs[pair].isSecondPrimary
                && record.isSecondSource == machine.pairs[pair].isSecondSource
            if !isSame { fail("\(operation.name) ended, and a block does not have its result") }
        }
        if records.count < (mustBeTwice ? 2 : 1) { fail("\(operation.name) ended, and its record is not there") }
    }

    /// Nothing can go on by itself any more: nothing may be left over.
    func checkRest() {
        if !machine.isIdle { fail("at rest the machine is not idle") }
        if history.pendingCount > 0 { fail("at rest hosts wait for \(history.waiting)") }
        if machine.gate.isClosed { fail("at rest the gate is closed") }
        if machine.isClosing { fail("at rest it is still closing") }
        for pair in pairs.indices where machine.pairs[pair].isInUse {
            if !pairs[pair].outstanding.isEmpty { fail("at rest \(pairs[pair].outstanding.map(\.name)) has not ended") }
            if machine.pairs[pair].operation != nil { fail("at rest an operation is under way") }
            let state = machine.pairs[pair].copyState
            if state == .unsynchronized || machine.pairs[pair].wantsStart || machine.pairs[pair].isFlowingBack {
                fail("at rest pair \(pair) still copies")
            }
        }
    }

    // MARK: - Telling states apart

    /// All that decides what may happen next, with versions named in the order in which they are met.
    var signature: [Int] {
        var names: [Int: Int] = [:]
        func name(_ version: Int) -> Int {
            if let known = names[version] { return known }
            names[version] = names.count + 1
            return names.count
        }
        var words: [Int] = [isClosed ? 1 : 0, machine.hasWritten ? 1 : 0, machine.isClosing ? 1 : 0, isReplica ? 1 : 0]
        words += places + home
        for disk in disks {
            for granule in 0..<shape.granuleCount {
                words += [name(disk.cached[granule].version), name(disk.durable[granule].version)]
            }
        }
        for granule in 0..<shape.granuleCount {
            words.append(-1)
            words += history.allowed[granule].sorted().map(name)
            words.append(-1)
            words += history.afterPowerLoss[granule].sorted().map(name)
        }
        for ending in inFlight {
            let operation = ending.operation
            words += [-2, ending.element, Int(operation.leg), Int(operation.slot.index), Int(operation.extent.offset)]
            words.append(operation.kind.hashValueForSignature)
            words += buffers[operation.buffer.rawValue]?.map(name) ?? []
            if operation.kind == .flush { words += ending.snapshot.map { name($0.version) } }
        }
        words += history.waiting.flatMap { [-3, $0.granule] }
        words += halfCopied.sorted()
        for pair in pairs.indices { words += pairSignature(pair) }
        return words + machine.signature
    }

    private func pairSignature(_ pair: Int) -> [Int] {
        let association = pairs[pair]
        var words = [-4, association.expectsRebase ? 1 : 0, association.isTargetOwned ? 1 : 0]
        words.append(machine.pairs[pair].isReachable ? 1 : 0)
        words += association.outstanding.map { Int($0.rawValue) }
        let newest = association.blocks.map { block -> UInt64 in
            if case .valid(let record) = block { record.sequence } else { 0 }
        }
        words.append(newest[0] > newest[1] ? 1 : 0)
        for block in association.blocks {
            guard case .valid(let record) = block else {
                words.append(-5)
                continue
            }
            words += record.signature
        }
        if shape.keepsUndo {
            words += [association.undo.pageInFlight == nil ? 0 : 1, Int(association.undo.head[16])]
            words += [Int(association.undo.head[8])]
        }
        return words + (association.recordInFlight?.signature ?? [-6])
    }
}

extension ElementOperation.Kind {
    fileprivate var hashValueForSignature: Int { Int(rawValue) }
}

extension PairRecord {
    /// The fields that a start decides by.
    fileprivate var signature: [Int] {
        let flags = [
            isClosedCleanly, isSecondSource, isSecondPrimary, isTargetConsistent, isSourceAhead, isSourceInconsistent,
            hasUndo,
        ]
        return flags.reduce([Int(copyState), Int(operation)]) { $0 + [$1 ? 1 : 0] }
    }
}

extension VolumeMachine {
    /// All that decides what the machine does next, but for time and the order of slots that are free.
    fileprivate var signature: [Int] {
        var words = [
            -7, Int(gate.stage.rawValue), gate.pair, Int(gate.purpose.rawValue), gate.isPrimaryGivenUp ? 1 : 0,
        ]
        words += [gate.primaryFailure == nil ? 0 : 1, gate.otherFailure == nil ? 0 : 1, Int(closeStage.rawValue)]
        for index in 0..<slots.capacity {
            guard let id = slots.taken(at: index) else { continue }
            let request = slots[id]
            words += [-8, index, Int(request.purpose.rawValue), Int(request.stage.rawValue), Int(request.pendingLegs)]
            words += [Int(request.abandonedLegs), Int(request.host.extent.offset), Int(request.pair)]
            words += [request.sourceFailure == nil ? 0 : 1, Int(request.host.side), Int(request.issuedLegs)]
        }
        for index in 0..<pairs.count where pairs[index].isInUse { words += pairs[index].signature }
        return words
    }
}

extension Pair {
    fileprivate var signature: [Int] {
        var words = [
            -9, Int(copyState.rawValue), Int(operation?.rawValue ?? 0), Int(finishingOperation?.rawValue ?? 0),
        ]
        let flags = [
            isSecondSource, isSecondPrimary, isTargetConsistent, isSourceAhead, isSourceInconsistent, isResumeRequired,
            isFlowingBack, linkRestore == .running, linkRestore == .stopped, linkRestore == .lost, isRecordInFlight,
            isRecordWanted, hasRecordFailed, isOpenRecorded, isRecordImpossible,
            wantsCleanRecord, isRecordCritical, isCopyFlushInFlight, comparesFirst, wantsStart, wantsDetach,
        ]
        words.append(flags.reduce(0) { $0 * 2 + ($1 ? 1 : 0) })
        words += [recordAttempts, recordCopiesOwed, Int(cursor), copiesInFlight, copied.count, operationsInFlight]
        for position in 0..<copied.count { words.append(Int(copied[position].offset)) }
        words.append(store.fullFlush.map { Int($0.index) } ?? -1)
        if settings.keepsUndo {
            words += [Int(undo.stage.rawValue), undo.pageWriteCount, Self.bits(undo.saved), Self.bits(undo.stale)]
            words += [undo.isRollingBack ? 1 : 0, Int(undo.rollbackCursor), undo.rollbacksInFlight]
            words += [undo.hasPassed ? 1 : 0, undo.isWanted ? 1 : 0, Int(undo.generation)]
        }
        words += [Self.bits(dirty), Self.bits(targetChanged), Self.bits(unflushed), Self.bits(flushing)]
        return words
    }

    private static func bits(_ map: borrowing DirtyMap) -> Int {
        (0..<map.granuleCount).reduce(0) { $0 * 2 + (map.isDirty(granule: $1) ? 1 : 0) }
    }
}
