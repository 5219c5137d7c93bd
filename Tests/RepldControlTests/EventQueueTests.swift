import RepldCore
import RepldDataPlane
import RepldEngine
import Testing

/// Events that nobody takes soon enough.
@Suite struct EventQueueTests {
    private func event(_ client: UInt64) -> EngineEvent {
        EngineEvent(volume: VolumeID(rawValue: client), pair: nil, kind: .eventsLost(0))
    }

    /// The numbers of the events, and how many were lost where, as negative numbers.
    private func take(_ queue: EventQueue) async -> [Int] {
        queue.finish()
        var found: [Int] = []
        for await event in queue.stream {
            if let volume = event.volume {
                found.append(Int(volume.rawValue))
            } else if case .eventsLost(let count) = event.kind {
                found.append(-Int(count))
            }
        }
        return found
    }

    @Test func whatDoesNotFitIsCountedAndTold() async {
        let queue = EventQueue(limit: 3)
        for number in 1...5 { queue.send(event(UInt64(number))) }
        #expect(await take(queue) == [1, 2, 3, -2], "also when nothing follows")
    }

    @Test func whatWasLostIsToldInItsPlace() async {
        let queue = EventQueue(limit: 3)
        for number in 1...4 { queue.send(event(UInt64(number))) }
        var events = queue.stream.makeAsyncIterator()
        _ = await events.next()
        queue.send(event(5))
        _ = await events.next()
        queue.send(event(6))
        #expect(await take(queue) == [3, -2, 6])
    }

    @Test func aConsumerThatWaitsIsGivenTheNext() async {
        let queue = EventQueue(limit: 1)
        let consumer = Task { await first(of: queue) }
        queue.send(event(1))
        #expect(await consumer.value.count == 1)
    }

    private func first(of queue: EventQueue) async -> [EngineEvent] {
        for await event in queue.stream { return [event] }
        return []
    }
}
