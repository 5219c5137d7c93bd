internal import RepldCore
internal import RepldEngine

/// A host's place in the network: where a listener listens, and what a peer connects to.
///
/// Unchecked: the simulation has one thread.
package struct SimulatedPlace: @unchecked Sendable {
    package let host: SimulatedHost
    package let port: Int

    package init(_ host: SimulatedHost, port: Int = 0) {
        self.host = host
        self.port = port
    }
}

/// An open socket of a host: one side of a connection.
struct SimulatedSocket {
    let connection: SimulatedConnection
    let side: Int

    var receiveDue: SimulatedDue? { connection.ends[side].receive?.due }
    var sendDue: SimulatedDue? { connection.ends[side].send?.due }
    var isIdle: Bool { connection.ends[side].receive == nil && connection.ends[side].send == nil }
}

struct SimulatedListener {
    let port: Int
    let token: Token
}

/// What a host's kernel has to tell of connecting and accepting.
struct SimulatedNotice {
    enum Kind {
        /// A connection is there, seen from this side.
        case opened(SimulatedConnection, side: Int)
        case failed(IOFailure)
    }

    var kind: Kind
    var token: Token
    var dueAt: UInt64
    var sequence: UInt64
}

/// Sockets and listeners of one host.
extension SimulatedHost {
    func socket(_ index: Int) -> SimulatedSocket {
        guard sockets.indices.contains(index), let socket = sockets[index] else {
            invariantFailed("a socket is used while it is open")
        }
        return socket
    }

    func tell(_ kind: SimulatedNotice.Kind, token: Token, notBefore moment: UInt64 = 0) {
        let dueAt = max(moment, world.soon(within: SimulatedNetwork.kernelLimitNanoseconds))
        notices.append(SimulatedNotice(kind: kind, token: token, dueAt: dueAt, sequence: world.takeSequence()))
    }

    func endNotice(_ index: Int) -> Completion {
        let notice = notices.remove(at: index)
        switch notice.kind {
        case .failed(let failure):
            return Completion(token: notice.token, count: 0, failure: failure)
        case .opened(let connection, let side):
            guard let index = takeSocket(SimulatedSocket(connection: connection, side: side)) else {
                connection.abandon(side)
                return Completion(token: notice.token, count: 0, failure: .noResources)
            }
            return Completion(token: notice.token, count: UInt32(index), failure: nil)
        }
    }

    private func takeSocket(_ socket: SimulatedSocket) -> Int? {
        if let index = sockets.firstIndex(where: { $0 == nil }) {
            sockets[index] = socket
            return index
        }
        guard sockets.count < socketLimit else { return nil }
        sockets.append(socket)
        return sockets.count - 1
    }

    func close(_ index: Int) {
        let closed = socket(index)
        invariant(closed.isIdle, "a socket is closed with nothing in flight")
        sockets[index] = nil
        closed.connection.close(closed.side)
        world.network.sweep()
    }

    func startAccepting(_ place: SimulatedPlace, token: Token) {
        invariant(place.host === self, "a host listens at its own places")
        invariant(!listeners.contains { $0.port == place.port }, "a place has one listener")
        listeners.append(SimulatedListener(port: place.port, token: token))
    }

    /// What has been accepted is told before the end.
    func stopAccepting(_ token: Token) {
        guard let index = listeners.firstIndex(where: { $0.token == token }) else { return }
        listeners.remove(at: index)
        let last = notices.reduce(UInt64(0)) { $1.token == token ? max($0, $1.dueAt) : $0 }
        tell(.failed(.cancelled), token: token, notBefore: last)
    }
}
