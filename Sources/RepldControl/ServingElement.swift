package import RepldCore
package import RepldDataPlane
package import RepldFormat

/// Which element of a volume serves its hosts: what the metadata records of its pairs say together.
///
/// An older copy must never be served for a newer one. So where the records leave a doubt, nobody serves:
///
///     records of the pairs                                      decision
///     each says that the first element serves                   the volume's own element
///     exactly one says that its second element serves           that pair's second element, and the pair has to attach
///     two say that their second elements serve                  nobody
///     one cannot be read, is blank, or is another pair's        nobody
///
/// A pair has a record before the registry has the pair, so one that is blank has lost it. One damaged block is no doubt, because a record that moves the service is in both blocks before a host may write.
package enum ServingElement: Hashable, Sendable {
    case first
    case second(pair: PairID, path: String, byteCount: UInt64, blockByteCount: UInt32?)
    case nobody(String)

    /// Decides by the pairs of one volume and what their metadata says.
    package static func decide(
        _ pairs: [(entry: PairEntry, recovery: PairRecordRecovery, metadata: MetadataPlace)]
    ) -> ServingElement {
        var claims: [(entry: PairEntry, record: PairRecord)] = []
        for pair in pairs {
            let detach = "or give the pair up: 'replctl set \(pair.entry.name) Detach' says what is lost"
            let mend = pair.metadata.isInternal ? "bring back \(pair.metadata.path) as it was" : "put back the file"
            switch pair.recovery {
            case .blank:
                return .nobody(
                    """
                    the metadata \(pair.metadata) of pair '\(pair.entry.name)' is all zeroes, and once had a record: nobody \
                    can say which element has the newer data; \(mend), \(detach)
                    """
                )
            case .found(let record), .older(let record, _):
                guard record.pair == pair.entry.id else {
                    return .nobody(
                        """
                        the metadata \(pair.metadata) of pair '\(pair.entry.name)' belongs to pair \(record.pair): nobody \
                        can say which element has the newer data; \(mend), \(detach)
                        """
                    )
                }
                if record.isSecondPrimary { claims.append((pair.entry, record)) }
            case .lost(let first, let second):
                return .nobody(
                    """
                    neither record in \(pair.metadata) of pair '\(pair.entry.name)' can be read (\(first.words); \
                    \(second.words)): nobody can say which element has the newer data; \(mend), \(detach)
                    """
                )
            }
        }
        guard let claim = claims.first else { return .first }
        guard claims.count == 1 else {
            let names = claims.map { "\($0.entry.targetPath) (pair '\($0.entry.name)')" }.joined(separator: " and ")
            return .nobody("\(names) both claim to serve it; detach the pair whose element is not the right one")
        }
        let block = claim.record.volumeBlockByteCount
        return .second(
            pair: claim.entry.id,
            path: claim.entry.targetPath,
            byteCount: claim.record.volumeByteCount,
            blockByteCount: block == 0 ? nil : block
        )
    }
}

extension PairRecordRecovery {
    /// The record that recovery goes by.
    package var record: PairRecord? {
        switch self {
        case .found(let record), .older(let record, _): record
        case .blank, .lost: nil
        }
    }
}
