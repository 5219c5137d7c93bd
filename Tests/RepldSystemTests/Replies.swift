import Foundation
import RepldTestSupport

/// What `replctl --json` prints, as far as the tests look at it.
enum Reply {
    struct Enumerated: Decodable, Equatable {
        var number: Int
        var name: String
    }

    struct Copy: Decodable {
        var totalByteCount: UInt64
        var doneByteCount: UInt64
        var writtenByteCount: UInt64
        var zeroByteCount: UInt64
        var equalByteCount: UInt64
    }

    struct Pair: Decodable {
        var revision: UInt64
        var name: String
        var id: String
        var sourcePath: String
        var targetPath: String
        var copyState: Enumerated
        var progressStatus: Enumerated
        var reason: String?
        var dirtyByteCount: UInt64?
        var undoByteCount: UInt64?
        var copy: Copy?
        var resync: Resync?
        var settings: Settings
        /// What the host has of a pair between two hosts.
        var role: String?
        var peer: PairPeer?
        var mode: Enumerated
        var exposureSeconds: Double?
        var recoveryPointSeconds: Double?
        var copyRecoveryMode: Enumerated?
    }

    /// A pair as the host of its replica shows it.
    struct Replica: Decodable {
        var id: String
        var role: String?
        var undoByteCount: UInt64?
        var copyState: Enumerated
        var peer: PairPeer?
        var operation: Enumerated?
        /// The one that runs, or ran last; of a replica none is shown.
        var job: PairJob?
    }

    struct PairJob: Decodable {
        var state: Enumerated
        var endedAt: String?
    }

    struct PairPeer: Decodable {
        var name: String
        var volume: String
        var isConnected: Bool
        var reason: String?
    }

    struct Peer: Decodable {
        var isConnected: Bool
        var compression: String
        var reason: String?
        var sentByteCount: UInt64
        var pairs: [String]
    }

    struct Resync: Decodable {
        var limit: String
        var limitedBy: String
    }

    struct Settings: Decodable {
        var resync: ResyncSettings
    }

    struct ResyncSettings: Decodable {
        var paused: Bool
        var capBytesPerSecond: UInt64?
        var order: Int
    }

    struct Activity: Decodable {
        var connectionCount: Int
        var writeCount: UInt64
        var failedRequestCount: UInt64
        var readsServedByTarget: UInt64
    }

    struct Volume: Decodable {
        var name: String
        var byteCount: UInt64?
        var blockByteCount: UInt32?
        /// Why it is not served.
        var reason: String?
        var activity: Activity?
    }

    /// `fio --output-format=json`.
    struct Fio: Decodable {
        struct Latency: Decodable {
            var max: Double
        }
        struct Direction: Decodable {
            var io_bytes: UInt64
            var total_ios: UInt64
            var lat_ns: Latency?
        }
        struct Job: Decodable {
            var error: Int
            var total_err: Int?
            var read: Direction
            var write: Direction
        }
        var jobs: [Job]
    }

    /// `nbdinfo --json`.
    struct NbdInfo: Decodable {
        struct Export: Decodable {
            enum CodingKeys: String, CodingKey {
                case name = "export-name"
                case byteCount = "export-size"
                case contexts, is_read_only, can_cache, can_df, can_fast_zero, can_flush, can_fua, can_multi_conn
                case can_trim, can_zero, block_size_minimum, block_size_preferred, block_size_maximum
            }
            var name: String
            var byteCount: UInt64?
            var contexts: [String]?
            var is_read_only: Bool?
            var can_cache: Bool?
            var can_df: Bool?
            var can_fast_zero: Bool?
            var can_flush: Bool?
            var can_fua: Bool?
            var can_multi_conn: Bool?
            var can_trim: Bool?
            var can_zero: Bool?
            var block_size_minimum: UInt64?
            var block_size_preferred: UInt64?
            var block_size_maximum: UInt64?
        }
        var `protocol`: String
        var structured: Bool
        var exports: [Export]
    }

    /// A run of `nbdinfo --map --json`.
    struct MapRun: Decodable {
        var offset: UInt64
        var length: UInt64
        var type: Int
    }

    static func decode<T: Decodable>(_ type: T.Type, _ text: String) throws -> T {
        // fio prints notes in front of its report.
        let start = text.firstIndex { $0 == "{" || $0 == "[" } ?? text.startIndex
        do {
            return try JSONDecoder().decode(type, from: Data(text[start...].utf8))
        } catch {
            throw Outcome.Failed(description: "this is no \(type): \(error)\n\(text)")
        }
    }
}

extension Daemon {
    func pair(_ name: String) throws -> Reply.Pair {
        try Reply.decode(Reply.Pair.self, controls("pair", "show", name, "--json"))
    }

    func replica(_ name: String) throws -> Reply.Replica {
        try Reply.decode(Reply.Replica.self, controls("pair", "show", name, "--json"))
    }

    func volume(_ name: String) throws -> Reply.Volume {
        try Reply.decode(Reply.Volume.self, controls("volume", "show", name, "--json"))
    }

    func activity(_ name: String) throws -> Reply.Activity {
        guard let activity = try volume(name).activity else {
            throw Outcome.Failed(description: "volume \(name) is not served")
        }
        return activity
    }

    /// Asks again and again, each time by a tool that answers when the daemon has, until `holds` or the time is over.
    func wait(for words: String, atMost limit: Duration = .hang, until holds: () throws -> Bool) throws {
        let deadline = Deadline(after: limit)
        while try !holds() {
            if deadline.millisecondsLeft == 0 { throw Child.TimedOut(description: "not within \(limit): \(words)") }
            // Each question is a process, and what is waited for needs the processor as well.
            var nothing: [pollfd] = []
            _ = try Deadline(after: .milliseconds(20)).poll(&nothing)
        }
    }

    func waitForCopyState(_ name: String, of pair: String, atMost limit: Duration = .hang) throws {
        try wait(for: "pair \(pair) is \(name)", atMost: limit) { try self.pair(pair).copyState.name == name }
    }
}
