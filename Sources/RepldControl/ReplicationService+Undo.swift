internal import RepldControlAPI
internal import RepldPair

/// Room for what a copy overwrites
extension ReplicationService {
    /// Refuses a copy that is to keep what it overwrites, and cannot, or not all of it.
    ///
    /// Before it begins: an undo area that runs full breaks the pair in the middle, and the file system of the state directory
    /// has no room then for anything else.
    func checkUndo(
        _ operation: ReplicationOperation,
        _ entry: PairEntry,
        _ now: PairSituation,
        _ wanted: Bool?
    ) throws(ControlError) {
        if wanted == true, !entry.settings.keepsUndo {
            throw ControlError(
                .invalidSettings,
                "keepsUndo: pair '\(entry.name)' was made without an undo area",
                suggestion: "leave it out, or make the pair again"
            )
        }
        guard wanted ?? entry.settings.keepsUndo else { return }
        let needed = OperationPlan.undoByteCount(operation, now.facts)
        guard needed > 0 else { return }
        let what = "\(operation.name) of pair '\(entry.name)' would overwrite a target that is a usable image"
        if let remote = entry.remote {
            // How much room there is there, it finds out itself.
            guard !now.hasUndoArea else { return }
            throw ControlError(
                .notEnoughResources,
                "\(what), and peer '\(remote.peer)' cannot keep what it holds",
                suggestion: "the log of the daemon there says why: mend that and start it again; or say --no-undo"
            )
        }
        let path = state.undoPath(of: entry.id)
        guard now.hasUndoArea else {
            throw ControlError(
                .notEnoughResources,
                "\(what), and what it holds cannot be kept: the undo area \(path) could not be opened",
                suggestion: "the daemon's log says why: mend that and start it again; or say --no-undo"
            )
        }
        guard let free = state.freeByteCount, free < needed else { return }
        throw ControlError(
            .notEnoughResources,
            """
            \(what): to keep that takes up to \(OperationWords.bytes(needed)) in \(path), where \(OperationWords.bytes(free)) \
            are free
            """,
            suggestion: "make room there; or say --no-undo, and there is no way back until the copy has come to its end"
        )
    }
}
