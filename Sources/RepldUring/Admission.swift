import CRepldTLS
import Glibc
import RepldCore

/// What the loop asks of the admitter.
enum AdmissionRequest: Sendable {
    /// For the operation `id`.
    case connect(PeerAddress, id: SlotID)
    /// A connection accepted by the operation `id`, whose descriptor goes along.
    case accepted(Int32, PeerDoor, id: SlotID)
}

/// What came of it: exactly one for each request.
struct AdmissionAnswer: Sendable {
    var id: SlotID
    var isAccepted: Bool
    /// Negative where it failed; otherwise it is the loop's from here on, with the session.
    var descriptor: Int32 = -1
    /// `nil` where nothing is encrypted.
    var session: PeerSession?
    var failure: IOFailure?
}

/// One connection to or from a peer on its way: from a name or a bare descriptor to the proof of who is there.
///
///     connect:   resolving → connecting (each address in turn) → proving → admitted
///     accepted:  looking (where plaintext is allowed) → proving → admitted
///
/// Each step does what can be done at once and says what it waits for. It ends at its time limit, wherever it is.
@safe
final class Admission {
    enum Stage {
        case resolving(NameResolution)
        case connecting
        /// Waits for the first byte, which tells a TLS handshake from all else.
        case looking
        case proving
    }

    enum Verdict {
        case admitted
        case refused(IOFailure, words: String)
    }

    let request: AdmissionRequest
    let deadline: Instant
    private(set) var descriptor: Int32 = -1
    private var session: PeerSession?
    private var stage = Stage.looking
    private var addresses: [SocketAddress] = []
    private var nextAddress = 0
    private var addressDeadline = Instant(nanoseconds: .max)
    private var lastFailure = (failure: IOFailure.gone, words: "it has no address")
    /// Keeps the keys where the session looks for them.
    private let keys: [PeerKey]
    private let keyTable: UnsafeMutableBufferPointer<UnsafePointer<repld_tls_key>?>

    init(_ request: AdmissionRequest, deadline: Instant) {
        self.request = request
        self.deadline = deadline
        switch request {
        case .connect: keys = []
        case .accepted(let accepted, let door, _):
            descriptor = accepted
            keys = door.keys.current
        }
        unsafe keyTable = .allocate(capacity: keys.count)
        for (place, key) in keys.enumerated() {
            unsafe keyTable.initializeElement(at: place, to: UnsafePointer(key.derived))
        }
    }

    deinit {
        discard()
        unsafe keyTable.deallocate()
    }

    var isAccepted: Bool {
        if case .accepted = request { true } else { false }
    }

    /// When it has to be looked at again though nothing happened.
    var nextDeadline: Instant { min(deadline, addressDeadline) }

    /// What it waits for on its descriptor.
    var events: Int16 {
        switch stage {
        case .resolving: 0
        case .connecting: Int16(POLLOUT)
        case .looking: Int16(POLLIN)
        case .proving: Int16(POLLIN) | (unsafe session?.output.isEmpty == false ? Int16(POLLOUT) : 0)
        }
    }

    /// The first step; `waker` is told when a name is resolved.
    func begin(now: Instant, waker: UringWaker) -> Verdict? {
        switch request {
        case .accepted(_, let door, _):
            setPeerOptions(descriptor)
            guard door.allowsPlaintext else { return beginProof() }
            if keys.isEmpty { return .admitted }
            stage = .looking
            return look()
        case .connect(let peer, _):
            if case .found(let addresses) = SocketAddress.find(peer.host, peer.port, isNumber: true) {
                return connect(to: addresses, now)
            }
            guard let resolution = NameResolution.begin(peer.host, peer.port, waker: waker) else {
                return .refused(.noResources, words: "too many names are being resolved")
            }
            stage = .resolving(resolution)
            return nil
        }
    }

    /// Goes on after something happened; `nil` while there is something to wait for.
    func advance(now: Instant) -> Verdict? {
        switch stage {
        case .resolving(let resolution):
            switch resolution.outcome {
            case nil: return nil
            case .failed(let words): return .refused(.gone, words: words)
            case .found(let addresses): return connect(to: addresses, now)
            }
        case .connecting: return finishConnecting(now)
        case .looking: return look()
        case .proving: return prove()
        }
    }

    /// Whether its time is over; what it was waiting for then.
    func expire(now: Instant) -> Verdict? {
        if now >= deadline { return .refused(.timedOut, words: expiryWords) }
        guard now >= addressDeadline, case .connecting = stage else { return nil }
        return tryNext(after: .timedOut, "nobody answers", now)
    }

    private var expiryWords: String {
        switch stage {
        case .resolving: "its name was not resolved in time"
        case .connecting: "nobody answers"
        case .looking: "it said nothing"
        case .proving: "it did not prove in time that it has the key"
        }
    }

    /// Gives descriptor and session away, to whoever closes them.
    func takeResult() -> (descriptor: Int32, session: PeerSession?) {
        let result = (descriptor, session)
        descriptor = -1
        session = nil
        return result
    }

    /// Closes what nobody wants.
    func discard() {
        session?.free()
        session = nil
        closeDescriptor()
    }
}

/// Connecting.
extension Admission {
    private func connect(to addresses: [SocketAddress], _ now: Instant) -> Verdict? {
        self.addresses = addresses
        stage = .connecting
        return connectToNext(now)
    }

