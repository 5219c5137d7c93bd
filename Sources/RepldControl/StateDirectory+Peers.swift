internal import Foundation
package import RepldCore
package import RepldDataPlane
internal import RepldFormat
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
        MetadataPlace(file: path.appending("pairs").appending("\(pair).meta").string)
    }

    /// Makes that area, without a record.
    package func beginReplica(_ pair: PairID) throws(ControlError) {
        let place = replicaMetadata(of: pair)
        do {
            try DurableFile.replace(FilePath(place.path), with: Data(count: PairRecord.areaByteCount))
        } catch {
            throw ControlError(.stateDirectory, "cannot write the pair metadata \(place)", underlying: error)
        }
    }

    /// Removes it durably, with what else the pair may have here.
    package func removeReplica(_ pair: PairID) throws(ControlError) {
        let place = replicaMetadata(of: pair)
        do {
            try DurableFile.remove(FilePath(place.path))
            try DurableFile.remove(undoPath(of: pair))
        } catch {
            throw ControlError(.stateDirectory, "cannot remove the pair metadata \(place)", underlying: error)
        }
    }
}
