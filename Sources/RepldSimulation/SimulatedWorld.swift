package import RepldCore
internal import RepldEngine

/// A simulated world: one clock, one generator of random numbers, hosts with disks, and the network between the hosts.
///
/// Everything random comes from the generator, and everything is kept in the order in which it came: the same seed and
/// the same calls give the same run on any machine.
///
/// Who moves the clock:
/// - In a world of one host its `wait` does, because nobody else could do anything meanwhile: to the next event, at most to
///   the deadline.
/// - In a world of several, `wait` hands over what is due now and notes the deadline up to which the host sleeps; the
///   clock stands still while a host is turned. `nextHost` moves it to the first event or deadline of any host, lets happen
///   in the network what happens on the way, and says which host is to be turned then; among several it draws.
///
/// It outlives the engines of its hosts. Hosts and connections do not keep it: whoever made it does.
package final class SimulatedWorld {
    package private(set) var now: UInt64 = 1
    package var random: RandomSource
    package private(set) var hosts: [SimulatedHost] = []
    package private(set) lazy var network = SimulatedNetwork(world: self)
    private var nextSequence: UInt64 = 0

    package init(seed: UInt64) { random = RandomSource(seed: seed) }

    /// Adds a host, which is down until a platform is made on it.
    package func addHost(_ name: String) -> SimulatedHost {
        let host = SimulatedHost(world: self, index: hosts.count, name: name)
        hosts.append(host)
        network.addLinks(count: hosts.count)
        return host
    }

    /// A number for what is started now: of two things that are due at the same moment, the earlier started comes first.
    func takeSequence() -> UInt64 {
        defer { nextSequence += 1 }
        return nextSequence
    }

    /// A moment at most `limit` nanoseconds from now, but not now.
    func soon(within limit: UInt64) -> UInt64 { now + 1 + random.below(limit) }

    var isOfOneHost: Bool { hosts.count == 1 }

    /// Lets time pass until a host is to be turned, and says which; `nil` where that is not before `limit`.
    ///
    /// The clock is at `limit` then, unless there is none.
    package func nextHost(before limit: UInt64 = .max) -> SimulatedHost? {
        while true {
            let inHosts = hosts.reduce(UInt64.max) { min($0, $1.nextMoment) }
            let inNetwork = network.nextMoment
            let moment = min(inHosts, inNetwork)
            guard moment < limit else {
                if limit < .max { now = max(now, limit) }
                return nil
            }
            now = max(now, moment)
            if inNetwork <= now {
                network.carryOut()
                continue
            }
            let due = hosts.filter { $0.nextMoment <= now }
            return due.count == 1 ? due[0] : due[Int(random.below(UInt64(due.count)))]
        }
    }

    /// Lets time pass until something has completed on the only host, at most to `deadline`.
    ///
    /// One completion at a time: so the host is turned between any two.
    func advance(_ host: SimulatedHost, to deadline: UInt64, into completions: inout BoundedQueue<Completion>) {
        while true {
            if host.deliver(atMost: 1, into: &completions) > 0 { return }
            let moment = min(host.nextEventMoment, network.nextMoment)
            guard moment <= deadline else {
                now = max(now, deadline)
                return
            }
            now = max(now, moment)
            network.carryOut()
        }
    }
}
