internal import Foundation
internal import Logging
package import RepldControlAPI
internal import RepldCore
internal import RepldDataPlane
internal import RepldEngine
internal import SystemPackage

/// Volumes: add, remove, open again
extension ReplicationService {
    /// Opens an element, serves it under a name, and remembers it.
    package func addVolume(_ request: VolumeAddRequest) async throws(ControlError) -> VolumeReply {
        let name = request.name
        if let fault = ObjectName.fault(of: name) { throw ControlError(.invalidName, fault) }
        let path = try Self.absolute(request.elementPath, field: "elementPath")
        let subject = "volume \(name)"
        try begin("add", on: subject)
        defer { end(on: subject) }
        if registry.content.volume(named: name) != nil {
            throw ControlError(
                .nameInUse,
                "there is a volume '\(name)' already",
                suggestion: "choose another name, or remove that one with 'replctl volume rm \(name)'"
            )
        }
        try checkUnused(path)
        let isReadOnly = request.isReadOnly ?? false
        if let byteCount = request.createByteCount {
            try makeElement(path, byteCount: byteCount, isReadOnly: isReadOnly)
        }
        do {
            try await serve(name, path, isReadOnly: isReadOnly, byteCount(for: request, path))
        } catch {
            if request.createByteCount != nil { try? DurableFile.remove(FilePath(path)) }
            throw error
        }
        record("volume-added", volume: name, message: "volume '\(name)' is served from \(path)", level: .notice)
        return try await volume(named: name)
    }

    /// Stops serving a volume and forgets it; the element stays as it is.
    package func removeVolume(named name: String, isForced: Bool) async throws(ControlError) {
        let subject = "volume \(name)"
        try begin("remove", on: subject)
        defer { end(on: subject) }
        let entry = try volumeEntry(named: name)
        let attached = registry.content.pairs(of: entry).map(\.name)
        if let first = attached.first {
            throw ControlError(
                .volumeHasPairs,
                "volume '\(name)' is the source of \(attached.map { "'\($0)'" }.joined(separator: ", "))",
                suggestion: "detach first: 'replctl set \(first) Detach'"
            )
        }
        try checkIsNoReplica(entry, "cannot be removed")
        if volumes[entry.number]?.failure == nil {
            do {
                try await plane.removeVolume(entry.id, isForced: isForced)
            } catch {
                throw Self.controlError(error, "cannot remove volume '\(name)'")
            }
            volumes[entry.number] = VolumeRuntime(failure: "it is being removed")
        }
        try registry.commit { $0.volumes.removeAll { $0.number == entry.number } }
        volumes[entry.number] = nil
        record("volume-removed", volume: name, message: "volume '\(name)' is no longer served", level: .notice)
    }

    /// Tries again to open a volume that is not served, and its pairs.
    package func retryVolume(named name: String) async throws(ControlError) -> VolumeReply {
        let subject = "volume \(name)"
        try begin("retry", on: subject)
        defer { end(on: subject) }
        let entry = try volumeEntry(named: name)
        guard volumes[entry.number]?.failure != nil else { return try await volume(named: name) }
        // Hosts may connect the moment the volume is open, before its pairs are attached: from here on every byte of
        // those may differ.
        for pair in registry.content.pairs(of: entry) { try state.forgetCleanClose(of: pair) }
        try await open(entry)
        if let reason = volumes[entry.number]?.failure {
            throw ControlError(.elementUnavailable, "volume '\(name)' still cannot be served: \(reason)")
        }
        for pair in registry.content.pairs(of: entry) { countRevision(of: pair.id) }
        record("volume-served", volume: name, message: "volume '\(name)' is served again", level: .notice)
        return try await volume(named: name)
    }

    func volumeEntry(named name: String) throws(ControlError) -> VolumeEntry {
        guard let entry = registry.content.volume(named: name) else {
            let known = registry.content.volumes.map(\.name)
            throw ControlError(
                .volumeNotFound,
                "there is no volume '\(name)'",
                suggestion: Suggestion.nearest(to: name, among: known).map { "did you mean '\($0)'?" }
                    ?? "'replctl volume ls' lists them"
            )
        }
        return entry
    }

    /// Refuses an element that is already a volume's or a pair's, under whatever name.
    func checkUnused(_ path: String) throws(ControlError) {
        let identity = ElementIdentity(path: path)
        func isSame(_ other: String) -> Bool {
            other == path || (identity != nil && ElementIdentity(path: other) == identity)
        }
        if let volume = registry.content.volumes.first(where: { isSame($0.elementPath) }) {
            throw ControlError(.elementInUse, "\(path) is the element of volume '\(volume.name)' already")
        }
        if let pair = registry.content.pairs.first(where: { isSame($0.targetPath) }) {
            throw ControlError(.elementInUse, "\(path) is the target of pair '\(pair.name)' already")
        }
        let areas = registry.content.pairs.map { ($0.name, $0.internalMetadata) } + Array(endingMetadata)
        if let pair = areas.first(where: { $0.1.map { isSame($0.elementPath) } ?? false }) {
            throw ControlError(.elementInUse, "\(path) has the metadata of pair '\(pair.0)'")
        }
    }

    /// Makes a sparse file to be an element.
    func makeElement(_ path: String, byteCount: UInt64, isReadOnly: Bool = false) throws(ControlError) {
        if isReadOnly {
            throw ControlError(.invalidRequest, "a new element is empty; it makes no sense to serve it read-only")
        }
        guard byteCount > 0, byteCount % 4096 == 0, byteCount <= 1 << 60 else {
            throw ControlError(
                .invalidSettings,
                "the size of a new element is \(byteCount) bytes; expected a multiple of 4KiB, at most 1024PiB"
            )
        }
        do {
            try DurableFile.createSparse(FilePath(path), byteCount: byteCount)
        } catch Errno.fileExists {
            throw ControlError(
                .elementExists,
                "\(path) exists already",
                suggestion: "leave out --create to use it as it is, or name another path"
            )
        } catch {
            throw ControlError(.elementUnavailable, "cannot make \(path)", underlying: error)
        }
    }

    static func absolute(_ path: String, field: String) throws(ControlError) -> String {
        guard path.hasPrefix("/"), !path.utf8.contains(0), path.utf8.count < 4096 else {
            throw ControlError(.invalidRequest, "\(field): found '\(path)', expected an absolute path")
        }
        return FilePath(path).lexicallyNormalized().string
    }

    /// Opens, then commits; what was opened is closed again when the registry cannot be written.
    private func serve(
        _ name: String,
        _ path: String,
        isReadOnly: Bool,
        _ byteCount: UInt64?
    ) async throws(ControlError) {
        // The number is taken before the await: two additions at once must not get the same.
        let number = registry.content.nextVolumeNumber
        try registry.commit { $0.nextVolumeNumber = number + 1 }
        var entry = VolumeEntry(
            number: number,
            name: name,
            elementPath: path,
            isReadOnly: isReadOnly,
            createdAt: Date(),
            byteCount: byteCount
        )
        let geometry: ElementGeometry
        do {
            geometry = try await plane.addVolume(opening(of: entry))
        } catch {
            throw Self.controlError(error, "cannot open \(path) as volume '\(name)'")
        }
        entry.mark = ElementMark.find(path)
        do {
            try registry.commit { [entry] in $0.volumes.append(entry) }
        } catch {
            try? await plane.removeVolume(entry.id, isForced: true)
            throw error
        }
        volumes[number] = VolumeRuntime(geometry: geometry)
    }
}
