package import RepldCore

/// Why an operation that had begun did not come to its end.
///
/// The pair is in a state of the table then, with nothing forgotten.
package enum OperationFailure: Hashable, Sendable, BitwiseCopyable {
    /// An error ended the copy; the pair's reason says which.
    case pairBroken
    /// Another operation took its place.
    case superseded(by: ReplicationOperation)
    case cancelled
    /// The volume has become the replica of another pair.
    case sourceIsReplica
    /// What was in flight did not end within the pair's time limit, and nothing was changed.
    case drainTimedOut
    /// An element could not make durable what it has.
    case flushFailed(IOFailure)
    /// What the target holds could not be kept in the undo area, and was not overwritten.
    case undoFailed(IOFailure)
    /// The target could not be brought back to what it held before the copy; the undo area is as whole as before.
    case rollbackFailed(IOFailure)
    /// The pair's metadata could not be written: the state is not durable.
    case recordFailed(IOFailure)

    /// Words for the operator.
    package var words: String {
        switch self {
        case .pairBroken: "the pair broke; its reason says why"
        case .superseded(let operation): "\(operation.name) took its place"
        case .cancelled: "cancelled"
        case .sourceIsReplica: "the volume has become the replica of another pair"
        case .drainTimedOut: "what was in flight did not end within the time limit; nothing was changed"
        case .flushFailed(let failure): "a flush failed (\(failure.words)); nothing was changed"
        case .undoFailed(let failure):
            """
            the undo area could not be written: \(failure.words); nothing was overwritten: mend that or make room, or copy \
            without an undo (--no-undo)
            """
        case .rollbackFailed(let failure):
            """
            the target could not be brought back to what it held: \(failure.words); nothing is lost: mend that, and ask for \
            Failover again
            """
        case .recordFailed(let failure): "the pair's metadata could not be written: \(failure.words)"
        }
    }
}
