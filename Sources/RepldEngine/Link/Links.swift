internal import RepldCore
internal import RepldFormat
internal import RepldPair
internal import RepldWire

/// The engine's links to peers: what replicates between hosts, over connections that a platform makes.
///
/// **Who does what.** The side with the source runs the pair's machine. To it the target is one more leg, and what the machine
/// wants of that leg becomes frames (`RemoteTarget`). The side with the target serves a volume that nobody but the peer
/// writes (`Replica`): frames become requests on that volume's machine, which keeps overlapping ones in order and answers as
/// for any host. So neither machine knows of connections.
///
/// **A session** is one control connection and one data connection between two daemons, made by the side that has peers
/// configured, again and again until it comes up:
///
///     down ──retry──> control connecting ─hello─> data connecting ─hello─> up ──loss──> ending ──all closed──> down
///
/// What is asked of the peer travels on the data connection where it has data, answers without data on the control connection.
/// A session whose peer is silent for too long is lost: `ping` goes out with every tick.
///
/// **Opening a pair.** When a session is up, `pairOpen` binds a stream to each pair whose target is there, and the source's record
/// follows. Only when the peer has that on stable storage, the machine hears `linkRestored`.
///
/// **What must hold.**
/// - A request is answered once: by the peer, or as failed when its session is lost, and then only after the last operation on
///   the session's sockets has ended, because a send may still read its buffer.
/// - The machine hears `linkLost` before any of that.
/// - Nothing of an earlier session is applied to a replica after a later one has been opened: an opening is refused as long
///   as a request of another session is in flight there.
/// - What a peer can make this side hold is bounded by the tables here, the window, and the pool.
///
/// Not thread-safe: belongs to the engine's loop.
struct Links: ~Copyable {
    static var connectionLimit: Int { 32 }
    static var sessionLimit: Int { 16 }
    static var peerLimit: Int { 8 }
    static var targetLimit: Int { 32 }
    static var replicaLimit: Int { 32 }
    static var listenerLimit: Int { 4 }
    /// Requests of all peers that are being served.
    static var serveLimit: Int { 2048 }
    /// Frames that may wait for one connection: those behind which nothing more is taken, the answers to all that is being served,
    /// and what is sent without being asked.
    static var frameLimit: Int { queuedFrameLimit + serveLimit + 256 }
    /// As long as so many wait, nothing more is taken from the peer, and no request is sent.
    static var queuedFrameLimit: Int { 1024 }
    /// Payloads up to this length are copied behind their headers, longer ones are sent from where they are.
    static var copiedByteLimit: Int { 16 << 10 }
    /// How long a connection may take to greet.
    static var greetingNanoseconds: UInt64 { 10_000_000_000 }
    /// Messages that wait for the peer's control plane.
    static var messageLimit: Int { 64 }

    var connections: FixedArray<LinkConnection>
    var sessions: FixedArray<LinkSession>
    var peers: FixedArray<LinkPeer>
    var targets: FixedArray<RemoteTarget>
    var replicas: FixedArray<Replica>
    var isListening: FixedArray<Bool>
    var serves: SlotTable<PeerRequest>
    /// Requests of peers that wait for a buffer or for a slot of their volume.
    var waitingServes: BoundedQueue<SlotID>
    /// Connections with something to send.
    var marked: BoundedQueue<UInt16>
    /// Operations on remote elements have ended, and their machines have not been told.
    var hasEnded = false
    var nextSessionNumber: UInt32 = 1
    var nextMessageTag: UInt64 = 1
    /// Who asked a peer's control plane something.
    var askers: [MessageAsker] = []
    /// Questions of peers that our control plane has not answered.
    var owedAnswers: [OwedAnswer] = []
    /// Names this daemon to its peers.
    var host: PairID
    /// What was decided of pairs that were opened, by this side or by its peers.
    var handshakes = HandshakeCounts()
    var isStopping = false
    /// There are peers, or may be.
    var isInUse = false

    struct MessageAsker {
        var tag: UInt64
        var session: Int
        var deadline: Instant
        var answer: @Sendable (Result<[UInt8], MessageFailure>) -> Void
    }

    struct OwedAnswer {
        var token: UInt64
        var session: Int
        /// The peer's.
        var tag: UInt64
    }

    init(host: PairID) {
        self.host = host
        connections = FixedArray(count: Self.connectionLimit) { _ in LinkConnection() }
        sessions = FixedArray(count: Self.sessionLimit) { _ in LinkSession() }
        peers = FixedArray(count: Self.peerLimit) { _ in LinkPeer() }
        targets = FixedArray(count: Self.targetLimit) { _ in RemoteTarget() }
        replicas = FixedArray(count: Self.replicaLimit) { _ in Replica() }
        isListening = FixedArray(repeating: false, count: Self.listenerLimit)
        serves = SlotTable(capacity: Self.serveLimit, blank: PeerRequest.blank)
        waitingServes = BoundedQueue(capacity: Self.serveLimit, blank: SlotID(index: 0, generation: 0))
        marked = BoundedQueue(capacity: Self.connectionLimit, blank: 0)
    }
}

/// A peer that the control plane has named.
struct LinkPeer: ~Copyable {
    var isInUse = false
    var id = PeerID(rawValue: 0)
    var name = ""
    var settings = LinkSettings()
    /// What its daemon calls itself: nobody else may, from the first time on.
    var host: PairID?
    /// The session that this side makes; it is the peer's as long as the peer is in use.
    var session = 0
    /// Why there is no connection.
    var reason = ""
    var retryAt = Instant(nanoseconds: 0)
    var roundTripNanoseconds: UInt64 = 0
}

/// Control and data connection with one daemon.
struct LinkSession: ~Copyable {
    enum Stage: UInt8, BitwiseCopyable {
        /// Nobody uses the place.
        case free
        /// Of a peer of ours: not connected.
        case down
        case connecting
        case up
        /// Its sockets are shut down; operations on them are awaited.
        case ending
    }

    var stage = Stage.free
    /// The peer of ours that it is made for; `nil` for one that a peer has made.
    var peer: Int?
    /// Distinguishes the uses of the place.
    var number: UInt32 = 0
    /// Drawn by the side that makes it.
    var id = PairID(high: 0, low: 0)
    /// The daemon at the other end, once it has greeted.
    var host = PairID(high: 0, low: 0)
    var terms: WireTerms?
    var control: Int?
    var data: Int?
    var startedAt = Instant(nanoseconds: 0)
    /// The target that is served next.
    var nextTarget = 0
    /// Requests that the peer has not answered, and the bytes of data that they carry.
    var requestCount = 0
    var requestByteCount = 0
    var reason = ""
    var compressor = LinkCompressor(isInUse: false)
    /// Of all that were made for the peer.
    var sentByteCount: UInt64 = 0
    var receivedByteCount: UInt64 = 0
}

/// Why a link ends.
struct LinkEnd: Error {
    var goodbye: Goodbye
    var words: String

    init(_ goodbye: Goodbye, _ words: String) {
        self.goodbye = goodbye
        self.words = words
    }
}
