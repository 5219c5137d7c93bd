internal import RepldCore

/// The network of a simulated world: a link in each direction between any two hosts, and the connections over them.
///
/// Faults, all to be switched at any time: delay, bandwidth, refused and late answers (`SimulatedLink`), partitions in one
/// or both directions, and connections that are cut on one side or both, or muted, so that bytes vanish and nobody is
/// told. Connections are lost with the host as well (`SimulatedHost.crash`). Not injected: bytes that change, are doubled
/// or change places within a connection, because TCP and the encryption above it turn those into a lost one.
package final class SimulatedNetwork {
    /// What holds for all connections.
    package struct Settings: Sendable {
        package var sendBufferByteCount = 256 << 10
        package var receiveBufferByteCount = 256 << 10
        /// Largest piece of a stream that is on its way as one.
        package var pieceByteCountMaximum = 64 << 10
        /// A connect is answered within this time, or has failed.
        package var connectLimitNanoseconds: UInt64 = 5_000_000_000
        /// How long what was sent may stay without an answer before the connection counts as lost; `nil` is for ever.
        package var silenceLimitNanoseconds: UInt64?
        /// Somebody on the way says that a host cannot be reached, instead of nobody.
        package var tellsUnreachable = false

        package init() {}
    }

    /// Connections that a fault is to hit on which of their sides.
    package enum CutSide: Sendable, CaseIterable { case first, second, both }

    /// Longest time that a kernel takes to tell what has happened.
    static var kernelLimitNanoseconds: UInt64 { 20_000 }
    /// Longest time until what was lost is sent again after the way is free.
    static var retryLimitNanoseconds: UInt64 { 1_000_000_000 }

    unowned let world: SimulatedWorld
    package var settings = Settings()
    /// By the index of the sender, and then by that of the receiver.
    private var links: [[SimulatedLink]] = []
    var connections: [SimulatedConnection] = []
    var attempts: [SimulatedConnect] = []

    init(world: SimulatedWorld) { self.world = world }

    func addLinks(count: Int) {
        for index in links.indices { links[index].append(SimulatedLink()) }
        links.append((0..<count).map { _ in SimulatedLink() })
    }

    package func link(from sender: SimulatedHost, to receiver: SimulatedHost) -> SimulatedLink {
        links[sender.index][receiver.index]
    }

    /// Connections of which a host has a socket, or is about to get one.
    package var connectionCount: Int { connections.count }

    // MARK: - Faults

    /// Lets nothing pass between two hosts until it is healed: established connections wait, new ones run out of time.
    package func partition(_ first: SimulatedHost, _ second: SimulatedHost) {
        setPartitioned(true, from: first, to: second)
        setPartitioned(true, from: second, to: first)
    }

    package func heal(_ first: SimulatedHost, _ second: SimulatedHost) {
        setPartitioned(false, from: first, to: second)
        setPartitioned(false, from: second, to: first)
    }

    /// The same in one direction.
    package func setPartitioned(_ isPartitioned: Bool, from sender: SimulatedHost, to receiver: SimulatedHost) {
        link(from: sender, to: receiver).isPartitioned = isPartitioned
        reconsider()
    }

    /// Ends the connections between two hosts, muted ones as well.
    ///
    /// A side that is told learns at once that the other end is gone; one that is not, when it sends something.
    package func cut(_ first: SimulatedHost, _ second: SimulatedHost, _ side: CutSide = .both) {
        forEachEnd(of: first, to: second) { connection, end in
            if side != .second { connection.fail(end, .gone) }
            if side != .first { connection.fail(1 - end, .gone) }
        }
    }

    /// Makes the connections between two hosts half-open: what the first sends vanishes, whatever heals, until they are cut.
    ///
    /// The sender notices when its buffer is full, or by what does not come back.
    package func mute(from sender: SimulatedHost, to receiver: SimulatedHost) {
        forEachEnd(of: sender, to: receiver) { connection, end in connection.mute(end) }
        reconsider()
    }

    /// Ends the connections of which one end does not know that the other is no more, or cannot be heard.
    func cutHalfOpen() {
        for connection in connections where connection.isHalfOpen {
            for side in 0..<2 { connection.fail(side, .gone) }
        }
    }

    private func forEachEnd(
        of first: SimulatedHost,
        to second: SimulatedHost,
        _ body: (SimulatedConnection, Int) -> Void
    ) {
        for connection in connections {
            if connection.ends[0].host === first, connection.ends[1].host === second {
                body(connection, 0)
            } else if connection.ends[0].host === second, connection.ends[1].host === first {
                body(connection, 1)
            }
        }
    }

    // MARK: - Hosts

    /// A host has come up.
    func hostChanged() { reconsider() }

    func hostCrashed(_ host: SimulatedHost) {
        attempts.removeAll { $0.host === host }
        for connection in connections {
            for side in 0..<2 where connection.ends[side].host === host { connection.crash(side) }
        }
        sweep()
        reconsider()
    }

    private func reconsider() {
        for connection in connections {
            for side in 0..<2 { connection.reconsider(side) }
        }
        retryConnects()
    }

    // MARK: - Time

    /// When something next happens in the network itself.
    var nextMoment: UInt64 {
        var moment = UInt64.max
        for connection in connections {
            moment = min(moment, connection.nextMoment(0), connection.nextMoment(1))
        }
        for attempt in attempts { moment = min(moment, nextMoment(of: attempt)) }
        return moment
    }

    /// Lets happen what is due now.
    func carryOut() {
        for connection in connections {
            for side in 0..<2 { connection.carryOut(side) }
        }
        carryOutConnects()
        sweep()
    }

    /// Forgets connections that no host knows of.
    func sweep() { connections.removeAll { $0.isOver } }
}
