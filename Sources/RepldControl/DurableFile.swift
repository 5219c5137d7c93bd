package import Foundation
internal import Glibc
package import SystemPackage

/// Replaces a file so that a crash at any point leaves the old content or the new, whole.
///
/// The order, each step before the next: the new content is written to `NAME.tmp`; that file is synced; it is renamed
/// over NAME; the directory is synced. Only after the last step is the change promised to anybody. What fails leaves the old
/// content: until the end it has a second name, `NAME.old`.
package enum DurableFile {
    /// The moments between which a crash may fall.
    package enum Step: Sendable, CaseIterable {
        case beforeCreate, afterCreate, afterHalfOfTheBytes, afterAllBytes, afterFileSync, afterRename
        case afterDirectorySync
    }

    /// Writes `bytes` as the whole content of `path`; `atStep` is told of each step, and what it throws ends the call.
    package static func replace(
        _ path: FilePath,
        with bytes: Data,
        atStep: (Step) throws -> Void = { _ in }
    ) throws {
        let temporary = path.removingLastComponent().appending("\(path.lastComponent?.string ?? "").tmp")
        try atStep(.beforeCreate)
        let file = try FileDescriptor.open(
            temporary,
            .writeOnly,
            options: [.create, .truncate, .closeOnExec, .noFollow],
            permissions: [.ownerReadWrite]
        )
        do {
            try atStep(.afterCreate)
            let half = bytes.count / 2
            try file.writeAll(bytes.prefix(half))
            try atStep(.afterHalfOfTheBytes)
            try file.writeAll(bytes.dropFirst(half))
            try atStep(.afterAllBytes)
            try sync(file)
        } catch {
            try? file.close()
            _ = unsafe Glibc.unlink(temporary.string)
            throw error
        }
        try file.close()
        try atStep(.afterFileSync)
        let old = path.removingLastComponent().appending("\(path.lastComponent?.string ?? "").old")
        do {
            try keep(path, as: old)
            try rename(temporary, to: path)
        } catch {
            _ = unsafe Glibc.unlink(temporary.string)
            _ = unsafe Glibc.unlink(old.string)
            throw error
        }
        do {
            try atStep(.afterRename)
            try syncDirectory(path.removingLastComponent())
            try atStep(.afterDirectorySync)
        } catch {
            try putBack(old, to: path, after: error)
            throw error
        }
        _ = unsafe Glibc.unlink(old.string)
    }

    /// The new content is there, cannot be made durable, and the old one does not come back: either may be there after a crash.
    package struct NotPutBack: Error, CustomStringConvertible {
        package var path: FilePath
        package var reason: any Error
        package var undoing: any Error

        package var description: String {
            "\(reason); and the old content of \(path) cannot be put back (\(undoing)): the change may be there at the next start"
        }
    }

    private static func keep(_ path: FilePath, as old: FilePath) throws {
        _ = unsafe Glibc.unlink(old.string)
        guard unsafe Glibc.link(path.string, old.string) == 0 || Glibc.errno == ENOENT else {
            throw Errno(rawValue: Glibc.errno)
        }
    }

    private static func rename(_ path: FilePath, to other: FilePath) throws {
        guard unsafe Glibc.rename(path.string, other.string) == 0 else { throw Errno(rawValue: Glibc.errno) }
    }

    private static func putBack(_ old: FilePath, to path: FilePath, after reason: any Error) throws {
        do {
            do {
                try rename(old, to: path)
            } catch Errno.noSuchFileOrDirectory {
                // There was none.
                guard unsafe Glibc.unlink(path.string) == 0 else { throw Errno(rawValue: Glibc.errno) }
            }
        } catch {
            throw NotPutBack(path: path, reason: reason, undoing: error)
        }
        try? syncDirectory(path.removingLastComponent())
    }

    /// Replaces a part of a file in its place, durably; a crash may leave that part, and nothing else, half written.
    ///
    /// Needs no space where the part has been written before. False, and nothing done, where the file ends before it.
    package static func overwrite(_ path: FilePath, at offset: Int64, with bytes: [UInt8]) throws -> Bool {
        let file: FileDescriptor
        do {
            file = try FileDescriptor.open(path, .readWrite, options: [.closeOnExec, .noFollow])
        } catch Errno.noSuchFileOrDirectory {
            return false
        }
        defer { try? file.close() }
        guard try file.seek(offset: 0, from: .end) >= offset + Int64(bytes.count) else { return false }
        try file.writeAll(toAbsoluteOffset: offset, bytes)
        try sync(file)
        return true
    }

    /// Removes a file for good; a file that is not there is fine.
    package static func remove(_ path: FilePath) throws {
        guard unsafe Glibc.unlink(path.string) == 0 || Glibc.errno == ENOENT else {
            throw Errno(rawValue: Glibc.errno)
        }
        try syncDirectory(path.removingLastComponent())
    }

    /// Makes a sparse file of `byteCount` bytes that must not exist yet.
    package static func createSparse(_ path: FilePath, byteCount: UInt64) throws {
        let file = try FileDescriptor.open(
            path,
            .readWrite,
            options: [.create, .exclusiveCreate, .closeOnExec],
            permissions: [.ownerReadWrite]
        )
        do {
            guard let size = Int64(exactly: byteCount) else { throw Errno.fileTooLarge }
            try file.resize(to: size)
            try sync(file)
            try file.close()
            try syncDirectory(path.removingLastComponent())
        } catch {
            try? file.close()
            unsafe Glibc.unlink(path.string)
            throw error
        }
    }

    /// Makes names in a directory durable.
    package static func syncDirectory(_ path: FilePath) throws {
        let directory = try FileDescriptor.open(path, .readOnly, options: [.directory, .closeOnExec])
        defer { try? directory.close() }
        try sync(directory)
    }

    private static func sync(_ file: FileDescriptor) throws {
        guard fsync(file.rawValue) == 0 else { throw Errno(rawValue: Glibc.errno) }
    }
}
