internal import RepldCore
internal import RepldEngine

/// A connect under way.
///
/// The request goes out, and again after a time while nothing passes or the other host is down. There it is refused, or
/// makes a connection that the listener is told of. The answer comes back, and finds somebody who waits for it, or not:
/// then the other host has a connection that nobody is at the end of.
struct SimulatedConnect {
    unowned let host: SimulatedHost
    let place: SimulatedPlace
    let token: Token
    let endsAt: UInt64
    /// `nil` once it has arrived.
    var requestArrivesAt: UInt64?
    /// `nil` while there is none on its way.
    var answerArrivesAt: UInt64?
    var connection: SimulatedConnection?
}

extension SimulatedNetwork {
    func connect(_ host: SimulatedHost, to place: SimulatedPlace, token: Token) {
        let out = link(from: host, to: place.host)
        let back = link(from: place.host, to: host)
        if settings.tellsUnreachable, !reaches(host, place.host), world.random.chance(oneIn: 2) {
            return host.tell(.failed(.gone), token: token)
        }
        // The two also prove to each other who they are, which takes them a round trip before the listener is told.
        let time = out.delay(&world.random) + back.delay(&world.random) + out.delay(&world.random)
        attempts.append(
            SimulatedConnect(
                host: host,
                place: place,
                token: token,
                endsAt: world.now + settings.connectLimitNanoseconds,
                requestArrivesAt: world.now + 1 + time
            )
        )
    }

    private func reaches(_ sender: SimulatedHost, _ receiver: SimulatedHost) -> Bool {
        !link(from: sender, to: receiver).isPartitioned && receiver.isUp
    }

    func nextMoment(of attempt: SimulatedConnect) -> UInt64 {
        var moment = attempt.endsAt
        if let request = attempt.requestArrivesAt, reaches(attempt.host, attempt.place.host) {
            moment = min(moment, request)
        }
        if let answer = attempt.answerArrivesAt, reaches(attempt.place.host, attempt.host) {
            moment = min(moment, answer)
        }
        return moment
    }

    func carryOutConnects() {
        for index in attempts.indices {
            let isReached = reaches(attempts[index].host, attempts[index].place.host)
            if isReached, let moment = attempts[index].requestArrivesAt, moment <= world.now { answer(index) }
        }
        attempts = attempts.filter { !hasEnded($0) }
    }

    /// The request has arrived.
    private func answer(_ index: Int) {
        let host = attempts[index].host
        let place = attempts[index].place
        let out = link(from: host, to: place.host)
        attempts[index].requestArrivesAt = nil
        let limit = out.answerDelayLimitNanoseconds
        let isLate = limit > 0 && world.random.chance(oneIn: out.answersLateOneIn)
        let delay = isLate ? world.random.below(limit) : 0
        let way = link(from: place.host, to: host).delay(&world.random)
        attempts[index].answerArrivesAt = world.now + 1 + way + delay
        guard !out.refusesConnects, let listener = place.host.listeners.first(where: { $0.port == place.port }) else {
            return
        }
        let connection = SimulatedConnection(world, from: host, to: place.host)
        connections.append(connection)
        attempts[index].connection = connection
        // What takes long may come before the listener is told, or behind it.
        let isToldLate = isLate && world.random.chance(oneIn: 2)
        let toldAt = isToldLate ? world.now + delay : 0
        place.host.tell(.opened(connection, side: 1), token: listener.token, notBefore: toldAt)
    }

    /// Tells the host that connects what has come of it, if that is known or time is up.
    private func hasEnded(_ attempt: SimulatedConnect) -> Bool {
        let isReached = reaches(attempt.place.host, attempt.host)
        if isReached, let moment = attempt.answerArrivesAt, moment <= world.now {
            if let connection = attempt.connection {
                attempt.host.tell(.opened(connection, side: 0), token: attempt.token)
            } else {
                attempt.host.tell(.failed(.gone), token: attempt.token)
            }
            return true
        }
        guard attempt.endsAt <= world.now else { return false }
        attempt.connection?.abandon(0)
        attempt.host.tell(.failed(.timedOut), token: attempt.token)
        return true
    }

    /// What did not come through is sent again after a while.
    func retryConnects() {
        for index in attempts.indices {
            let resumesAt = world.soon(within: Self.retryLimitNanoseconds)
            if let moment = attempts[index].requestArrivesAt, moment < world.now {
                attempts[index].requestArrivesAt = resumesAt
            }
            if let moment = attempts[index].answerArrivesAt, moment < world.now {
                attempts[index].answerArrivesAt = resumesAt
            }
        }
    }
}
