internal import RepldCore

/// What a host may find in each sector, from the writes it made and the answers it got.
///
/// Every write has a number of its own and a value that it fills its sectors with (0 for zeroes). Per sector, the writes
/// whose value may be there are kept in the order of asking, in which overlapping requests are applied (rule 5):
/// - an acknowledged write makes all earlier ones impossible to *read*;
/// - an acknowledged flush (or FUA) makes all that came before a write that it covers impossible to find *after a crash*;
/// - a failed write may have happened or not, until a later one is acknowledged.
struct WriteHistory {
    private struct Entry {
        var number: UInt64
        var value: UInt64
        var isAcknowledged: Bool
    }

    private var sectors: [[Entry]]

    init(sectorCount: Int) {
        sectors = Array(repeating: [Entry(number: 0, value: 0, isAcknowledged: true)], count: sectorCount)
    }

    mutating func submitted(_ number: UInt64, value: UInt64, _ range: Range<Int>) {
        for sector in range {
            sectors[sector].append(Entry(number: number, value: value, isAcknowledged: false))
        }
    }

    mutating func acknowledged(_ number: UInt64, _ range: Range<Int>, isDurable: Bool) {
        for sector in range {
            // A later write that became durable first has already made this one the past.
            guard let index = sectors[sector].lastIndex(where: { $0.number == number }) else { continue }
            sectors[sector][index].isAcknowledged = true
            if isDurable { sectors[sector].removeFirst(index) }
        }
    }

    /// The last acknowledged write of each sector: what a flush that is submitted now covers.
    func covered() -> [UInt64] {
        sectors.map { entries in entries.last(where: { $0.isAcknowledged })?.number ?? 0 }
    }

    /// A flush that covered `numbers` is acknowledged.
    mutating func flushed(covering numbers: [UInt64]) {
        for sector in sectors.indices {
            if let index = sectors[sector].firstIndex(where: { $0.number == numbers[sector] }) {
                sectors[sector].removeFirst(index)
            }
        }
    }

    /// The values that a read which ends now may find.
    func readable(_ sector: Int) -> [UInt64] {
        let entries = sectors[sector]
        let first = entries.lastIndex(where: { $0.isAcknowledged }) ?? 0
        return entries[first...].map(\.value)
    }

    /// The values that a sector may hold after a crash.
    func survivors(_ sector: Int) -> [UInt64] { sectors[sector].map(\.value) }

    /// Takes over what another history says of a sector, and the requests that are in flight there.
    mutating func takeOver(_ sector: Int, from other: WriteHistory, pending: [(number: UInt64, value: UInt64)]) {
        sectors[sector] = other.sectors[sector]
        append(pending, to: sector)
    }

    /// The image is another from here on: what may survive there (the last value is what is read now), and the requests
    /// that are in flight.
    mutating func rebase(_ sector: Int, on values: [UInt64], pending: [(number: UInt64, value: UInt64)]) {
        let last = values.count - 1
        sectors[sector] = values.enumerated().map { Entry(number: 0, value: $1, isAcknowledged: $0 == last) }
        append(pending, to: sector)
    }

    private mutating func append(_ pending: [(number: UInt64, value: UInt64)], to sector: Int) {
        for write in pending where !sectors[sector].contains(where: { $0.number == write.number }) {
            sectors[sector].append(Entry(number: write.number, value: write.value, isAcknowledged: false))
        }
    }

    /// A failed flush lost something here: any of the values since the last durable one may be read from now on, and no later
    /// flush brings the lost ones back.
    mutating func unsettle(_ sector: Int) {
        sectors[sector] = sectors[sector].enumerated().map {
            Entry(number: 0, value: $1.value, isAcknowledged: $0 == 0)
        }
    }

    /// The same image, left behind by its hosts: no answer is about it from now on.
    func withoutRequests() -> WriteHistory {
        var left = self
        for sector in left.sectors.indices {
            for index in left.sectors[sector].indices where !left.sectors[sector][index].isAcknowledged {
                left.sectors[sector][index].number = 0
            }
        }
        return left
    }

    /// Adds what another history allows, for one that only says what may survive.
    mutating func widen(by other: WriteHistory) {
        for sector in sectors.indices {
            let known = survivors(sector)
            let added = other.sectors[sector].filter { !known.contains($0.value) }
            sectors[sector].append(contentsOf: added)
        }
    }

    var sectorCount: Int { sectors.count }

    /// After a crash, what is there is the past.
    mutating func settle(_ value: UInt64, _ sector: Int) {
        sectors[sector] = [Entry(number: 0, value: value, isAcknowledged: true)]
    }
}
