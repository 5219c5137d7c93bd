internal import Logging
internal import RepldCore
internal import RepldDataPlane
internal import RepldFormat
internal import RepldPair
internal import SystemPackage

/// Elements that are not what they were: another one is never served or taken for a copy in silence.
///
/// The element that is to serve hosts is not served, because its data is not what hosts know. The other one is attached, but
/// its pair forgets what it knew of it, durably and before. Nothing is copied to it either until somebody asks for that: names
/// that a start of the machine has shuffled must not cost somebody else's data.
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
        } else if let replica = registry.content.replica(of: entry) {
            reason += "'replctl set \(replica.name) Detach' says what is lost"
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
    ///
    /// Answers what the record said before; `nil` where it says that still.
    func forgetReplacedTarget(of entry: PairEntry) throws(ControlError) -> PairRecord? {
        // What lies at a peer's is the peer's to see.
        guard entry.remote == nil else { return nil }
        let record = try state.readMetadata(of: entry).record
        guard let record, let volume = registry.content.volume(entry.volumeNumber) else { return nil }
        let path = record.isSecondPrimary ? volume.elementPath : entry.targetPath
        let known = record.isSecondPrimary ? volume.mark : entry.mark
        guard let known, let now = ElementMark.find(path), !known.isSame(as: now) else { return nil }
        try state.forgetTarget(of: entry)
        let words = "\(path) is not the target that the pair had: it was \(known.words), and is \(now.words)"
        pairs[entry.id]?.replacement = words
        self.record(
            "target-replaced",
            volume: volume.name,
            pair: entry.name,
            message: "\(words); nothing of it counts as equal, and nothing is copied to it before that is asked for",
            level: .error
        )
        return record
    }

    /// Puts back what a pair knew of its target where the other one could not be attached.
    func rememberTarget(_ record: PairRecord, of entry: PairEntry) throws(ControlError) {
        try state.restore(record, of: entry)
        pairs[entry.id]?.replacement = nil
    }

    /// Why a pair is Broken that cannot know it from the data plane.
    func replacementWords(of entry: PairEntry) -> String? {
        guard let words = pairs[entry.id]?.replacement ?? entry.replacement else { return nil }
        return "\(words); put back what was there, or overwrite it: 'replctl set \(entry.name) ResyncReplica'"
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
            pair.replacement = pairs[pair.id]?.replacement ?? pair.replacement
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
                    content.pairs[index].replacement = pair.replacement
                }
            }
        } catch {
            logger.warning("what the elements are cannot be written down", metadata: ["reason": "\(error)"])
        }
    }
}
