/// The dump for people.
extension MetadataDump {
    /// Ranges that are listed; with more, their number is said.
    private static var listLimit: Int { 50 }

    package var text: String {
        var lines: [String] = []
        for (number, block) in blocks.enumerated() { lines += Self.lines(block, number) }
        lines.append("verdict        \(verdict)")
        if let areaBytes { lines.append("area           \(areaBytes) bytes from offset \(offset)") }
        lines.append("bitmaps        \(bitmapWords)")
        if let log {
            lines.append(
                "activity log   generation \(log.generation), sequence \(log.sequence), \(log.activeExtents) extents active"
            )
            lines += Self.lines(log.source, "active")
            lines += Self.lines(log.targetHosts, "active, target's hosts")
        } else if trust != "none" {
            lines.append("activity log   over: closed cleanly")
        }
        if let dirty {
            lines.append("may differ     \(dirty.dirtyBytes) bytes, because the source was written")
            lines += Self.lines(dirty.ranges, "dirty")
        }
        if let targetChanged {
            lines.append("target side    \(targetChanged.dirtyBytes) bytes, written by the target's own hosts")
            lines += Self.lines(targetChanged.ranges, "dirty, target's hosts")
        }
        lines.append("damaged        \(damagedSectors.count) sectors")
        for sector in damagedSectors.prefix(Self.listLimit) {
            lines.append("  \(sector.part) sector at \(sector.offset)")
        }
        if damagedSectors.count > Self.listLimit { lines.append("  and \(damagedSectors.count - Self.listLimit) more") }
        return lines.joined(separator: "\n")
    }

    private var bitmapWords: String {
        switch trust {
        case "exact": "each side has its own, with the extents of the activity log"
        case "union": "only both together say what may differ"
        default: "not to be relied on, everything may differ" + (distrust.map { ": \($0)" } ?? "")
        }
    }

    private static func lines(_ block: Block, _ number: Int) -> [String] {
        let title = "record \(number + 1)       "
        guard let record = block.record else { return [title + "at \(block.offset): \(block.damage ?? "not read")"] }
        let facts = [
            record.closedCleanly ? "closed cleanly" : "not closed cleanly",
            record.operation.map { "\($0) under way" },
            record.targetConsistent ? "target is a usable image" : "target is no usable image",
            record.sourceAhead ? "source is ahead" : nil,
            record.sourceInconsistent ? "source is half restored" : nil,
        ]
        return [
            title + "at \(block.offset): valid\(block.counts ? ", counts" : "")",
            "  sequence \(record.sequence), pair \(record.pair), \(record.copyState)",
            "  " + facts.compactMap { $0 }.joined(separator: ", "),
            "  source is the \(record.source) element, hosts are served by the \(record.servesHosts)",
            "  volume of \(record.volumeBytes) bytes"
                + (record.blockBytes == 0 ? "" : ", blocks of \(record.blockBytes)"),
            "  bitmaps \(record.bitmapTrust), granules of \(record.granuleBytes) bytes, log generation \(record.logGeneration), "
                + "extents of \(record.extentBytes) bytes",
        ]
    }

    private static func lines(_ ranges: [Range], _ what: String) -> [String] {
        var lines = ranges.prefix(listLimit).map { "  \(what) \($0.offset)+\($0.length)" }
        if ranges.count > listLimit { lines.append("  and \(ranges.count - listLimit) ranges more") }
        return lines
    }
}
