/// The one way into a data-plane thread: commands from any thread, taken by the loop at its next turn.
package final class Mailbox<P: Platform & ~Copyable>: Sendable {
    private struct State {
        var commands: [EngineCommand<P>] = []
        var waker: P.PlatformWaker?
        var isClosed = false
    }

    private let state = Locked(State())

    package init() {}

    /// Adds a command and rouses the loop; false when the loop has ended and will never take it.
    package func send(_ command: EngineCommand<P>) -> Bool {
        let (isTaken, waker) = state.withLock { state -> (Bool, P.PlatformWaker?) in
            guard !state.isClosed else { return (false, nil) }
            state.commands.append(command)
            return (true, state.waker)
        }
        waker?.wake()
        return isTaken
    }

    /// The loop is there: what was sent before is waiting.
    func open(_ waker: P.PlatformWaker) {
        state.withLock { $0.waker = waker }
        waker.wake()
    }

    /// Takes everything that has been sent.
    func takeAll() -> [EngineCommand<P>] {
        state.withLock { state in
            let commands = state.commands
            state.commands = []
            return commands
        }
    }

    /// No command is taken any more; returns those that came too late.
    func close() -> [EngineCommand<P>] {
        state.withLock { state in
            state.isClosed = true
            state.waker = nil
            let commands = state.commands
            state.commands = []
            return commands
        }
    }
}
