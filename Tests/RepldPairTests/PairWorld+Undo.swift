import RepldCore
import RepldFormat

@testable import RepldPair

/// The undo areas of the world, and what must hold of them: at every instant a target that a copy has begun to overwrite can be
/// brought back to what it was, by what is durable alone.
extension PairWorld {
    struct UndoArea {
        /// The area's only page, as it is on disk.
        var head = [UInt8](repeating: 0, count: 4096)
        var pageInFlight: (place: Int, block: [UInt8])?
        /// What the target may have held, granule by granule, when the undo began that counts now.
        var image: [Set<Int>] = []
        var wasPresent = false
        var wasRollingBack = false
    }

    func element(ofLeg leg: UInt8) -> Int {
        Int(leg) <= VolumeMachine.pairLimit ? places[Int(leg)] : undoElement(Int(leg) - VolumeMachine.pairLimit - 1)
    }

    func undoElement(_ pair: Int) -> Int { shape.pairCount + 1 + pair }

    func leg(ofElement element: Int) -> Int? {
        guard element > shape.pairCount else { return places.firstIndex(of: element) }
        return element - shape.pairCount + VolumeMachine.pairLimit
    }

    func beginUndoPage(_ pair: Int, _ place: Int) {
        var block = [UInt8](repeating: 0, count: 4096)
        var span = block.mutableSpan
        var bytes = span.mutableBytes
        let offset = machine.encodeUndoPage(pair: pair, place: place, into: &bytes)
        if offset != 0 { fail("there is one page") }
        if pairs[pair].undo.pageInFlight != nil { fail("one page is written twice at once") }
        pairs[pair].undo.pageInFlight = (place, block)
        if shape.writesRecordsAtOnce { undoPageEnds(pair, isWritten: true) }
    }

    func undoPageEnds(_ pair: Int, isWritten: Bool) {
        guard let page = pairs[pair].undo.pageInFlight else { return }
        pairs[pair].undo.pageInFlight = nil
        if isWritten { pairs[pair].undo.head = page.block }
        machine.undoPageWritten(pair: pair, place: page.place, isWritten ? nil : .noSpace)
    }

    func emptyUndo(_ pair: Int) {
        for case .valid(let record) in pairs[pair].blocks where record.hasUndo {
            fail("the undo area of pair \(pair) is emptied while a block counts on it")
        }
        pairs[pair].undo.head = [UInt8](repeating: 0, count: 4096)
        let blank = Array(repeating: -1, count: shape.granuleCount)
        disks[undoElement(pair)].write(blank, at: 0, isDurable: true)
        machine.undoEmptied(pair: pair)
    }

    func recoveredUndo(_ pair: Int, _ record: PairRecord) -> RecoveredUndo? {
        guard shape.keepsUndo else { return nil }
        let head = pairs[pair].undo.head
        return RecoveredUndo.read(
            head.span.bytes,
            record,
            granuleByteCount: Self.granuleByteCount
        )
    }

    /// Keeps up what each target was when its undo began, and looks at it when a copy has been taken back.
    func noteUndos() {
        guard shape.keepsUndo else { return }
        for pair in pairs.indices where machine.pairs[pair].isInUse {
            let disk = disks[targetElement(pair)]
            let isPresent = machine.pairs[pair].undo.isPresent
            if isPresent, !pairs[pair].undo.wasPresent {
                pairs[pair].undo.image = (0..<shape.granuleCount).map {
                    [disk.cached[$0].version, disk.durable[$0].version]
                }
            }
            let isBack = pairs[pair].undo.wasRollingBack && !isPresent && machine.pairs[pair].isTargetConsistent
            if isBack {
                for granule in 0..<shape.granuleCount {
                    let found: Set<Int> = [disk.cached[granule].version, disk.durable[granule].version]
                    if !found.isSubset(of: pairs[pair].undo.image[granule]) {
                        fail("granule \(granule) was taken back to \(found), not \(pairs[pair].undo.image[granule])")
                    }
                }
                halfCopied.remove(targetElement(pair))
                rollbackCount += 1
            }
            pairs[pair].undo.wasPresent = isPresent
            pairs[pair].undo.wasRollingBack = machine.pairs[pair].undo.isRollingBack
        }
    }

    /// Whichever block of the record is read: what it counts on is there.
    func checkUndo(of pair: Int) {
        guard shape.keepsUndo, !machine.pairs[pair].isMisplaced else { return }
        let target = targetElement(pair)
        for case .valid(let record) in pairs[pair].blocks where record.hasUndo {
            guard let undo = recoveredUndo(pair, record) else { return fail("the undo of pair \(pair) is not whole") }
            for granule in 0..<shape.granuleCount {
                let isSaved = undo.saved[0] & 1 << UInt64(granule) != 0
                let image = pairs[pair].undo.image[granule]
                if isSaved {
                    let version = disks[undoElement(pair)].durable[granule].version
                    if !image.contains(version) { fail("granule \(granule) is saved as \(version), and was \(image)") }
                    continue
                }
                var found: Set<Int> = [disks[target].cached[granule].version, disks[target].durable[granule].version]
                for write in inFlight
                where write.element == target && granules(write.operation.extent).contains(granule) {
                    switch write.operation.kind {
                    case .write: found.formUnion(buffers[write.operation.buffer.rawValue] ?? [])
                    case .discard, .zeroMayDeallocate, .zeroKeepAllocated: found.insert(0)
                    case .read, .flush, .readAndCheckZero, .readAndCompare, .save: break
                    }
                }
                if !found.isSubset(of: image) {
                    fail("granule \(granule) is not saved, and may be \(found); it was \(image)")
                }
            }
        }
    }
}
