internal import Foundation
package import RepldCore
package import RepldDataPlane
package import RepldFormat
internal import SystemPackage

/// What the state directory keeps for peers
extension StateDirectory {
    /// What the daemon calls itself to peers: made at its first start, and the same ever after.
    ///
    /// A file that cannot be read is refused and not replaced: peers know their pairs by it.
    package func hostID() throws(ControlError) -> PairID {
        let path = path.appending("host-id")
        guard FileManager.default.fileExists(atPath: path.string) else { return try makeHostID(path) }
        let text: String
        do {
            text = try String(contentsOfFile: path.string, encoding: .utf8)
        } catch {
            throw ControlError(.stateDirectory, "cannot read \(path)", underlying: error)
        }
        guard let id = PairID(text.trimmingCharacters(in: .newlines)) else {
            throw ControlError(
                .stateDirectory,
                "\(path) is damaged: expected 32 lower-case hexadecimal digits",
                suggestion: """
                    put it back from a backup; or, where no pair has an element at a peer, remove it, and a new one is made
                    """
            )
        }
        return id
    }

    private func makeHostID(_ path: FilePath) throws(ControlError) -> PairID {
        var random = SystemRandomNumberGenerator()
        let id = PairID(high: random.next(), low: random.next())
        do {
            try DurableFile.replace(path, with: Data("\(id)\n".utf8))
        } catch {
            throw ControlError(
                .stateDirectory,
                "cannot write \(path)",
                suggestion: "check the space and the permissions of that directory",
                underlying: error
            )
        }
        return id
    }

    /// Where the last record is kept that a peer told of a pair that has its other element here.
    package func replicaMetadata(of pair: PairID) -> MetadataPlace {
        MetadataPlace(file: replicaPath(of: pair).string)
    }

    private func replicaPath(of pair: PairID) -> FilePath { path.appending("pairs").appending("\(pair).replica") }

    /// Makes that area, without a record, or with the one that a pair has moved with.
    package func beginReplica(_ pair: PairID, _ record: PairRecord? = nil) throws(ControlError) {
        var area = [UInt8](repeating: 0, count: PairRecord.areaByteCount)
        if let record {
            let start = Int(record.areaOffset)
            area.replaceSubrange(start..<start + PairRecord.blockByteCount, with: PairMetadata.block(with: record))
        }
        do {
            try DurableFile.replace(replicaPath(of: pair), with: Data(area))
        } catch {
            throw ControlError(
                .stateDirectory,
                "cannot write the pair metadata \(replicaMetadata(of: pair))",
                underlying: error
            )
        }
    }

    /// The name that older daemons gave the area is that of a pair's own.
    package func renameReplica(_ pair: PairID) throws(ControlError) {
        let older = path.appending("pairs").appending("\(pair).meta")
        let area = replicaPath(of: pair)
        guard !FileManager.default.fileExists(atPath: area.string) else { return }
        do {
            guard FileManager.default.fileExists(atPath: older.string) else { return }
            try FileManager.default.moveItem(atPath: older.string, toPath: area.string)
            try DurableFile.syncDirectory(path.appending("pairs"))
        } catch {
            throw ControlError(.stateDirectory, "cannot rename the pair metadata \(older)", underlying: error)
        }
    }

    /// Removes it durably, with what else the pair may have here.
    package func removeReplica(_ pair: PairID) throws(ControlError) {
        do {
            try DurableFile.remove(replicaPath(of: pair))
            try DurableFile.remove(keptPath(of: pair))
        } catch {
            throw ControlError(
                .stateDirectory,
                "cannot remove the pair metadata \(replicaMetadata(of: pair))",
                underlying: error
            )
        }
    }

    /// Removes the area of a replica that has become a pair of this host, which has one of its own.
    package func removeReplicaArea(_ pair: PairID) {
        try? DurableFile.remove(replicaPath(of: pair))
        try? DurableFile.remove(keptPath(of: pair))
    }
}
