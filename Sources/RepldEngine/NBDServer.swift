internal import RepldCore
internal import RepldPair

/// The NBD front end's connections and listeners, owned by the engine's loop.
struct NBDServer: ~Copyable {
    /// Makes a server without connections.
    init() {}
}

/// The hooks by which the engine drives its front end.
extension Engine where P: ~Copyable {
    /// Starts to accept connections; false when there are too many listeners.
    mutating func startListening(_ handle: P.ListenerHandle) -> Bool { false }

    /// A completion whose token is of one of the front end's kinds.
    mutating func frontendCompleted(_ kind: TokenKind, _ completion: Completion) {}

    /// A request that the front end submitted is answered.
    ///
    /// The buffer of a successful read is the front end's now and goes back with `releaseBuffer`; the buffers of all
    /// other requests are given back by the engine.
    mutating func frontendAnswered(_ origin: RequestOrigin, _ failure: IOFailure?) {}

    /// Buffers or request slots have been given back: whoever waits for them may try again.
    mutating func frontendResourcesFreed() {}

    /// The turn ends: sends what has gathered.
    mutating func frontendFlushOutput() {}

    /// Ends all connections to a volume that goes away; its requests in flight are still answered.
    mutating func disconnectClients(of volume: Int) {}

    /// Stops accepting and reading; connections end when their requests in flight are answered.
    mutating func beginFrontendStop() {}

    /// No connection and no listener is left.
    var isFrontendStopped: Bool { true }
}
