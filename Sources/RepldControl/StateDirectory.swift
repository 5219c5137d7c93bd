internal import Foundation
internal import Glibc
package import RepldCore
package import RepldDataPlane
package import RepldFormat
package import SystemPackage

/// The directory in which the daemon keeps what must outlive it; held by one daemon at a time.
///
///     lock                  held with flock(2); holds the daemon's process id
///     registry.json         volumes and pairs
///     host-id               what the daemon calls itself to peers, made once
///     jobs.json             jobs that run, and the last ones that ended
///     users.json            users and the hashes of their passwords
///     pairs/PAIR-ID.meta    a pair's metadata area (`MetadataLayout`), where that is not in an element
///     pairs/PAIR-ID.replica of a peer's pair that has its other element here: the last record that the peer told of
///     pairs/PAIR-ID.undo    what a copy has overwritten on the pair's target, a sparse file
///     pairs/PAIR-ID.kept    the same of a replica, whose pair is a peer's
///     pairs/PAIR-ID.kept    the same of a replica, whose pair is a peer's
package struct StateDirectory: ~Copyable, Sendable {
    package let path: FilePath
    private let lock: FileDescriptor

    /// Makes the directory where it is missing, and takes it.
    package init(path: FilePath) throws(ControlError) {
        self.path = path
        do {
            try FileManager.default.createDirectory(
                atPath: path.appending("pairs").string,
                withIntermediateDirectories: true,
                attributes: [.posixPermissions: 0o700]
            )
        } catch {
            throw ControlError(
                .stateDirectory,
                "cannot make the state directory \(path)",
                suggestion: "name another with --state-dir, or make it and let the daemon's user write to it",
                underlying: error
            )
        }
        lock = try Self.takeLock(at: path.appending("lock"), directory: path)
    }

    deinit { try? lock.close() }

    package var registryPath: FilePath { path.appending("registry.json") }
    package var jobsPath: FilePath { path.appending("jobs.json") }
    package var usersPath: FilePath { path.appending("users.json") }

    /// Where the metadata of a pair is kept.
    package func metadataPlace(of pair: PairEntry) -> MetadataPlace {
        if let place = pair.internalMetadata { return MetadataPlace(element: place.elementPath, offset: place.offset) }
        return MetadataPlace(file: path.appending("pairs").appending("\(pair.id).meta").string)
    }

    /// Where a pair keeps what its copies overwrite.
    package func undoPath(of pair: PairID) -> FilePath {
        path.appending("pairs").appending("\(pair).undo")
    }

    /// Bytes that may still be written to its file system; `nil` when that does not say.
    package var freeByteCount: UInt64? {
        var facts = statvfs()
        guard unsafe statvfs(path.string, &facts) == 0 else { return nil }
        return UInt64(facts.f_bavail) * UInt64(facts.f_frsize)
    }

    /// Where a replica keeps what its peer overwrites.
    ///
    /// A pair that moves has files of both kinds for a moment, and those of the one are removed while the other's are in use.
    package func keptPath(of replica: PairID) -> FilePath {
        path.appending("pairs").appending("\(replica).kept")
    }

    /// Removes, durably, the metadata of a pair that is no more, and its undo area.
    package func removeFiles(of pair: PairEntry) throws(ControlError) {
        try changeMetadata(of: pair) { try PairMetadata.remove(pair.id, from: $0) }
        try changeMetadata(of: pair) { _ in try DurableFile.remove(undoPath(of: pair.id)) }
    }

    /// What the metadata of a pair says.
    package func readMetadata(of pair: PairEntry) throws(ControlError) -> PairRecordRecovery {
        let place = metadataPlace(of: pair)
        do {
            return try PairMetadata.read(place)
        } catch {
            throw ControlError(
                place.isInternal ? .elementUnavailable : .stateDirectory,
                "\(error)",
                suggestion: """
                    nothing is changed; try again when \(place.isInternal ? place.path : "the file system of the state directory") \
                    answers
                    """
            )
        }
    }

    /// Takes back, durably, all that is known of the element of a pair that does not serve: another one lies
    /// in its place.
    package func forgetTarget(of pair: PairEntry) throws(ControlError) {
        try changeMetadata(of: pair) { try PairMetadata.forgetTarget(of: pair.id, at: $0) }
    }

    /// Takes back, durably, that a pair was closed cleanly: from here on every byte of it may differ.
    package func forgetCleanClose(of pair: PairEntry) throws(ControlError) {
        try changeMetadata(of: pair) { try PairMetadata.forgetCleanClose(of: pair.id, at: $0) }
    }

    /// Takes back, durably, what is known of a pair's target, and leaves it to the operator to copy to it.
    package func leaveToOperator(_ pair: PairEntry) throws(ControlError) {
        try changeMetadata(of: pair) { try PairMetadata.leaveToOperator(pair.id, at: $0) }
    }

    /// Puts back what the record of a pair said before its target was forgotten.
    package func restore(_ record: PairRecord, of pair: PairEntry) throws(ControlError) {
        try changeMetadata(of: pair) { try PairMetadata.restore(record, of: pair.id, at: $0) }
    }

    /// Puts the first record into the metadata of a pair that is being made.
    package func begin(_ record: PairRecord, of pair: PairEntry) throws(ControlError) {
        try changeMetadata(of: pair) { try PairMetadata.begin(record, in: $0) }
    }

    /// Metadata files, whole or half written, and undo areas, of none of these pairs and replicas.
    ///
    /// A pair that moves to another host, or comes from there, has the files of both for a moment: the registry says which count.
    package func strayMetadata(besides pairs: [PairID], replicas: [PairID]) -> [FilePath] {
        let known = Set(
            pairs.flatMap { ["\($0).meta", "\($0).undo"] } + replicas.flatMap { ["\($0).replica", "\($0).kept"] }
        )
        let kinds = [".meta", ".replica"].flatMap { [$0, "\($0).tmp", "\($0).old"] } + [".undo", ".kept"]
        let names = (try? FileManager.default.contentsOfDirectory(atPath: path.appending("pairs").string)) ?? []
        return names.sorted()
            .filter { name in kinds.contains { name.hasSuffix($0) } && !known.contains(name) }
            .map { path.appending("pairs").appending($0) }
    }

    private func changeMetadata(
        of pair: PairEntry,
        _ change: (MetadataPlace) throws -> Void
    ) throws(ControlError) {
        let place = metadataPlace(of: pair)
        do {
            try change(place)
        } catch {
            throw ControlError(
                place.isInternal ? .elementUnavailable : .stateDirectory,
                "cannot write the pair metadata \(place)",
                underlying: error
            )
        }
    }

    private static func takeLock(at path: FilePath, directory: FilePath) throws(ControlError) -> FileDescriptor {
        do {
            let file = try FileDescriptor.open(
                path,
                .readWrite,
                options: [.create, .closeOnExec, .noFollow],
                permissions: [.ownerReadWrite]
            )
            guard flock(file.rawValue, LOCK_EX | LOCK_NB) == 0 else {
                let reason = Errno(rawValue: Glibc.errno)
                try? file.close()
                throw refusal(of: reason, path: path, directory: directory)
            }
            try file.resize(to: 0)
            // Only for words: a full file system is no reason not to start.
            _ = try? file.writeAll("\(getpid())\n".utf8)
            return file
        } catch let error as ControlError {
            throw error
        } catch {
            throw ControlError(
                .stateDirectory,
                "cannot lock the state directory \(directory)",
                suggestion: "the daemon's user must be able to write to it",
                underlying: error
            )
        }
    }

    private static func refusal(of reason: Errno, path: FilePath, directory: FilePath) -> ControlError {
        guard reason == .wouldBlock else {
            return ControlError(.stateDirectory, "cannot lock \(path)", underlying: reason)
        }
        let holder = (try? String(contentsOfFile: path.string, encoding: .utf8))?
            .trimmingCharacters(in: .whitespacesAndNewlines)
        let who = holder.flatMap { $0.isEmpty ? nil : "process \($0)" } ?? "another process"
        return ControlError(
            .stateDirectory,
            "the state directory \(directory) is in use by \(who)",
            suggestion: "stop that daemon, or give this one a --state-dir of its own"
        )
    }
}
