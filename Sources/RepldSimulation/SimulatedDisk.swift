package import RepldCore
internal import RepldEngine

/// A disk with a volatile write cache, in memory, that outlives the engine that uses it.
///
/// `contents` is what a read sees; `stable` is what is left after a loss of power, before the fate of each unflushed
/// write is drawn: lost, kept, or torn at a sector. So a crash can leave every state that an unflushed cache allows
/// (SQLite's pager quantifies over the same subsets).
///
/// Faults injected: failing everything, failing at a rate, latent sector errors (a read fails until the sector is
/// written), hanging until told otherwise, and not knowing how to zero. A flush that fails loses unflushed writes: reads find
/// the old data from then on, as of a device that lost its cache. Not injected here: a kernel that drops dirty pages and goes
/// on showing them, because elements here are direct; bit flips and misdirected writes of hosts' data, because without
/// checksums of its own no replicator can see them.
package final class SimulatedDisk {
    package static var sectorByteCount: Int { 512 }

    struct UnflushedWrite {
        var offset: Int
        var bytes: [UInt8]
    }

    package struct Faults: Sendable {
        /// Every operation fails, with this.
        package var failure: IOFailure?
        /// Reads and writes fail once in so many operations; 0 is never.
        package var failsOneIn: UInt64 = 0
        /// The next flush fails, and nothing else does.
        package var failsNextFlush = false
        /// Flushes succeed, whatever else fails.
        package var sparesFlushes = false
        /// Operations do not complete until this is false again.
        package var isStuck = false
        /// Zeroing and discarding are not known.
        package var lacksZeroing = false

        package init() {}
    }

    package let name: String
    package private(set) var contents: [UInt8]
    private var stable: [UInt8]
    private var unflushed: [UnflushedWrite] = []
    private var badSectors: [Bool]
    /// Sectors in which a failed flush lost something since a checker last asked.
    private var lostSectors: [Bool]
    private var hasLostSectors = false
    private var hasFailedFlush = false
    /// Writes and zeroings that took effect, in this life or an earlier one.
    package private(set) var writeCount: UInt64 = 0
    package var faults = Faults()

    /// Makes a disk of zeroes.
    package init(name: String, byteCount: Int) {
        self.name = name
        contents = Array(repeating: 0, count: byteCount)
        stable = contents
        badSectors = Array(repeating: false, count: byteCount / Self.sectorByteCount)
        lostSectors = badSectors
    }

    package var sectorCount: Int { badSectors.count }
    package var byteCount: Int { contents.count }

    package var geometry: ElementGeometry {
        ElementGeometry(
            byteCount: UInt64(byteCount),
            logicalBlockByteCount: UInt32(Self.sectorByteCount),
            physicalBlockByteCount: UInt32(Self.sectorByteCount),
            isReadOnly: false,
            canDiscard: !faults.lacksZeroing,
            canZeroFast: !faults.lacksZeroing,
            isDirect: true
        )
    }

    /// Makes reads of a sector fail until it is written.
    package func spoil(sector: Int) { badSectors[sector] = true }

    /// Makes a bad sector readable again, as it was.
    package func heal(sector: Int) { badSectors[sector] = false }

    /// Makes all bad sectors readable again.
    package func healSectors() {
        for sector in badSectors.indices { badSectors[sector] = false }
    }

    /// Whether a read of any of these sectors would fail.
    package func isBad(_ sectors: Range<Int>) -> Bool { badSectors[sectors].contains(true) }

    /// Makes an operation take effect; the failure it ends with, if any.
    func apply(_ operation: SimulatedOperation, random: inout RandomSource) -> IOFailure? {
        if faults.sparesFlushes, case .flush = operation.kind {
            for write in unflushed { keep(write) }
            unflushed.removeAll()
            return nil
        }
        if let failure = faults.failure {
            if case .flush = operation.kind { loseCache(random: &random) }
            return failure
        }
        if case .flush = operation.kind, faults.failsNextFlush {
            faults.failsNextFlush = false
            loseCache(random: &random)
            return .inputOutput
        }
        if random.chance(oneIn: faults.failsOneIn) {
            if case .flush = operation.kind { loseCache(random: &random) }
            // A write that fails may have done part of its work.
            if case .write(let offset, let memory, _) = operation.kind {
                let sectors = UInt64(memory.count / Self.sectorByteCount)
                let done = Int(random.below(sectors + 1)) * Self.sectorByteCount
                write(unsafe Array(memory[..<done]), at: offset, isDurable: false)
            }
            return .inputOutput
        }
        switch operation.kind {
        case .read(let offset, let memory):
            let sectors = offset / Self.sectorByteCount..<(offset + memory.count) / Self.sectorByteCount
            if sectors.contains(where: { badSectors[$0] }) { return .inputOutput }
            unsafe contents.withUnsafeBytes { bytes in
                unsafe memory.copyMemory(from: UnsafeRawBufferPointer(rebasing: bytes[offset..<offset + memory.count]))
            }
        case .write(let offset, let memory, let isDurable):
            write(unsafe Array(memory), at: offset, isDurable: isDurable)
        case .zero(let extent, let isDurable):
            if faults.lacksZeroing { return .notSupported }
            write(Array(repeating: 0, count: Int(extent.length)), at: Int(extent.offset), isDurable: isDurable)
        case .flush:
            for write in unflushed { keep(write) }
            unflushed.removeAll()
        case .queryAllocation:
            break
        }
        return nil
    }

    private func keep(_ write: UnflushedWrite) {
        stable.replaceSubrange(write.offset..<write.offset + write.bytes.count, with: write.bytes)
    }

    /// A flush failed: of what it was to make durable, some is durable, and the rest never will be.
    private func loseCache(random: inout RandomSource) {
        hasFailedFlush = true
        for write in unflushed {
            let sectors =
                write.offset / Self.sectorByteCount..<(write.offset + write.bytes.count) / Self.sectorByteCount
            for sector in sectors { lostSectors[sector] = true }
            hasLostSectors = true
            if random.chance(oneIn: 2) { keep(write) }
        }
        contents = stable
        unflushed.removeAll()
    }

    /// Whether a flush has failed since the last call.
    func takeFailedFlush() -> Bool {
        defer { hasFailedFlush = false }
        return hasFailedFlush
    }

    /// The sectors in which failed flushes lost something since the last call.
    package func takeLostSectors() -> [Int] {
        guard hasLostSectors else { return [] }
        hasLostSectors = false
        let lost = lostSectors.indices.filter { lostSectors[$0] }
        for sector in lost { lostSectors[sector] = false }
        return lost
    }

    private func write(_ bytes: [UInt8], at offset: Int, isDurable: Bool) {
        guard !bytes.isEmpty else { return }
        writeCount += 1
        contents.replaceSubrange(offset..<offset + bytes.count, with: bytes)
        for sector in offset / Self.sectorByteCount..<(offset + bytes.count) / Self.sectorByteCount {
            badSectors[sector] = false
        }
        if isDurable {
            // Older unflushed writes to the same place cannot come back over a durable one.
            cutUnflushed(offset..<offset + bytes.count)
            stable.replaceSubrange(offset..<offset + bytes.count, with: bytes)
        } else {
            unflushed.append(UnflushedWrite(offset: offset, bytes: bytes))
        }
    }

    private func cutUnflushed(_ range: Range<Int>) {
        unflushed = unflushed.flatMap { write -> [UnflushedWrite] in
            let written = write.offset..<write.offset + write.bytes.count
            guard written.overlaps(range) else { return [write] }
            let before = written.lowerBound..<max(written.lowerBound, range.lowerBound)
            let after = min(written.upperBound, range.upperBound)..<written.upperBound
            return [before, after].filter { !$0.isEmpty }.map { part in
                let start = part.lowerBound - write.offset
                return UnflushedWrite(offset: part.lowerBound, bytes: Array(write.bytes[start..<start + part.count]))
            }
        }
    }

    /// Power is lost: each unflushed write is lost, kept, or torn, as the dice fall.
    package func losePower(random: inout RandomSource) {
        for write in unflushed {
            let sectorCount = UInt64(write.bytes.count / Self.sectorByteCount)
            switch random.below(3) {
            case 0: continue
            case 1: stable.replaceSubrange(write.offset..<write.offset + write.bytes.count, with: write.bytes)
            default:
                let first = Int(random.below(sectorCount)) * Self.sectorByteCount
                let end = first + (1 + Int(random.below(sectorCount)) * Self.sectorByteCount)
                let upTo = min(write.bytes.count, (end / Self.sectorByteCount + 1) * Self.sectorByteCount)
                stable.replaceSubrange(write.offset + first..<write.offset + upTo, with: write.bytes[first..<upTo])
            }
        }
        unflushed.removeAll()
        contents = stable
    }

    /// What the disk holds now, for checkers.
    package func sector(_ index: Int) -> ArraySlice<UInt8> {
        contents[index * Self.sectorByteCount..<(index + 1) * Self.sectorByteCount]
    }

    /// The sectors in which another disk of the same size holds something else.
    package func sectors(differingFrom other: SimulatedDisk) -> [Int] {
        var found: [Int] = []
        unsafe contents.withUnsafeBytes { left in
            unsafe other.contents.withUnsafeBytes { right in
                for start in stride(from: 0, to: left.count, by: Self.sectorByteCount) {
                    let range = start..<start + Self.sectorByteCount
                    let isEqual = unsafe DataExamination.isEqual(
                        UnsafeRawBufferPointer(rebasing: left[range]),
                        UnsafeRawBufferPointer(rebasing: right[range])
                    )
                    if !isEqual { found.append(start / Self.sectorByteCount) }
                }
            }
        }
        return found
    }

    /// Whether nothing is left to lose: what is read is what a loss of power leaves.
    package var isStable: Bool { contents == stable }

    /// The first word of each sector as it may be after a loss of power, oldest first; the last one is what is read now.
    package func survivors() -> [[UInt64]] {
        func word(_ bytes: [UInt8], _ offset: Int) -> UInt64 {
            unsafe bytes.withUnsafeBytes { unsafe $0.loadUnaligned(fromByteOffset: offset, as: UInt64.self) }
        }
        var found = (0..<sectorCount).map { [word(stable, $0 * Self.sectorByteCount)] }
        for write in unflushed {
            for offset in stride(from: 0, to: write.bytes.count, by: Self.sectorByteCount) {
                found[(write.offset + offset) / Self.sectorByteCount].append(word(write.bytes, offset))
            }
        }
        for sector in 0..<sectorCount {
            let value = word(contents, sector * Self.sectorByteCount)
            if found[sector].last != value { found[sector].append(value) }
        }
        return found
    }

    /// Power is lost while an operation is under way: each sector of a write may be there or not.
    func tear(_ operation: SimulatedOperation, random: inout RandomSource) {
        guard case .write(let offset, let memory, let isDurable) = operation.kind, faults.failure == nil else { return }
        for start in stride(from: 0, to: memory.count, by: Self.sectorByteCount) where random.chance(oneIn: 2) {
            let sector = unsafe Array(memory[start..<start + Self.sectorByteCount])
            write(sector, at: offset + start, isDurable: isDurable)
        }
    }

    /// Writes without an operation, durable at once, as a control plane does while no engine has the disk.
    package func overwrite(_ bytes: [UInt8], at offset: Int) { write(bytes, at: offset, isDurable: true) }

    /// Damages bits of a byte for good.
    package func rot(at offset: Int, flipping bits: UInt8 = 0x40) {
        contents[offset] ^= bits
        stable[offset] ^= bits
    }

    /// Writes the cache back, as a disk may at any time.
    package func writeBack() {
        for write in unflushed { keep(write) }
        unflushed.removeAll()
    }

    /// Reads without an operation, as recovery does at start.
    package func bytes(_ range: Range<Int>) -> [UInt8] { Array(contents[range]) }
}

/// One operation on a simulated disk, from its start to its completion.
@safe
struct SimulatedOperation {
    @safe
    enum Kind {
        case read(Int, UnsafeMutableRawBufferPointer)
        case write(Int, UnsafeRawBufferPointer, isDurable: Bool)
        case zero(Extent, isDurable: Bool)
        case flush
        case queryAllocation
    }

    var disk: SimulatedDisk
    var kind: Kind
    var token: Token
    var dueAt: UInt64
    var sequence: UInt64
    var byteCount: UInt32
}
