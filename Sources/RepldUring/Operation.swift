import Glibc
import RepldCore
import RepldEngine

/// What an operation in flight is for.
package enum OperationKind: UInt8, Sendable, BitwiseCopyable {
    case read
    case write
    case flush
    case zero
    /// The second half of a durable zero.
    case zeroFlush
    case query
    /// An examination of data, which a worker does.
    case examine
    case accept
    /// Accepting rests after a failure, so that a full descriptor table does not spin.
    case acceptPause
    case receive
    case send
    /// A receive on an encrypted connection whose session has not been asked yet what it has.
    case sealedOpen
    /// A receive on an encrypted connection that waits for ciphertext.
    case sealedReceive
    /// A send on an encrypted connection; `done` is what has been encrypted.
    case sealedSend
    /// A connection to a peer that is being made, by the admitter.
    case connect
    /// The read of the eventfd that is always pending.
    case signal
    /// The withdrawal of an accept; its own end is of no interest.
    case cancel
}

/// One operation of the engine, from the call to its completion; it may take several turns through the ring.
///
/// Life: taken by the call → waiting in `deferred` or in the submission queue → in the kernel → settled: either goes
/// round again (short, interrupted, second half) or is finished, which gives the slot back.
@safe
struct Operation: BitwiseCopyable {
    var token: Token
    var kind: OperationKind
    var zeroKind = ZeroKind.discard
    var isDurable = false
    /// The memory lies in the registered region.
    var isInRegion = false
    /// Known before the kernel was asked: completes with this.
    var refusal: IOFailure?
    /// Number of times the kernel said EAGAIN or made no progress.
    var retryCount: UInt8 = 0
    /// Index of the element, the socket or the acceptor.
    var place: UInt16
    var offset: UInt64 = 0
    var memory: UnsafeMutableRawPointer?
    /// Bytes of the whole operation.
    var length: UInt64 = 0
    /// Bytes done by earlier turns.
    var done: UInt64 = 0

    init(token: Token, kind: OperationKind, place: UInt16) {
        self.token = token
        self.kind = kind
        self.place = place
        unsafe memory = nil
    }

    /// A kernel that says EAGAIN this often, each time after a turn of the loop, is out of resources for good.
    static let retryLimit: UInt8 = 64
}

/// An open element, as the path of an operation needs it.
struct ElementEntry: BitwiseCopyable {
    var descriptor: Int32 = -1
    var inFlightCount: Int32 = 0
    var blockMask: UInt64 = 0
    var isReadOnly = false
    var isRegistered = false
    /// The file lies in memory, and its short transfers are made at once.
    var isInMemory = false
    var isTaken: Bool { descriptor >= 0 }
}

/// An open socket, as the path of an operation needs it.
@safe
struct SocketEntry: BitwiseCopyable {
    var descriptor: Int32 = -1
    var inFlightCount: Int32 = 0
    var isRegistered = false
    var isSending = false
    /// Kept of encrypted connections only, whose session gives its plaintext to one at a time.
    var isReceiving = false
    /// Encrypts and decrypts; `nil` where nobody does.
    var session: PeerSession?
    /// The second piece of the send in flight.
    var second: UnsafeRawPointer?
    var secondLength = 0
    var isTaken: Bool { descriptor >= 0 }

    init() { unsafe second = nil }
}

/// A listening socket that connections are accepted from.
struct AcceptorEntry: BitwiseCopyable {
    var operation: SlotID?
    var descriptor: Int32 = -1
    var isTCP = false
    /// Those who come have to prove who they are.
    var isForPeers = false
    var isStopping = false
}

/// The message headers of the sends in flight, one per socket, at addresses that do not move.
@safe
struct SendTable: ~Copyable {
    private let headers: UnsafeMutablePointer<msghdr>
    private let pieces: UnsafeMutablePointer<iovec>
    private let count: Int

    init(count: Int) {
        self.count = count
        unsafe headers = .allocate(capacity: count)
        unsafe pieces = .allocate(capacity: 2 * count)
        unsafe headers.initialize(repeating: msghdr(), count: count)
        unsafe pieces.initialize(repeating: iovec(), count: 2 * count)
    }

    deinit {
        unsafe headers.deallocate()
        unsafe pieces.deallocate()
    }

    /// Describes two pieces, and returns the header that names them.
    @unsafe
    func fill(
        _ index: Int,
        _ first: UnsafeMutableRawPointer?,
        _ firstLength: Int,
        _ second: UnsafeMutableRawPointer?,
        _ secondLength: Int
    ) -> UnsafeMutablePointer<msghdr> {
        invariant(index < count, "a socket has its place in the table of sends")
        let pair = unsafe pieces + 2 * index
        unsafe pair[0] = iovec(iov_base: first, iov_len: firstLength)
        unsafe pair[1] = iovec(iov_base: second, iov_len: secondLength)
        unsafe headers[index].msg_iov = pair
        unsafe headers[index].msg_iovlen = 2
        return unsafe headers + index
    }
}

/// A result of the kernel that a test puts in place of the next one of its kind.
struct ScriptedResult: BitwiseCopyable {
    var kind: OperationKind
    var result: Int32
}
