import Foundation
import RepldCore
import RepldTestSupport

/// Where things lie in a pair's metadata file, as far as the tests that damage it have to know: here, and nowhere else.
enum MetadataLayout {
    /// The two record blocks; the newer record is in one of them.
    static let records = [0..<4096, 4096..<8192]
    /// What follows them in a file that has it: the ring of the activity log, and the pages of the bitmap.
    static let activityLog = 8192..<8192 + 8 * 4096
    static let bitmap = 65536..<Int.max

    /// The regions that a file of this size has.
    static func regions(byteCount: Int) -> [Range<Int>] {
        (records + [activityLog, bitmap]).map { $0.clamped(to: 0..<byteCount) }.filter { !$0.isEmpty }
    }

    /// Both record blocks: without them nobody knows which element serves.
    static let allRecords = 0..<8192
}

extension Torture {
    /// Damages some range of one region, or across regions, in some way; never all of the records by zeroes.
    mutating func damage(_ file: DamagedFile, earlier: [UInt8], other: [UInt8]) throws -> String {
        let byteCount = try file.content().count
        var words: [String] = []
        for _ in 0..<number(1...3) {
            var range = choice(MetadataLayout.regions(byteCount: byteCount))
            if random.chance(oneIn: 2) {
                let length = UInt64(range.count)
                let start = range.lowerBound + Int(random.below(length))
                range = start..<min(start + Int(number(1...length)), range.upperBound)
            }
            let kinds: [DamagedFile.Damage] = [
                .zeroed, .bitFlipped(Int(random.below(UInt64(range.count) * 8))),
                // Near the beginning, where a record has its bytes, and at least one byte in: no whole older record comes back.
                .torn(earlier: earlier, keeping: Int(number(1...64))),
                .replaced(with: other), .garbage(UInt8(random.below(256))),
            ]
            let kind = choice(kinds)
            try file.damage(range, kind)
            words.append("\(range) \(Self.name(of: kind))")
        }
        if try file.content().prefix(MetadataLayout.allRecords.count).allSatisfy({ $0 == 0 }) {
            try file.damage(MetadataLayout.records[0], .bitFlipped(0))
            words.append("and a bit of that")
        }
        return words.joined(separator: ", ")
    }

    private static func name(of kind: DamagedFile.Damage) -> String {
        switch kind {
        case .zeroed: "zeroed"
        case .bitFlipped(let bit): "bit \(bit) flipped"
        case .torn(_, let kept): "torn after \(kept) bytes"
        case .replaced: "another pair's"
        case .garbage: "garbage"
        }
    }
}

extension Mirror {
    /// The metadata file of the pair; the only one, unless there are more pairs.
    func metadata() throws -> DamagedFile {
        let id = try daemon.pair(Self.pair).id
        return DamagedFile(path: "\(daemon.stateDirectory)/pairs/\(id).meta")
    }

    /// Why the volume is not served; `nil` when it is.
    func refusal() throws -> String? {
        let volume = try daemon.volume(Self.volume)
        return volume.activity == nil ? volume.reason ?? "" : nil
    }

    /// Brings the pair to Synchronized, from whatever state it is in, without overwriting what serves hosts.
    func settle() throws {
        let before = try daemon.pair(Self.pair)
        switch before.copyState.name {
        case "Initialized", "Prepared", "Inactive": try set("Activate", "Synchronized")
        case "Suspended": try set("Resume", "Synchronized")
        case "Restored": try set("Resume", "Synchronized")
        case "Failedover": try set("Failback", "Synchronized", isForced: true)
        case "Broken", "Split", "Fractured", "Aborted": try set("ResyncReplica", "Synchronized")
        default: try daemon.waitForCopyState("Synchronized", of: Self.pair)
        }
    }
}
