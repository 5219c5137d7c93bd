internal import RepldCore
internal import RepldEngine
internal import RepldPair

extension Simulation {
    /// An operation that the engine has accepted and not ended.
    struct AcceptedOperation {
        var operation: ReplicationOperation
        var from: CopyState
        var acceptedAt: UInt64
        /// Filled when the engine answers; operations that start a job are answered at once.
        var answer: AnswerBox<Result<OperationStart, EngineRefusal>>?
    }

    /// What was true before the primary moved, while a crash may still take the move back.
    struct Undo {
        var isSecondPrimary: Bool
        var isSecondSource: Bool
        var history: WriteHistory
        var targetHistory: WriteHistory?
        var image: WriteHistory?
        var imageInFlow: WriteHistory?
    }

    /// What is known of one pair: what the engine said when it was last looked at, and what must be true of its elements.
    struct SimulatedPair {
        var id: PairID
        /// The second element; the first is the volume's own (`Simulation.volumeDisk`).
        var second: SimulatedDisk
        var metadata: SimulatedDisk
        /// What a copy overwrites goes here, where the run keeps undos.
        var undoArea: SimulatedDisk?
        /// What the operator has set about the mover; kept over restarts, as the registry does.
        var copy: CopySettings
        var isAttached = false
        /// The sequence of the record that this life began with.
        var sequenceAtStart: UInt64 = 0
        /// Its records may not say how it stands.
        var hasMetadataFailed = false

        var state: CopyState?
        var isSecondPrimary = false
        var isSecondSource = false
        var accepted: AcceptedOperation?

        /// What hosts of the target's own export may find there, while the target is theirs.
        var targetHistory: WriteHistory?
        /// A host has written there since.
        var isTargetWritten = false
        /// What the source was when mirroring stopped: what a target that counts as usable must hold.
        var image: WriteHistory?
        /// The image before something began to flow.
        ///
        /// With the number of writes that the target had seen then: after a crash it holds if there were no more.
        /// While a copy runs to a target that stays usable: what it may hold besides what the source has now.
        ///
        /// After a crash in Synchronized, or a failure of the source, the two differ in what was not made durable.
        var imageInFlow: WriteHistory?
        var imageBeforeFlow: (image: WriteHistory, writeCount: UInt64)?
        /// What its own hosts may have found, had the last operation not taken the target from them: as long as that is not
        /// durable, a crash gives it back.
        var ownBeforeFlow: WriteHistory?
        var undo: Undo?
        /// What the target held when the undo began that counts, or counted last.
        var undoImage: WriteHistory?
        var hasUndo = false
        /// Bits have rotted in the pages of the area.
        var isUndoDamaged = false
        /// A verify was begun, and its end has not been told.
        var isVerifying = false
    }

    /// The element that serves hosts.
    var primary: SimulatedDisk {
        for pair in pairs where pair.isAttached && pair.isSecondPrimary { return pair.second }
        return volumeDisk
    }

    /// The element of a pair that does not serve hosts.
    func other(_ index: Int) -> SimulatedDisk {
        pairs[index].isAttached && pairs[index].isSecondPrimary ? volumeDisk : pairs[index].second
    }

    var disks: [SimulatedDisk] { [volumeDisk] + pairs.map(\.second) }

    /// The elements, and what is kept beside them.
    var allDisks: [SimulatedDisk] { disks + pairs.map(\.metadata) + pairs.compactMap(\.undoArea) }

    func pairIndex(_ id: PairID) -> Int? { pairs.firstIndex { $0.isAttached && $0.id == id } }
}
