import CRepldTLS
import Glibc

/// The TLS 1.3 session of one connection to a peer: ciphertext on one side, plaintext on the other, no input or output.
///
/// A name for memory that is C's, not its owner: made by an admission, handed to the loop with the descriptor, and freed by
/// whoever closes that. Its buffers have a fixed size, which bounds what is encrypted ahead of the kernel and what is
/// received ahead of the engine. It belongs to one thread at a time.
@safe
struct PeerSession: BitwiseCopyable, @unchecked Sendable {
    /// How far the handshake is, or what there is to decrypt.
    enum State {
        case wantsInput
        /// The proof was given; or the other side ended its stream.
        case done
        case failed
    }

    private let pointer: OpaquePointer

    private init?(_ pointer: OpaquePointer?) {
        guard let pointer = unsafe pointer else { return nil }
        unsafe self.pointer = pointer
    }

    /// For the side that connects; `nil` without memory.
    ///
    /// The key stays where it is until the handshake has ended.
    static func connecting(_ key: PeerKey) -> PeerSession? { unsafe PeerSession(repld_tls_connecting(key.derived)) }

    /// For the side that is connected to; `nil` without memory.
    ///
    /// The keys, and the table of their addresses, stay where they are until the handshake has ended.
    @unsafe
    static func accepting(_ keys: UnsafeMutableBufferPointer<UnsafePointer<repld_tls_key>?>) -> PeerSession? {
        unsafe PeerSession(repld_tls_accepting(keys.baseAddress, keys.count))
    }

    func free() { unsafe repld_tls_free(pointer) }

    /// Goes on as far as what was received carries it; there may be output afterwards, also after a failure.
    func handshake() -> State { Self.state(unsafe repld_tls_handshake(pointer)) }

    /// Why it failed.
    var words: String { unsafe String(cString: repld_tls_words(pointer)) }
    /// Whether the handshake failed of the keys.
    var isRefused: Bool { unsafe repld_tls_is_refused(pointer) }

    /// The key that both sides have.
    var identity: PeerKey.Identity {
        var bytes = (UInt64(0), UInt64(0))
        return unsafe withUnsafeMutableBytes(of: &bytes) { place in
            unsafe repld_tls_identity(pointer, place.baseAddress?.assumingMemoryBound(to: UInt8.self))
            return unsafe PeerKey.Identity(bytes: UnsafeRawBufferPointer(place))
        }
    }

    /// Where the next ciphertext goes; not empty after `open` wanted input.
    @inline(__always)
    var room: UnsafeMutableRawBufferPointer {
        var count = 0
        let start = unsafe repld_tls_room(pointer, &count)
        return unsafe UnsafeMutableRawBufferPointer(start: start, count: count)
    }

    @inline(__always)
    func received(_ count: Int) { unsafe repld_tls_received(pointer, count) }

    /// What is to be sent; it stays where it is until `sent` was told.
    @inline(__always)
    var output: UnsafeRawBufferPointer {
        var count = 0
        let start = unsafe repld_tls_output(pointer, &count)
        return unsafe UnsafeRawBufferPointer(start: start, count: count)
    }

    @inline(__always)
    func sent(_ count: Int) { unsafe repld_tls_sent(pointer, count) }

    /// Encrypts two pieces that follow each other, from `done` on, as far as there is room; the count of bytes taken.
    @unsafe
    func seal(
        _ first: UnsafeRawPointer?,
        _ firstCount: Int,
        _ second: UnsafeRawPointer?,
        _ secondCount: Int,
        from done: Int
    ) -> Int {
        unsafe repld_tls_seal(pointer, first, firstCount, second, secondCount, done)
    }

    /// Decrypts what was received; with a count of 0, the state says why.
    @unsafe
    func open(into memory: UnsafeMutableRawPointer?, _ count: Int) -> (count: Int, state: State) {
        var state = REPLD_TLS_WANTS_INPUT
        let count = unsafe repld_tls_open(pointer, memory, count, &state)
        return (count, Self.state(state))
    }

    /// Adds to the output that the stream ends here.
    func sayGoodbye() { unsafe repld_tls_goodbye(pointer) }

    private static func state(_ state: repld_tls_state) -> State {
        switch state {
        case REPLD_TLS_WANTS_INPUT: .wantsInput
        case REPLD_TLS_DONE: .done
        default: .failed
        }
    }
}

extension PeerSession {
    /// Sends of the output what the kernel takes at once; 0, or the error number.
    func sendOutput(_ descriptor: Int32) -> Int32 {
        while true {
            let bytes = unsafe output
            if unsafe bytes.isEmpty { return 0 }
            let moved = unsafe Glibc.send(
                descriptor,
                bytes.baseAddress,
                bytes.count,
                Int32(MSG_DONTWAIT | MSG_NOSIGNAL)
            )
            if moved > 0 {
                sent(moved)
            } else if errno != EINTR {
                return errno == EAGAIN ? 0 : errno
            }
        }
    }
}
