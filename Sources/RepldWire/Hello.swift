package import RepldCore

/// What a side can do beyond what every version has.
package struct WireFeatures: OptionSet, Hashable, Sendable, BitwiseCopyable {
    package let rawValue: UInt64

    package init(rawValue: UInt64) { self.rawValue = rawValue }

    /// Payloads may be LZ4 blocks.
    package static var lz4: WireFeatures { WireFeatures(rawValue: 1 << 0) }
    /// Ranges can be compared by digests (XXH64).
    package static var digests: WireFeatures { WireFeatures(rawValue: 1 << 1) }
    /// All that this version of the program knows.
    package static var known: WireFeatures { [.lz4, .digests] }

    /// The names of the features, or their numbers where this version has no name.
    package var words: String {
        let names = ["lz4", "digests"]
        let bits = (0..<64).filter { rawValue >> UInt64($0) & 1 != 0 }
        return bits.map { $0 < names.count ? names[$0] : "feature \($0)" }.joined(separator: ", ")
    }
}

/// How much a side takes at once; of two sides the smaller counts.
package struct WireLimits: Hashable, Sendable, BitwiseCopyable {
    /// Payload of one frame.
    package var pieceByteCount: UInt32
    /// Payload of requests that may be on their way to a side, and not answered.
    package var windowByteCount: UInt32
    /// Requests that may be on their way to a side.
    package var requestCount: UInt32
    /// Silence after which a ping is sent; three times as long, and the peer is gone.
    package var keepAliveMilliseconds: UInt32

    /// The greatest payload that any side may agree to.
    ///
    /// 128 KiB pass a link of 1 Gbit/s in a millisecond, and cost a frame's header once in two thousand bytes.
    package static var pieceByteCountCeiling: Int { 128 << 10 }
    /// The smallest piece that is of any use: a page, which all payloads but bulk fit into.
    package static var pieceByteCountFloor: Int { 4096 }
    /// What a receive buffer has to hold.
    package static var frameByteCountMaximum: Int { FrameHeader.byteCount + pieceByteCountCeiling }
    package static var keepAliveMillisecondsFloor: UInt32 { 10 }
    /// The block of a pair's record, as it lies in a metadata area.
    package static var recordByteCount: Int { 4096 }
    package static var messageByteCountMaximum: Int { 64 << 10 }

    package init(
        pieceByteCount: UInt32 = 128 << 10,
        windowByteCount: UInt32 = 16 << 20,
        requestCount: UInt32 = 1024,
        keepAliveMilliseconds: UInt32 = 1000
    ) {
        self.pieceByteCount = pieceByteCount
        self.windowByteCount = windowByteCount
        self.requestCount = requestCount
        self.keepAliveMilliseconds = keepAliveMilliseconds
    }

    func smaller(_ other: WireLimits) -> WireLimits {
        WireLimits(
            pieceByteCount: min(pieceByteCount, other.pieceByteCount),
            windowByteCount: min(windowByteCount, other.windowByteCount),
            requestCount: min(requestCount, other.requestCount),
            keepAliveMilliseconds: min(keepAliveMilliseconds, other.keepAliveMilliseconds)
        )
    }

    /// The limit that no side can work with; `nil` when all are usable.
    var unusable: StaticName? {
        let isPiece = (Self.pieceByteCountFloor...Self.pieceByteCountCeiling).contains(Int(pieceByteCount))
        if !isPiece || pieceByteCount % 4096 != 0 { return "piece" }
        if windowByteCount < pieceByteCount { return "window" }
        if requestCount == 0 { return "number of requests" }
        return keepAliveMilliseconds < Self.keepAliveMillisecondsFloor ? "keep-alive" : nil
    }
}

/// What each side says first: what it speaks, what it can, and which session the connection belongs to.
///
///     offset  size  field
///          0     2  lowest version, from 1
///          2     2  highest version, to 255
///          4     1  lane of this connection
///          5     3  zero
///          8     8  features it has; bits that the other side does not know do no harm
///         16     8  features it cannot do without
///         24    16  session: random, drawn by the side that opens the control connection; data connections and replies repeat it
///         40    16  host: names the daemon
///         56    16  limits: piece, window, requests, keep-alive
///         72     8  zero
///
/// The payload is the same in all versions. Who is at the other end is settled below, before the first frame.
package struct Hello: Hashable, Sendable, BitwiseCopyable {
    package var lowestVersion: UInt16
    package var highestVersion: UInt16
    package var lane: Lane
    package var features: WireFeatures
    package var requiredFeatures: WireFeatures
    package var session: PairID
    package var host: PairID
    package var limits: WireLimits

    package static var byteCount: Int { 80 }

    package init(
        lowestVersion: UInt16 = 1,
        highestVersion: UInt16 = 1,
        lane: Lane,
        features: WireFeatures = .known,
        requiredFeatures: WireFeatures = [],
        session: PairID,
        host: PairID,
        limits: WireLimits = WireLimits()
    ) {
        self.lowestVersion = lowestVersion
        self.highestVersion = highestVersion
        self.lane = lane
        self.features = features
        self.requiredFeatures = requiredFeatures
        self.session = session
        self.host = host
        self.limits = limits
    }
}

