internal import Glibc

/// Which file or device a path leads to, so that two names of one element are seen to be one.
struct ElementIdentity: Hashable {
    private let kind: UInt32
    private let major: UInt64
    private let minor: UInt64

    /// `nil` when there is nothing at that path, or it may not be looked at.
    init?(path: String) {
        var record = stat()
        guard unsafe stat(path, &record) == 0 else { return nil }
        kind = record.st_mode & S_IFMT
        let isDevice = kind == S_IFBLK
        major = isDevice ? UInt64(record.st_rdev) : UInt64(record.st_dev)
        minor = isDevice ? 0 : UInt64(record.st_ino)
    }
}

extension ElementIdentity {
    /// What two paths of one element have in common: the element where there is one, the path itself elsewhere.
    static func key(of path: String) -> Key { ElementIdentity(path: path).map { .element($0) } ?? .path(path) }

    enum Key: Hashable { case element(ElementIdentity), path(String) }
}
