internal import RepldCore

/// What a target may hold that is an image of its source's past: what hosts were told, and when.
///
/// Every write has a number of its own, which fills its sectors. An image is *crash-consistent* when, for each write that it shows,
/// it shows (or has overwritten) every write that its host had been told is done before that one began: no host can have seen the one
/// without being entitled to the other. Writes that nobody was told of may be there or not. So the image is a prefix of the history in
/// the order of acknowledgement, but for writes that were under way together.
struct WriteOrder {
    private struct Write {
        var number: UInt64
        /// How many writes had been acknowledged when it began.
        var startedAfter: Int
        /// Its place in the order of acknowledgement; `nil` as long as nobody was told.
        var acknowledgedAs: Int?
    }

    /// Per sector, the writes in the order of beginning, in which overlapping ones are applied; the first stands for what was there before.
    private var sectors: [[Write]]
    private var acknowledgedCount = 0

    /// Begins with what is there.
    init(values: [UInt64]) {
        sectors = values.map { [Write(number: $0, startedAfter: 0, acknowledgedAs: -1)] }
    }

    mutating func began(_ number: UInt64, _ range: Range<Int>) {
        let write = Write(number: number, startedAfter: acknowledgedCount, acknowledgedAs: nil)
        for sector in range { sectors[sector].append(write) }
    }

    mutating func acknowledged(_ number: UInt64, _ range: Range<Int>) {
        let place = acknowledgedCount
        acknowledgedCount += 1
        for sector in range {
            guard let index = sectors[sector].lastIndex(where: { $0.number == number }) else { continue }
            sectors[sector][index].acknowledgedAs = place
        }
    }

    /// What is wrong with an image, in words; `nil` when it is one that a crash of the source could have left at some instant.
    ///
    /// `values` has what may be found in each sector; one of them has to fit, and for most there is only one.
    func flaw(in values: [UInt64]) -> String? {
        var latestStart = 0
        var places: [Int] = []
        for (sector, value) in values.enumerated() {
            guard let place = sectors[sector].lastIndex(where: { $0.number == value }) else {
                return "sector \(sector) holds \(value), which nobody wrote there"
            }
            places.append(place)
            latestStart = max(latestStart, sectors[sector][place].startedAfter)
        }
        for (sector, place) in places.enumerated() {
            for later in sectors[sector][(place + 1)...] {
                guard let acknowledged = later.acknowledgedAs, acknowledged < latestStart else { continue }
                return
                    "sector \(sector) holds \(values[sector]) and lacks \(later.number), which was acknowledged before "
                    + "something began that is there"
            }
        }
        return nil
    }
}
