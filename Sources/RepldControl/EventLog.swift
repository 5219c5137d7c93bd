package import RepldControlAPI

/// The last events, numbered from 1, in bounded memory; whoever follows them is woken at each.
package struct EventLog {
    /// How many events are kept: hours of a quiet daemon, a few hundred KiB of memory.
    package static var capacity: Int { 4096 }

    private var ring: [EventReply] = []
    private var oldestIndex = 0
    private var subscribers: [AsyncStream<Void>.Continuation] = []
    /// The sequence number of the newest event; 0 when there was none.
    package private(set) var newest: UInt64 = 0

    package init() {}

    /// Numbers an event, keeps it and wakes who follows.
    package mutating func append(_ event: EventReply) {
        newest += 1
        var event = event
        event.sequence = newest
        if ring.count < Self.capacity {
            ring.append(event)
        } else {
            ring[oldestIndex] = event
            oldestIndex = (oldestIndex + 1) % Self.capacity
        }
        wake()
    }

    /// The events after `sequence` that are still kept, oldest first.
    ///
    /// A number that was not given yet is of an earlier run of the daemon: then it is all of them.
    package func events(after sequence: UInt64) -> [EventReply] {
        let start = sequence > newest ? 0 : sequence
        let ordered = ring[oldestIndex...] + ring[..<oldestIndex]
        return ordered.filter { $0.sequence > start }
    }

    /// A stream that gives one element per batch of changes, and never holds more than one.
    package mutating func subscribe() -> Wakeups {
        let (stream, continuation) = AsyncStream.makeStream(of: Void.self, bufferingPolicy: .bufferingNewest(1))
        subscribers.append(continuation)
        return Wakeups(stream: stream, continuation: continuation)
    }

    /// Wakes who follows, without an event.
    package mutating func wake() {
        subscribers.removeAll { subscriber in
            if case .terminated = subscriber.yield() { true } else { false }
        }
    }

    /// Ends all streams.
    package mutating func finish() {
        for subscriber in subscribers { subscriber.finish() }
        subscribers.removeAll()
    }
}

/// Tells that something has changed; look again.
///
/// Ends when finished, or when the daemon stops.
package struct Wakeups: Sendable {
    package let stream: AsyncStream<Void>
    fileprivate let continuation: AsyncStream<Void>.Continuation

    /// Ends the stream.
    package func finish() { continuation.finish() }
}
