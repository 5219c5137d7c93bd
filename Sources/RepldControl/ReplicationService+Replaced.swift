internal import Logging
internal import RepldCore
internal import RepldDataPlane
internal import RepldFormat
internal import RepldPair
internal import SystemPackage

/// Elements that are not what they were: another one is never served or taken for a copy in silence.
///
/// The element that is to serve hosts is not served, because its data is not what hosts know. The other one is attached, but
/// its pair forgets what it knew of it, durably and before: all of it is compared.
extension ReplicationService {
    /// Why an element must not serve the hosts of a volume; `nil` when nothing stands against it that can be seen here.
    ///
    /// `mark` is what it was, as far as the registry knows, and `byteCount` the size that hosts know.
    func objection(toServing path: String, _ mark: ElementMark?, _ byteCount: UInt64?, of entry: VolumeEntry) -> String?
    {
        guard let now = ElementMark.find(path) else { return nil }
        var reason: String
        if let mark, !mark.isSame(as: now) {
            reason = "\(path) is not the element that served the volume: it was \(mark.words), and is \(now.words)"
        } else if let needed = byteCount, now.byteCount < needed {
            reason = """
                \(path) has become too small: the volume has \(OperationWords.bytes(needed)), and it is \(now.words)
                """
        } else {
            return nil
        }
        reason += "; put back what was there and 'replctl volume retry \(entry.name)', or go on with it as it is: "
        if let pair = registry.content.pairs(of: entry).first {
            reason += "'replctl set \(pair.name) Detach' says what is lost"
        } else {
            reason += "'replctl volume rm \(entry.name)', and add it again"
        }
        return reason
    }

    /// The size that hosts know a volume by: the registry's, or that of its pairs' records; `nil` when it follows the element.
    func knownByteCount(of entry: VolumeEntry) -> UInt64? {
        let records = registry.content.pairs(of: entry).compactMap { pairs[$0.id]?.recovery?.record }
        return entry.byteCount ?? records.map(\.volumeByteCount).max()
    }

    /// Lets a pair forget what it knew of its target where another one lies in that place; durably, before it is attached.
    func forgetReplacedTarget(of entry: PairEntry) throws(ControlError) {
        let record = try state.readMetadata(of: entry.id).record
        guard let record, let volume = registry.content.volume(entry.volumeNumber) else { return }
        let path = record.isSecondPrimary ? volume.elementPath : entry.targetPath
        let known = record.isSecondPrimary ? volume.mark : entry.mark
        guard let known, let now = ElementMark.find(path), !known.isSame(as: now) else { return }
        try state.forgetTarget(of: entry.id)
        self.record(
            "target-replaced",
            volume: volume.name,
            pair: entry.name,
            message: """
                \(path) is not the target that the pair had: it was \(known.words), and is \(now.words); nothing of it counts \
                as equal, all of it is compared
                """,
            level: .warning
        )
    }

    /// Writes down what the elements are that have just been opened: all of a volume, or the target of one pair.
    ///
    /// Not those that have been open for long: at their paths may lie something else by now.
    ///
    /// Where that fails, what is written down stays older: the next start then finds a replaced target once more, and compares
    /// it once more.
    func noteElements(of number: UInt64, only single: PairID? = nil) {
        guard let volume = registry.content.volume(number), volumes[number]?.failure == nil else { return }
        let members = registry.content.pairs(of: volume).filter { pair in
            pairs[pair.id]?.failure == nil && (single == nil || pair.id == single)
        }
        var opened = volume
        // While the second element of a pair serves, the first is open as that pair's target, which had to attach.
        if single == nil { opened.mark = ElementMark.find(volume.elementPath) ?? volume.mark }
        let marked = members.map { pair in
            var pair = pair
            pair.mark = ElementMark.find(pair.targetPath) ?? pair.mark
            return pair
        }
        guard opened != volume || marked != members else { return }
        do {
            try registry.commit { content in
                for index in content.volumes.indices where content.volumes[index].number == number {
                    content.volumes[index].mark = opened.mark
                }
                for pair in marked {
                    guard let index = content.pairs.firstIndex(where: { $0.id == pair.id }) else { continue }
                    content.pairs[index].mark = pair.mark
                }
            }
        } catch {
            logger.warning("what the elements are cannot be written down", metadata: ["reason": "\(error)"])
        }
    }
}
