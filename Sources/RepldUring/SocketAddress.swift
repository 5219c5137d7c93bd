import Glibc
import RepldEngine
import Synchronization

/// One address that a host's name stands for.
@safe
struct SocketAddress: Sendable {
    private var storage: sockaddr_storage
    private var length: socklen_t

    private init() {
        storage = sockaddr_storage()
        length = socklen_t(MemoryLayout<sockaddr_storage>.size)
    }

    @unsafe
    private init?(_ info: addrinfo) {
        self.init()
        guard let address = unsafe info.ai_addr, unsafe info.ai_addrlen <= length else { return nil }
        length = unsafe info.ai_addrlen
        unsafe withUnsafeMutableBytes(of: &storage) {
            unsafe $0.baseAddress?.copyMemory(from: address, byteCount: Int(length))
        }
    }

    var family: Int32 { Int32(storage.ss_family) }

    /// The address of the other end of a connection, or of this one.
    static func of(_ descriptor: Int32, isOther: Bool) -> SocketAddress? {
        var address = SocketAddress()
        let result = unsafe withUnsafeMutablePointer(to: &address.storage) { place in
            unsafe place.withMemoryRebound(to: sockaddr.self, capacity: 1) { generic in
                unsafe isOther
                    ? getpeername(descriptor, generic, &address.length)
                    : getsockname(descriptor, generic, &address.length)
            }
        }
        return result == 0 ? address : nil
    }

    /// Starts to connect; 0, or an error number, which is EINPROGRESS for a descriptor that does not block.
    func connect(_ descriptor: Int32) -> Int32 {
        unsafe withUnsafePointer(to: storage) { place in
            unsafe place.withMemoryRebound(to: sockaddr.self, capacity: 1) { generic in
                unsafe Glibc.connect(descriptor, generic, length) == 0 ? 0 : errno
            }
        }
    }

    func equals(_ other: SocketAddress) -> Bool {
        guard length == other.length else { return false }
        return unsafe withUnsafeBytes(of: storage) { own in
            unsafe withUnsafeBytes(of: other.storage) { unsafe own.elementsEqual($0) }
        }
    }

    /// Address and port in digits.
    var words: String {
        var host = [CChar](repeating: 0, count: Int(NI_MAXHOST))
        var port = [CChar](repeating: 0, count: Int(NI_MAXSERV))
        let result = unsafe withUnsafePointer(to: storage) { place in
            unsafe place.withMemoryRebound(to: sockaddr.self, capacity: 1) { generic in
                unsafe getnameinfo(
                    generic,
                    length,
                    &host,
                    socklen_t(host.count),
                    &port,
                    socklen_t(port.count),
                    NI_NUMERICHOST | NI_NUMERICSERV
                )
            }
        }
        guard result == 0 else { return "an unknown address" }
        let (hostText, portText) = (Self.text(host), Self.text(port))
        return hostText.contains(":") ? "[\(hostText)]:\(portText)" : "\(hostText):\(portText)"
    }

    private static func text(_ characters: [CChar]) -> String {
        String(decoding: characters.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }

    /// The addresses of a host; with `isNumber` only if that is an address itself, for which nobody is asked.
    static func find(_ host: String, _ port: UInt16, isNumber: Bool) -> NameResolution.Outcome {
        var hints = unsafe addrinfo()
        unsafe hints.ai_flags = AI_NUMERICSERV | (isNumber ? AI_NUMERICHOST : 0)
        unsafe hints.ai_socktype = Int32(SOCK_STREAM.rawValue)
        var list: UnsafeMutablePointer<addrinfo>?
        let result = unsafe getaddrinfo(host, "\(port)", &hints, &list)
        guard result == 0 else { return .failed(words: unsafe String(cString: gai_strerror(result))) }
        defer { unsafe freeaddrinfo(list) }
        var found: [SocketAddress] = []
        var next = unsafe list
        while let candidate = unsafe next {
            if let address = unsafe SocketAddress(candidate.pointee) { found.append(address) }
            unsafe next = candidate.pointee.ai_next
        }
        return found.isEmpty ? .failed(words: "it has no address") : .found(found)
    }
}

/// One look-up of a host's name, on a thread of its own.
///
/// The system's look-up waits for name servers as long as it is configured to, and cannot be stopped. So nobody waits for the
/// thread: whoever asked may lose interest, and the thread ends by itself. It holds nothing but this object. Their number is
/// bounded over the whole process, with those that nobody waits for any more.
final class NameResolution: Sendable {
    enum Outcome: Sendable {
        case found([SocketAddress])
        case failed(words: String)
    }

    static let countMax = 32
    private static let count = Atomic<Int>(0)

    private let state = Locked<Outcome?>(nil)

    private init() {}

    /// What came of it; `nil` while it is under way.
    var outcome: Outcome? { state.withLock { $0 } }

    /// Begins a look-up, whose end `waker` tells of; `nil` when too many are under way.
    static func begin(_ host: String, _ port: UInt16, waker: UringWaker) -> NameResolution? {
        guard count.add(1, ordering: .relaxed).newValue <= countMax else {
            count.subtract(1, ordering: .relaxed)
            return nil
        }
        let resolution = NameResolution()
        do {
            _ = try LoopThread(name: "repld-names", stackByteCount: 512 << 10) {
                let outcome = SocketAddress.find(host, port, isNumber: false)
                resolution.state.withLock { $0 = outcome }
                count.subtract(1, ordering: .relaxed)
                waker.wake()
            }
        } catch {
            count.subtract(1, ordering: .relaxed)
            return nil
        }
        return resolution
    }
}
