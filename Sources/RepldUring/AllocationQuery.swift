import CRepldLinux
import Glibc
import RepldCore
import RepldEngine

/// Asks a file system where an element's data is, on a worker's thread, because SEEK_DATA may read metadata from disk.
@safe
struct AllocationQuery: WorkerJob {
    var id: SlotID
    var descriptor: Int32
    var start: UInt64
    var end: UInt64
    var blockByteCount: UInt64
    /// Room for the answer.
    var runs: UnsafeMutableBufferPointer<AllocationRun>

    static var blank: AllocationQuery {
        unsafe AllocationQuery(
            id: SlotID(index: 0, generation: 0),
            descriptor: -1,
            start: 0,
            end: 0,
            blockByteCount: 1,
            runs: UnsafeMutableBufferPointer(start: nil, count: 0)
        )
    }

    /// Walks data and holes.
    ///
    /// A hole that does not fill whole blocks counts as data at its ends.
    func carryOut() -> WorkerAnswer {
        var count = 0
        var place = start
        let mask = blockByteCount &- 1
        while unsafe place < end && count < runs.count {
            guard let data = seek(place, repld_SEEK_DATA, orElse: end) else {
                if errno != EINVAL && errno != EOPNOTSUPP {
                    return WorkerAnswer(id: id, count: 0, errorNumber: errno)
                }
                // This file system cannot tell: all of it may be data.
                unsafe runs[count] = AllocationRun(end: end, isHole: false)
                return WorkerAnswer(id: id, count: UInt32(count + 1))
            }
            let dataStart = data >= end ? end : max(data & ~mask, place)
            if dataStart > place {
                unsafe runs[count] = AllocationRun(end: dataStart, isHole: true)
                count += 1
                place = dataStart
                continue
            }
            guard let hole = seek(place, repld_SEEK_HOLE, orElse: end) else {
                return WorkerAnswer(id: id, count: 0, errorNumber: errno)
            }
            // A run is at least one block, so that the walk ends.
            let dataEnd = min(max((hole &+ mask) & ~mask, place &+ blockByteCount), end)
            unsafe runs[count] = AllocationRun(end: dataEnd, isHole: false)
            count += 1
            place = dataEnd
        }
        return WorkerAnswer(id: id, count: UInt32(count))
    }

    /// The place that `lseek` finds; behind the last data (ENXIO) it is `end`; `nil` with `errno` when it fails.
    private func seek(_ place: UInt64, _ what: Int32, orElse end: UInt64) -> UInt64? {
        let found = lseek(descriptor, off_t(place), what)
        if found >= 0 { return UInt64(found) }
        return errno == ENXIO ? end : nil
    }
}
