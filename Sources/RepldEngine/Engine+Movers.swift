internal import RepldCore
internal import RepldPair

/// The movers of all volumes together: when they are woken, and who comes first.
extension Engine where P: ~Copyable {
    /// The moment is reached at which a mover or a backlog wanted to be looked at, or an earlier one that no longer counts.
    ///
    /// Not inlined, like what follows: most turns need neither.
    @inline(never)
    mutating func wakeMovers() {
        nextWake = Instant(nanoseconds: .max)
        checkBacklogs()
        for index in 0..<volumes.count where volumes[index].isInUse {
            if volumes[index].machine.copyWakeAt <= platform.now { volumes[index].machine.wake() }
            carryOut(index)
        }
    }

    /// Lets the pairs with the smallest order number copy, of those that want to, and makes all others wait for the first of
    /// them.
    ///
    /// After every command, whenever a machine had something to tell, and at every tick: so a pair that can no longer copy,
    /// for whatever reason, holds nobody up for longer than a second.
    @inline(never)
    mutating func orderMovers() {
        isOrderStale = false
        var first: (order: UInt16, pair: PairID)?
        for volume in 0..<volumes.count where volumes[volume].isInUse {
            for pair in 0..<VolumeMachine.pairLimit {
                guard let order = volumes[volume].machine.copyOrder(pair) else { continue }
                if let first, first.order <= order { continue }
                guard let id = volumes[volume].machine.withPair(pair, { $0.id }) else { continue }
                first = (order, id)
            }
        }
        for volume in 0..<volumes.count where volumes[volume].isInUse {
            for pair in 0..<VolumeMachine.pairLimit {
                let order = volumes[volume].machine.copyOrder(pair)
                let isLater = order.map { $0 > first?.order ?? .max } ?? false
                volumes[volume].machine.setOrder(pair, waitsFor: isLater ? first?.pair : nil)
            }
            carryOut(volume)
        }
    }

    mutating func configureCopy(_ id: PairID, _ settings: CopySettings) -> Result<Void, EngineRefusal> {
        guard let (volume, pair) = findPair(id) else { return .failure(.noSuchPair) }
        volumes[volume].machine.configureCopy(pair, settings)
        carryOut(volume)
        return .success(())
    }
}
