package import Foundation

/// Something that happened, as `GET /v1/events` lists it: one JSON object on a line.
package struct EventReply: Codable, Hashable, Sendable {
    /// Counts from 1 at each start of the daemon; a gap means that events were dropped.
    package var sequence: UInt64
    package var time: Date
    /// A word for programs, stable between versions: `copy-state-changed`.
    package var kind: String
    package var volume: String?
    package var pair: String?
    package var copyState: Enumerated?
    package var previousCopyState: Enumerated?
    /// Who asked for it: `user alice`, `uid 0`; absent when nobody did.
    package var by: String?
    /// The same in plain words.
    package var message: String

    package init(
        sequence: UInt64,
        time: Date,
        kind: String,
        volume: String? = nil,
        pair: String? = nil,
        copyState: Enumerated? = nil,
        previousCopyState: Enumerated? = nil,
        message: String
    ) {
        self.sequence = sequence
        self.time = time
        self.kind = kind
        self.volume = volume
        self.pair = pair
        self.copyState = copyState
        self.previousCopyState = previousCopyState
        self.message = message
    }
}

/// The daemon itself: `GET /v1/daemon`.
package struct DaemonReply: Codable, Hashable, Sendable {
    package var version: String
    package var pid: Int32
    package var startedAt: Date
    package var stateDirectory: String
    package var controlSocket: String
    /// Where hosts connect, for instance `nbd+unix:///?socket=/run/repld/nbd.sock`.
    package var frontEnds: [String]
    /// What the daemon calls itself to peers: 32 hexadecimal digits.
    package var host: String?
    /// Where peers connect, `HOST:PORT`; absent where they cannot.
    package var peerAddress: String?
    package var volumeCount: Int
    package var pairCount: Int
    package var connectionCount: Int
    package var newestEvent: UInt64

    package init(
        version: String,
        pid: Int32,
        startedAt: Date,
        stateDirectory: String,
        controlSocket: String,
        frontEnds: [String],
        volumeCount: Int,
        pairCount: Int,
        connectionCount: Int,
        newestEvent: UInt64
    ) {
        self.version = version
        self.pid = pid
        self.startedAt = startedAt
        self.stateDirectory = stateDirectory
        self.controlSocket = controlSocket
        self.frontEnds = frontEnds
        self.volumeCount = volumeCount
        self.pairCount = pairCount
        self.connectionCount = connectionCount
        self.newestEvent = newestEvent
    }
}