    /// Begins with the next address that can be begun with; each gets its share of the time that is left.
    private func connectToNext(_ now: Instant) -> Verdict? {
        while nextAddress < addresses.count {
            let address = addresses[nextAddress]
            let left = deadline.nanoseconds(since: now)
            addressDeadline = now.advanced(byNanoseconds: left / UInt64(addresses.count - nextAddress))
            nextAddress += 1
            let type = Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue | SOCK_NONBLOCK.rawValue)
            descriptor = socket(address.family, type, 0)
            guard descriptor >= 0 else {
                noteFailure(errno)
                continue
            }
            setPeerOptions(descriptor)
            let number = address.connect(descriptor)
            if number == 0 { return finishConnecting(now) }
            if number == EINPROGRESS { return nil }
            noteFailure(number)
            closeDescriptor()
        }
        return .refused(lastFailure.failure, words: lastFailure.words)
    }

    private func finishConnecting(_ now: Instant) -> Verdict? {
        var number: Int32 = 0
        var length = socklen_t(MemoryLayout<Int32>.size)
        if unsafe getsockopt(descriptor, SOL_SOCKET, SO_ERROR, &number, &length) != 0 { number = errno }
        if number != 0 { return tryNext(after: ioFailure(ofErrorNumber: number), errorText(number), now) }
        // Not connected, and no error either: it is still under way.
        guard let other = SocketAddress.of(descriptor, isOther: true) else { return nil }
        guard let own = SocketAddress.of(descriptor, isOther: false) else {
            return tryNext(after: .gone, errorText(errno), now)
        }
        // TCP can meet itself where nobody listens: the port that it chose for this end is the one that it asks for.
        if own.equals(other) { return tryNext(after: .gone, errorText(ECONNREFUSED), now) }
        addressDeadline = Instant(nanoseconds: .max)
        // The ring waits for what blocks, and gives up on what does not.
        _ = fcntl(descriptor, F_SETFL, fcntl(descriptor, F_GETFL) & ~O_NONBLOCK)
        return beginProof()
    }

    private func tryNext(after failure: IOFailure, _ words: String, _ now: Instant) -> Verdict? {
        lastFailure = (failure, words)
        closeDescriptor()
        return connectToNext(now)
    }

    private func noteFailure(_ number: Int32) { lastFailure = (ioFailure(ofErrorNumber: number), errorText(number)) }

    private func closeDescriptor() {
        if descriptor >= 0 { _ = close(descriptor) }
        descriptor = -1
    }
}

/// Proving.
extension Admission {
    /// The content type of a handshake's records, with which every TLS connection begins and no frame does.
    private static var handshakeType: UInt8 { 22 }

    private func look() -> Verdict? {
        var first: UInt8 = 0
        let count = unsafe recv(descriptor, &first, 1, Int32(MSG_PEEK | MSG_DONTWAIT))
        if count < 0 && (errno == EAGAIN || errno == EINTR) { return nil }
        guard count > 0 else { return .refused(.gone, words: "it left before it said anything") }
        return first == Self.handshakeType ? beginProof() : .admitted
    }

    private func beginProof() -> Verdict? {
        switch request {
        case .connect(let peer, _):
            guard case .key(let key) = peer.security else { return .admitted }
            session = PeerSession.connecting(key)
        case .accepted:
            session = unsafe PeerSession.accepting(keyTable)
        }
        guard session != nil else { return .refused(.noResources, words: "there is no memory for a TLS session") }
        stage = .proving
        return prove()
    }

    /// Handshake, output, input, as far as each goes.
    private func prove() -> Verdict? {
        guard let session else { invariantFailed("a proof has its session") }
        while true {
            let state = session.handshake()
            let number = session.sendOutput(descriptor)
            if number != 0 { return .refused(ioFailure(ofErrorNumber: number), words: errorText(number)) }
            switch state {
            case .done: return unsafe session.output.isEmpty ? .admitted : nil
            case .failed:
                // Behind the alert that says why.
                _ = shutdown(descriptor, Int32(SHUT_WR))
                return .refused(session.isRefused ? .invalidArgument : .gone, words: session.words)
            case .wantsInput: break
            }
            let room = unsafe session.room
            let count = unsafe recv(descriptor, room.baseAddress, room.count, Int32(MSG_DONTWAIT))
            if count > 0 {
                session.received(count)
            } else if count == 0 {
                return .refused(.gone, words: "it closed the connection during the handshake")
            } else if errno == EAGAIN {
                return nil
            } else if errno != EINTR {
                return .refused(ioFailure(ofErrorNumber: errno), words: errorText(errno))
            }
        }
    }
}

/// Sends at once, and notices within seconds when the other host is gone without a word.
func setPeerOptions(_ descriptor: Int32) {
    func set(_ level: Int32, _ option: Int32, _ value: Int32) {
        var value = value
        _ = unsafe setsockopt(descriptor, level, option, &value, socklen_t(MemoryLayout<Int32>.size))
    }
    set(Int32(IPPROTO_TCP), TCP_NODELAY, 1)
    // Bytes that the kernel takes ahead of the link. By itself it takes megabytes, so that nothing ever waits here for a slow link:
    // what is compressed would not be chosen by what the link carries, and an answer would stand behind all of them.
    set(Int32(IPPROTO_TCP), TCP_NOTSENT_LOWAT, 128 << 10)
    set(SOL_SOCKET, SO_KEEPALIVE, 1)
    // Seconds: asked after 5 of silence, every 2, given up after 3 without an answer.
    set(Int32(IPPROTO_TCP), TCP_KEEPIDLE, 5)
    set(Int32(IPPROTO_TCP), TCP_KEEPINTVL, 2)
    set(Int32(IPPROTO_TCP), TCP_KEEPCNT, 3)
    // Milliseconds that what was sent may stay without an answer.
    set(Int32(IPPROTO_TCP), TCP_USER_TIMEOUT, 15_000)
}
