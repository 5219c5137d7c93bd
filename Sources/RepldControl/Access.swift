internal import Glibc
package import Logging
internal import RepldControlAPI
internal import ServiceLifecycle

/// Finds out who sends a request, and says no slowly.
///
/// On the unix socket the daemon's own user and root need no password; everybody else does, wherever they come from.
/// Credentials that are given are always checked, also those of who would need none.
package actor Access {
    package nonisolated let users: UserDirectory
    /// The user that the daemon runs as.
    private let ownUserID: UInt32
    private let time: Timekeeper
    private let logger: Logger
    private var delays = FailureDelays()

    /// Decides by `users`; `ownUserID` and `time` are others only in tests.
    package init(
        users: UserDirectory,
        ownUserID: UInt32 = geteuid(),
        time: Timekeeper = .real,
        logger: Logger
    ) {
        self.users = users
        self.ownUserID = ownUserID
        self.time = time
        self.logger = logger
    }

    /// Who `peer` is, by what it presents.
    ///
    /// Throws `notAuthenticated` for credentials that are wrong, after a delay, or that are missing, at once; and
    /// `notEnoughResources` when too many passwords are being checked.
    package func principal(
        of peer: ControlPeer,
        presenting credentials: LoginCredentials?
    ) async throws(ControlError) -> Principal {
        guard let credentials else {
            if case .unix(let userID?) = peer, userID == 0 || userID == ownUserID {
                return Principal(.socketOwner(userID: userID), role: .operator)
            }
            throw ControlError(
                .notAuthenticated,
                "access denied: a user name and a password are needed here",
                suggestion: """
                    give --user and a password file, or use the control socket as root or as the user that the daemon \
                    runs as
                    """
            )
        }
        let (entry, reason) = try await check(credentials, peer)
        guard let entry else {
            try await refuse(credentials, peer, because: reason)
        }
        delays.succeeded(credentials.name)
        return Principal(.user(entry.name), role: entry.role)
    }

    /// Logs a request that was refused for its sender's role, and gives back what to answer.
    package nonisolated func denied(
        _ principal: Principal,
        _ peer: ControlPeer,
        _ request: String
    ) -> ControlError {
        logger.warning(
            "access denied",
            metadata: ["who": "\(principal)", "peer": "\(peer)", "reason": "role", "request": "\(request)"]
        )
        return ControlError(
            .accessDenied,
            "access denied: \(principal) is \(principal.role.rawValue), and \(request) needs an operator",
            suggestion: "ask as another user; 'replctl user role' changes what a user may do"
        )
    }

    /// Logs what was done about a user, and who did it.
    package nonisolated func noteChange(_ what: String, of user: String, role: String? = nil) {
        var metadata: Logger.Metadata = ["user": "\(user)"]
        if let role { metadata["role"] = "\(role)" }
        if let principal = Principal.current { metadata["by"] = "\(principal)" }
        logger.notice("\(what)", metadata: metadata)
    }

    /// Logs credentials that could not even be read.
    package nonisolated func noteMalformed(_ error: ControlError, _ peer: ControlPeer) {
        logger.warning("access denied", metadata: ["peer": "\(peer)", "reason": "\(error.message)"])
    }

    /// The user whose name and password these are; `nil` and why when there is none.
    ///
    /// An unknown user costs the same time as a wrong password.
    private func check(
        _ credentials: LoginCredentials,
        _ peer: ControlPeer
    ) async throws(ControlError) -> (UserEntry?, reason: String) {
        let known = await users.entry(named: credentials.name)
        let hash = if let known { known.hash } else { try PasswordHash.ofNobody(cost: users.cost) }
        let isRight: Bool
        do throws(ControlError) {
            isRight = try await users.workers.run { () throws(ControlError) in try hash.matches(credentials.password) }
        } catch {
            logger.warning(
                "password not checked",
                metadata: ["user": "\(credentials.shownName)", "peer": "\(peer)", "reason": "\(error.message)"]
            )
            throw error
        }
        guard known != nil else { return (nil, "unknown user") }
        guard isRight else { return (nil, "wrong password") }
        // The user may have been removed, or given another password or role, while this one was checked.
        let entry = await users.entry(named: credentials.name)
        guard let entry, entry.hash == hash else { return (nil, "user changed meanwhile") }
        return (entry, "")
    }

    /// Holds the answer back, and refuses: in the same words whatever the reason.
    private func refuse(
        _ credentials: LoginCredentials,
        _ peer: ControlPeer,
        because reason: String
    ) async throws(ControlError) -> Never {
        let delay = delays.delay(afterFailureOf: credentials.name, from: peer, at: time.now())
        logger.warning(
            "access denied",
            metadata: ["user": "\(credentials.shownName)", "peer": "\(peer)", "reason": "\(reason)"]
        )
        // The end of the daemon does not wait for it.
        let time = time
        try? await cancelWhenGracefulShutdown { try await time.wait(delay) }
        throw ControlError(.notAuthenticated, "access denied: user name or password wrong")
    }
}
