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
/// A pair with a peer is this host's only while the element that is here serves: whatever its record says, that is the volume's
/// own.
///
/// A pair has a record before the registry has the pair, so one that is blank has lost it. One damaged block is no doubt,
/// because a record that moves the service is in both blocks before a host may write.
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
            let wayOut = wayOut(pair.entry, pair.metadata)
            switch pair.recovery {
            case .blank:
                return .nobody(
                    """
                    the metadata \(pair.metadata) of pair '\(pair.entry.name)' is all zeroes, and once had a record: nobody \
                    can say which element has the newer data; \(wayOut)
                    """
                )
            case .found(let record), .older(let record, _):
                guard record.pair == pair.entry.id else {
                    return .nobody(
                        """
                        the metadata \(pair.metadata) of pair '\(pair.entry.name)' belongs to pair \(record.pair): nobody \
                        can say which element has the newer data; \(wayOut)
                        """
                    )
                }
                if record.isSecondPrimary, pair.entry.remote == nil { claims.append((pair.entry, record)) }
            case .lost(let first, let second):
                return .nobody(
                    """
                    neither record in \(pair.metadata) of pair '\(pair.entry.name)' can be read (\(first.words); \
                    \(second.words)): nobody can say which element has the newer data; \(wayOut)
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

    /// What a pair's metadata says cannot even be read.
    package static func unreadable(
        _ entry: PairEntry,
        _ place: MetadataPlace,
        because reason: PairMetadata.ReadError
    ) -> ServingElement {
        .nobody(
            """
            \(reason), and nobody can say which element has the newer data: \(wayOut(entry, place))
            """
        )
    }

    private static func wayOut(_ entry: PairEntry, _ place: MetadataPlace) -> String {
        let mend = place.isInternal ? "bring back \(place.path) as it was" : "put back the file"
        return "\(mend), or give the pair up: 'replctl set \(entry.name) Detach' says what is lost"
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
