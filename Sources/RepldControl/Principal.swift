package import RepldControlAPI

/// Who asked for something, once that is known.
package struct Principal: Hashable, Sendable, CustomStringConvertible {
    /// How somebody is known.
    package enum Identity: Hashable, Sendable {
        /// The daemon's own user or root, by the kernel's word on the unix socket.
        case socketOwner(userID: UInt32)
        /// A user of the daemon, by name and password.
        case user(String)
        /// Somebody who asked the daemon of a peer, which has found that they may: in that daemon's words, and the peer's name.
        case somebodyAtPeer(String, peer: String)
    }

    /// Whoever asked for what the current task does.
    ///
    /// `nil` when the daemon does it by itself; set for the whole of each request, and inherited by its child tasks, but
    /// not by what a job does after the answer unless the job keeps it.
    @TaskLocal package static var current: Principal?

    package let identity: Identity
    package let role: UserRole

    package init(_ identity: Identity, role: UserRole) {
        self.identity = identity
        self.role = role
    }

    /// For events and log lines: `user alice`, `uid 0`.
    package var description: String {
        switch identity {
        case .socketOwner(let userID): "uid \(userID)"
        case .user(let name): "user \(name)"
        case .somebodyAtPeer(let name, let peer): "\(name) at peer \(peer)"
        }
    }
}

extension Caller {
    /// Whoever asked for what the current task does, as jobs keep it.
    package static var current: Caller { Principal.current.map { Caller(name: $0.description) } ?? .controlSocket }
}
