import RepldEngine

/// How a peer proves who it is.
package enum PeerSecurity: Sendable {
    /// By the key that both have; what is sent is encrypted.
    case key(PeerKey)
    /// Not at all, and everybody on the way reads and writes along: for a network that nobody else is on.
    case plaintext
}

/// Where a peer's daemon listens, and how the two prove to each other who they are.
package struct PeerAddress: Sendable {
    /// A name, which is resolved at each attempt, or an address.
    package let host: String
    package let port: UInt16
    package let security: PeerSecurity
    /// What became of the attempts so far, in words.
    package let trouble = PeerTrouble()

    package init(host: String, port: UInt16, security: PeerSecurity) {
        self.host = host
        self.port = port
        self.security = security
    }
}

extension PeerAddress: CustomStringConvertible {
    package var description: String {
        let place = host.contains(":") ? "[\(host)]:\(port)" : "\(host):\(port)"
        return switch security {
        case .key: place
        case .plaintext: "\(place) (not encrypted)"
        }
    }
}

/// The keys that a listener lets in, each that of one peer; they may be replaced at any time, from any thread.
///
/// A connection is asked for the keys that are in the set when it is accepted. One that has been let in stays, also when
/// its key is taken out.
package final class PeerKeySet: Sendable {
    /// Far more peers than a host has.
    package static let countMax = 1024

    private let keys: Locked<[PeerKey]>

    /// At most `countMax` keys.
    package init(_ keys: [PeerKey] = []) { self.keys = Locked(Array(keys.prefix(Self.countMax))) }

    /// Puts other keys in the place of all; false, with nothing changed, for more than `countMax`.
    @discardableResult
    package func replace(with keys: [PeerKey]) -> Bool {
        guard keys.count <= Self.countMax else { return false }
        self.keys.withLock { $0 = keys }
        return true
    }

    /// The keys as they are now.
    package var current: [PeerKey] { keys.withLock { $0 } }
}

/// Why connections of a peer, or to one, did not come about: their number, and the last in words.
///
/// The platform's completions carry a number; an operator has to be told more.
package final class PeerTrouble: Sendable {
    package struct Note: Sendable, Hashable {
        /// Connections that failed or were refused so far.
        package var count: UInt64 = 0
        /// Why the last of them was; a listener's words begin with the address that it came from.
        ///
        /// `nil` when there was none, and of a peer's address when an attempt succeeded since.
        package var words: String?
    }

    private let state = Locked(Note())

    package init() {}

    /// What is known now.
    package var note: Note { state.withLock { $0 } }

    func add(_ words: String) {
        state.withLock { note in
            note.count += 1
            note.words = words
        }
    }

    func clear() { state.withLock { $0.words = nil } }
}

/// What a listener for peers asks of those who come.
struct PeerDoor: Sendable {
    let keys: PeerKeySet
    let allowsPlaintext: Bool
    let trouble = PeerTrouble()
}