extension Hello: FramePayload {
    package func encode(into bytes: inout MutableRawSpan) {
        bytes.storeLittleEndian(lowestVersion, at: 0)
        bytes.storeLittleEndian(highestVersion, at: 2)
        bytes.storeLittleEndian(UInt32(lane.rawValue), at: 4)
        bytes.storeLittleEndian(features.rawValue, at: 8)
        bytes.storeLittleEndian(requiredFeatures.rawValue, at: 16)
        bytes.storeLittleEndian(session.high, at: 24)
        bytes.storeLittleEndian(session.low, at: 32)
        bytes.storeLittleEndian(host.high, at: 40)
        bytes.storeLittleEndian(host.low, at: 48)
        bytes.storeLittleEndian(limits.pieceByteCount, at: 56)
        bytes.storeLittleEndian(limits.windowByteCount, at: 60)
        bytes.storeLittleEndian(limits.requestCount, at: 64)
        bytes.storeLittleEndian(limits.keepAliveMilliseconds, at: 68)
        bytes.storeLittleEndian(UInt64(0), at: 72)
    }

    package static func decode(_ bytes: borrowing RawSpan) throws(PayloadError) -> Hello {
        try checkSize(bytes)
        let laneNumber: UInt32 = bytes.loadLittleEndian(at: 4)
        guard laneNumber <= UInt32(UInt8.max), let lane = Lane(rawValue: UInt8(laneNumber)) else {
            throw .impossible("lane")
        }
        guard bytes.loadLittleEndian(at: 72, as: UInt64.self) == 0 else { throw .impossible("end of a hello") }
        let hello = Hello(
            lowestVersion: bytes.loadLittleEndian(at: 0),
            highestVersion: bytes.loadLittleEndian(at: 2),
            lane: lane,
            features: WireFeatures(rawValue: bytes.loadLittleEndian(at: 8)),
            requiredFeatures: WireFeatures(rawValue: bytes.loadLittleEndian(at: 16)),
            session: PairID(high: bytes.loadLittleEndian(at: 24), low: bytes.loadLittleEndian(at: 32)),
            host: PairID(high: bytes.loadLittleEndian(at: 40), low: bytes.loadLittleEndian(at: 48)),
            limits: WireLimits(
                pieceByteCount: bytes.loadLittleEndian(at: 56),
                windowByteCount: bytes.loadLittleEndian(at: 60),
                requestCount: bytes.loadLittleEndian(at: 64),
                keepAliveMilliseconds: bytes.loadLittleEndian(at: 68)
            )
        )
        guard hello.lowestVersion >= 1, hello.lowestVersion <= hello.highestVersion, hello.highestVersion <= 255 else {
            throw .impossible("version range")
        }
        guard hello.features.isSuperset(of: hello.requiredFeatures) else { throw .impossible("required features") }
        return hello
    }
}

/// What two sides agree on, computed by each from both greetings.
package struct WireTerms: Hashable, Sendable, BitwiseCopyable {
    package var version: UInt8
    package var features: WireFeatures
    package var limits: WireLimits

    package init(version: UInt8, features: WireFeatures, limits: WireLimits) {
        self.version = version
        self.features = features
        self.limits = limits
    }

    /// Decides what two sides speak; the same whichever of them asks, but for the side that an error names.
    ///
    /// Checked in this order, the first failure decides: a daemon that has connected to itself; lanes and sessions that do not
    /// belong together; a common version, of which the highest counts; features that one side cannot do without and the other
    /// has not; common limits that are of no use. Features are those that both have, limits the smaller of both.
    package static func negotiate(ours: Hello, theirs: Hello) throws(NegotiationFailure) -> WireTerms {
        guard ours.host != theirs.host else { throw .sameHost }
        guard ours.lane == theirs.lane else { throw .lane(ours: ours.lane, theirs: theirs.lane) }
        guard ours.session == theirs.session else { throw .session }
        let lowest = max(ours.lowestVersion, theirs.lowestVersion)
        let highest = min(ours.highestVersion, theirs.highestVersion)
        guard lowest <= highest, let version = UInt8(exactly: highest) else {
            throw .version(
                ours: ours.lowestVersion...max(ours.lowestVersion, ours.highestVersion),
                theirs: theirs.lowestVersion...max(theirs.lowestVersion, theirs.highestVersion)
            )
        }
        let common = ours.features.intersection(theirs.features)
        let missingThere = ours.requiredFeatures.subtracting(common)
        guard missingThere.isEmpty else { throw .missing(missingThere, isOurs: false) }
        let missingHere = theirs.requiredFeatures.subtracting(common)
        guard missingHere.isEmpty else { throw .missing(missingHere, isOurs: true) }
        let limits = ours.limits.smaller(theirs.limits)
        if let name = limits.unusable { throw .limit(name) }
        return WireTerms(version: version, features: common, limits: limits)
    }
}

/// Why two sides cannot speak with each other.
package enum NegotiationFailure: Error, Hashable, Sendable {
    case sameHost
    case lane(ours: Lane, theirs: Lane)
    case session
    case version(ours: ClosedRange<UInt16>, theirs: ClosedRange<UInt16>)
    /// A side lacks features that the other cannot do without.
    case missing(WireFeatures, isOurs: Bool)
    case limit(StaticName)

    package var words: String {
        switch self {
        case .sameHost: "the peer's address leads back to this daemon"
        case .lane(let ours, let theirs): "a \(ours) connection was answered as a \(theirs) connection"
        case .session: "the connection belongs to another session"
        case .version(let ours, let theirs):
            "this daemon speaks versions \(ours.lowerBound) to \(ours.upperBound), the peer \(theirs.lowerBound) to "
                + "\(theirs.upperBound)"
        case .missing(let features, let isOurs):
            isOurs
                ? "the peer needs \(features.words), which this daemon has not"
                : "the peer has not \(features.words), which this daemon needs"
        case .limit(let name): "the limits leave no usable \(name.words)"
        }
    }
}
