import CRepldLinux
import Glibc

/// Why nobody can be listened to at an address.
package struct ListenError: Error, Sendable, Hashable, CustomStringConvertible {
    package enum Reason: Sendable, Hashable {
        /// Somebody answers there.
        case inUse
        /// Something that is not a socket has that name.
        case notASocket
        case pathTooLong(limit: Int)
        case unknownHost(words: String)
        case system(step: String, errorNumber: Int32)
    }

    /// The path, or host and port.
    package let address: String
    package let reason: Reason

    package var description: String {
        switch reason {
        case .inUse: "\(address) is in use by another server; stop it or choose another address"
        case .notASocket: "\(address) exists and is not a socket; remove it or choose another path"
        case .pathTooLong(let limit): "\(address) is too long for a socket; at most \(limit) bytes"
        case .unknownHost(let words): "\(address): \(words); give a host name or address of this machine"
        case .system(let step, let number): "\(address): \(step) failed: \(errorText(number))"
        }
    }
}

/// A listening socket; closed, and its path removed, when the last reference goes.
package final class Listener: Sendable {
    /// Connections that the kernel keeps until they are accepted.
    private static let backlog: Int32 = 128
    /// sun_path with its terminating zero is 108 bytes.
    package static let longestPath = 107

    /// The path, or host and port, for people.
    package let address: String
    package let isTCP: Bool
    /// The TCP port, also when 0 was asked for; 0 for a unix socket.
    package let boundPort: UInt16
    let descriptor: Int32
    /// `nil` when everybody may come.
    let door: PeerDoor?
    private let path: String?
    private let inode: UInt64

    private init(
        owning descriptor: Int32,
        address: String,
        isTCP: Bool,
        boundPort: UInt16,
        path: String?,
        door: PeerDoor? = nil
    ) {
        self.descriptor = descriptor
        self.address = address
        self.isTCP = isTCP
        self.boundPort = boundPort
        self.path = path
        self.door = door
        var facts = repld_file_facts()
        inode = unsafe path != nil && repld_file_facts_of_path(path, &facts) == 0 ? facts.inode : 0
    }

    deinit {
        if let path {
            // Only our own: another server may have taken the name since.
            var facts = repld_file_facts()
            if unsafe repld_file_facts_of_path(path, &facts) == 0 && facts.inode == inode { _ = unsafe unlink(path) }
        }
        _ = Glibc.close(descriptor)
    }

    /// Listens on a unix socket.
    ///
    /// A socket file on which nobody answers is what a killed server left, and is replaced.
    ///
    /// `mode` is the file's mode: 0600 for a control socket, 0660 for a front end whose clients share a group.
    package static func unix(path: String, mode: UInt32 = 0o600) throws(ListenError) -> Listener {
        guard path.utf8.count <= longestPath, !path.isEmpty else {
            throw ListenError(address: path, reason: .pathTooLong(limit: longestPath))
        }
        // Two servers that start at once must not take each other's new socket for an old one.
        let directory = unsafe Glibc.open(directoryName(of: path), O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        guard directory >= 0 else {
            throw ListenError(address: path, reason: .system(step: "opening its directory", errorNumber: errno))
        }
        defer { _ = Glibc.close(directory) }
        while flock(directory, LOCK_EX) != 0 && errno == EINTR {}
        try removeStale(path)
        let descriptor = try newSocket(AF_UNIX, path)
        // The mode of the socket is the mode of the file that bind makes, so that it is never open to more.
        _ = fchmod(descriptor, mode)
        guard unsafe repld_bind_unix(descriptor, path) == 0 else {
            throw failure(path, "binding", closing: descriptor)
        }
        guard unsafe chmod(path, mode) == 0, Glibc.listen(descriptor, backlog) == 0 else {
            let error = failure(path, "listening", closing: descriptor)
            _ = unsafe unlink(path)
            throw error
        }
        return Listener(owning: descriptor, address: path, isTCP: false, boundPort: 0, path: path)
    }

    /// Listens on a TCP port of the addresses that `host` stands for (the first that works); port 0 takes any free one.
    package static func tcp(host: String, port: UInt16) throws(ListenError) -> Listener {
        try tcp(host: host, port: port, door: nil)
    }

    /// Listens for peers, which prove by one of `keys` who they are before the engine is told of them.
    ///
    /// The proof is given and taken away from the loop. Who does not give it in time, or gives a wrong one, is closed without
    /// a completion; `trouble` says so. When as many as may be under way at once have proven nothing yet, the oldest of them
    /// makes way for the next, so that silent ones do not shut out others for long.
    ///
    /// With `allowsPlaintext` also those are let in who prove nothing: a connection that does not begin with a TLS handshake is
    /// taken as it is. Whoever connects so has to speak first, unless there are no keys at all.
    package static func peers(
        host: String,
        port: UInt16,
        keys: PeerKeySet,
        allowsPlaintext: Bool = false
    ) throws(ListenError) -> Listener {
        try tcp(host: host, port: port, door: PeerDoor(keys: keys, allowsPlaintext: allowsPlaintext))
    }

    /// Who was not let in; `nil` when everybody is.
    package var trouble: PeerTrouble? { door?.trouble }

    private static func tcp(host: String, port: UInt16, door: PeerDoor?) throws(ListenError) -> Listener {
        let address = host.contains(":") ? "[\(host)]:\(port)" : "\(host):\(port)"
        var hints = unsafe addrinfo()
        unsafe hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV
        unsafe hints.ai_socktype = Int32(SOCK_STREAM.rawValue)
        var list: UnsafeMutablePointer<addrinfo>?
        let result = unsafe getaddrinfo(host, "\(port)", &hints, &list)
        guard result == 0 else {
            let words = unsafe String(cString: gai_strerror(result))
            throw ListenError(address: address, reason: .unknownHost(words: words))
        }
        defer { unsafe freeaddrinfo(list) }
        var lastError = ListenError(address: address, reason: .unknownHost(words: "no address"))
        var next = unsafe list
        while let candidate = unsafe next {
            do throws(ListenError) {
                return try unsafe listen(on: candidate.pointee, address, door)
            } catch {
                lastError = error
            }
            unsafe next = candidate.pointee.ai_next
        }
        throw lastError
    }

    private static func listen(
        on info: addrinfo,
        _ address: String,
        _ door: PeerDoor?
    ) throws(ListenError) -> Listener {
        let descriptor = try newSocket(unsafe info.ai_family, address)
        var yes: Int32 = 1
        // A restarted server takes its port back while old connections linger.
        _ = unsafe setsockopt(descriptor, SOL_SOCKET, SO_REUSEADDR, &yes, 4)
        guard unsafe bind(descriptor, info.ai_addr, info.ai_addrlen) == 0 else {
            throw failure(address, "binding", closing: descriptor)
        }
        guard Glibc.listen(descriptor, backlog) == 0 else {
            throw failure(address, "listening", closing: descriptor)
        }
        return Listener(
            owning: descriptor,
            address: address,
            isTCP: true,
            boundPort: port(of: descriptor),
            path: nil,
            door: door
        )
    }

    private static func port(of descriptor: Int32) -> UInt16 {
        var storage = sockaddr_storage()
        var length = socklen_t(MemoryLayout<sockaddr_storage>.size)
        let result = unsafe withUnsafeMutablePointer(to: &storage) { place in
            unsafe place.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                unsafe getsockname(descriptor, $0, &length)
            }
        }
        guard result == 0 else { return 0 }
        // The port is at the same place in both families, behind the family.
        return unsafe withUnsafeBytes(of: &storage) { bytes in
            unsafe UInt16(bytes[2]) << 8 | UInt16(bytes[3])
        }
    }

    private static func newSocket(_ family: Int32, _ address: String) throws(ListenError) -> Int32 {
        let descriptor = socket(family, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
        guard descriptor >= 0 else {
            throw ListenError(address: address, reason: .system(step: "making a socket", errorNumber: errno))
        }
        return descriptor
    }

    private static func failure(_ address: String, _ step: String, closing descriptor: Int32) -> ListenError {
        let number = errno
        _ = Glibc.close(descriptor)
        let reason: ListenError.Reason =
            number == EADDRINUSE ? .inUse : .system(step: step, errorNumber: number)
        return ListenError(address: address, reason: reason)
    }

    private static func removeStale(_ path: String) throws(ListenError) {
        var facts = repld_file_facts()
        guard unsafe repld_file_facts_of_path(path, &facts) == 0 else { return }
        guard facts.kind == Int32(REPLD_KIND_SOCKET.rawValue) else {
            throw ListenError(address: path, reason: .notASocket)
        }
        let probe = try newSocket(AF_UNIX, path)
        defer { _ = Glibc.close(probe) }
        // A full backlog must not make this wait: then somebody is there.
        _ = fcntl(probe, F_SETFL, O_NONBLOCK)
        guard unsafe repld_connect_unix(probe, path) != 0, errno == ECONNREFUSED else {
            throw ListenError(address: path, reason: .inUse)
        }
        _ = unsafe unlink(path)
    }
}
