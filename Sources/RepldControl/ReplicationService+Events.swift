internal import Foundation
internal import Logging
internal import RepldControlAPI
internal import RepldCore
internal import RepldDataPlane
internal import RepldEngine
internal import RepldFormat
internal import RepldPair

/// What happens, told to whoever listens
extension ReplicationService {
    /// Keeps and logs an event of the service itself.
    func record(
        _ kind: String,
        volume: String? = nil,
        pair: String? = nil,
        message: String,
        level: Logger.Level
    ) {
        append(EventReply(sequence: 0, time: Date(), kind: kind, volume: volume, pair: pair, message: message), level)
    }

    private func noteStates(of entry: PairEntry, from old: CopyState, to new: CopyState) {
        noteTimes(of: entry, from: old, to: new)
        noteOutOfSuspended(entry, from: old)
    }

    /// Counts and tells a change that somebody asked for.
    func noteChange(_ message: String, of entry: PairEntry) {
        countRevision(of: entry.id)
        let volume = registry.content.volume(entry.volumeNumber)?.name
        record("operation-accepted", volume: volume, pair: entry.name, message: message, level: .notice)
    }

    /// Keeps and logs an event of the data plane.
    func note(_ event: EngineEvent) async {
        let pairEntry = event.pair.flatMap { registry.content.pair($0) }
        let number = event.volume?.rawValue ?? pairEntry?.volumeNumber
        var reply = EventReply(
            sequence: 0,
            time: Date(),
            kind: "",
            volume: number.flatMap { registry.content.volume($0)?.name },
            pair: pairEntry?.name,
            message: ""
        )
        if let id = event.pair { countRevision(of: id) }
        var level = Logger.Level.notice
        switch event.kind {
        case .copyStateChanged(let old, let new):
            reply.kind = "copy-state-changed"
            reply.previousCopyState = Enumerated(old)
            reply.copyState = Enumerated(new)
            reply.message = "\(old.name) -> \(new.name)"
            if let pairEntry { noteStates(of: pairEntry, from: old, to: new) }
        case .operationEnded(let operation, let failure):
            reply.kind = "operation-ended"
            reply.message = failure.map { "\(operation.name) failed: \($0.words)" } ?? "\(operation.name) is done"
            if let failure { level = Self.level(of: failure) }
        case .rolesReversed(let isSecondSource):
            reply.kind = "roles-reversed"
            let now = pairEntry.map { roles(of: $0, isSecondSource: isSecondSource) }
            reply.message = now.map { "the source is \($0.sourcePath) now, the target \($0.targetPath)" } ?? ""
        case .pairBroken(let words):
            (reply.kind, reply.message, level) = ("pair-broken", words, .error)
        case .sourceReadServedByTarget(let extent, let isRepaired):
            reply.kind = "source-read-served-by-target"
            reply.message = "\(Self.words(extent)); the source was \(isRepaired ? "" : "not ")rewritten from the target"
            level = .warning
        case .sourceWriteFailed(let extent, let failure):
            (reply.kind, level) = ("source-write-failed", .error)
            reply.message = "\(Self.words(extent)): \(failure.words)"
        case .recordFailed(let failure):
            (reply.kind, level) = ("record-failed", .error)
            reply.message = "the pair's metadata record could not be written: \(failure.words)"
        case .verifyFound, .verifyEnded: level = Self.describeVerify(event.kind, in: &reply)
        case .clientConnected(let client):
            (reply.kind, reply.message, level) = ("client-connected", "client \(client)", .info)
        case .clientDisconnected(let client, let reason):
            reply.kind = "client-disconnected"
            reply.message = reason.map { "client \(client): \($0)" } ?? "client \(client)"
            level = reason == nil ? .info : .warning
        case .historyCompared, .caughtUp, .takenOver, .released, .undoLost:
            level = Self.describePeer(event.kind, in: &reply)
        case .eventsLost(let count):
            reply.kind = "events-lost"
            reply.message = "\(count) events of the data plane were lost"
            level = .warning
        }
        if !isToldAgain(event) { append(reply, level) }
        if let id = event.pair { endJob(of: id, event.kind) }
        noteMove(event)
        if case .eventsLost = event.kind { await reviewAfterLoss() }
    }

    /// What a pair between two hosts tells of its peer.
    private static func describePeer(_ kind: EngineEvent.Kind, in reply: inout EventReply) -> Logger.Level {
        switch kind {
        case .historyCompared(let rule):
            (reply.kind, reply.message) = ("history-compared", rule.words)
            return .warning
        case .caughtUp: (reply.kind, reply.message) = ("caught-up", "nothing is left to copy: hosts can be moved")
        case .takenOver:
            reply.kind = "taken-over"
            reply.message = "the peer has taken the pair over and serves hosts: they are kept away here"
            return .warning
        case .undoLost:
            reply.kind = "undo-lost"
            reply.message = """
                what the peer had kept of what the copy has overwritten is gone there: until the copy has come to its end, its \
                element is no usable image
                """
            return .warning
        default: (reply.kind, reply.message) = ("released", "every peer has been asked: hosts may come")
        }
        return .notice
    }

    /// What the data plane tells every second as long as nothing has come of it.
    private func isToldAgain(_ event: EngineEvent) -> Bool {
        guard case .takenOver = event.kind, let id = event.pair else { return false }
        guard registry.content.pair(id) != nil else { return true }
        return !takenOverPairs.insert(id).inserted
    }

    /// What a pair that moves has come to is acted upon beside all other events.
    private func noteMove(_ event: EngineEvent) {
        switch event.kind {
        case .takenOver: if let id = event.pair { Task { await followTakeOver(id) } }
        case .caughtUp: if let id = event.pair { Task { await beginEndOfFailback(id) } }
        case .released:
            guard let number = event.volume?.rawValue else { return }
            endMoves(ofVolume: number)
            Task { await reviewAfterRelease(ofVolume: number) }
        default: break
        }
    }

    /// What has ended ends its job.
    private func endJob(of pair: PairID, _ kind: EngineEvent.Kind) {
        switch kind {
        case .operationEnded(let operation, let failure): endJob(of: pair, operation, failure)
        case .verifyEnded(let report, let failure): endVerifyJob(of: pair, report, failure)
        default: break
        }
    }

    /// The end of a job may be among what was lost.
    private func reviewAfterLoss() async {
        do {
            try await reviewJobs(because: "events of the data plane were lost")
        } catch {
            logger.error("jobs cannot be reviewed", metadata: ["reason": "\(error)"])
        }
    }

    /// The pair has not moved; what the kill of an earlier run has interrupted may not be under way either.
    private func reviewAfterRelease(ofVolume number: UInt64) async {
        do {
            try await reviewOldJobs(ofVolume: number)
        } catch {
            logger.error("jobs cannot be reviewed", metadata: ["reason": "\(error)"])
        }
    }

    private static func level(of failure: OperationFailure) -> Logger.Level {
        switch failure {
        case .superseded, .cancelled, .sourceIsReplica: .notice
        case .pairBroken, .drainTimedOut, .flushFailed, .recordFailed, .undoFailed, .rollbackFailed: .error
        }
    }

    /// Makes the times of a pair durable that a change of its copy state sets.
    private func noteTimes(of entry: PairEntry, from old: CopyState, to new: CopyState) {
        var times = entry.times
        let wasReplaced = old == .broken && entry.replacement != nil
        if old == .broken { pairs[entry.id]?.replacement = nil }
        guard times.note(from: old, to: new, at: Date()) || wasReplaced else { return }
        do {
            try registry.commit { content in
                guard let index = content.pairs.firstIndex(where: { $0.id == entry.id }) else { return }
                content.pairs[index].times = times
                if wasReplaced { content.pairs[index].replacement = nil }
            }
        } catch {
            logger.error(
                "the times of a pair are not durable",
                metadata: ["pair": "\(entry.name)", "reason": "\(error)"]
            )
        }
    }

    private func append(_ event: EventReply, _ level: Logger.Level) {
        var event = event
        event.by = Principal.current?.description
        log.append(event)
        var metadata: Logger.Metadata = ["event": "\(event.kind)"]
        if let volume = event.volume { metadata["volume"] = "\(volume)" }
        if let pair = event.pair { metadata["pair"] = "\(pair)" }
        if let by = event.by { metadata["by"] = "\(by)" }
        logger.log(level: level, "\(event.message)", metadata: metadata)
    }

    static func words(_ extent: Extent) -> String {
        "\(extent.length) bytes at offset \(extent.offset)"
    }

    /// What the data plane's refusal means to whoever asked.
    static func controlError(_ error: any Error, _ what: String) -> ControlError {
        if let error = error as? ControlError { return error }
        guard let error = error as? DataPlaneError else {
            return ControlError(.internalFailure, what, underlying: error)
        }
        guard let refusal = error.refusal else {
            let isElement = error.code == .element || error.code == .metadata
            let code: ControlError.Code = isElement ? .elementUnavailable : .refused
            return ControlError(error.code == .stopped ? .stopping : code, what, underlying: error)
        }
        return controlError(refusal, what)
    }

    /// Why a pair does not move to the other host's daemon.
    private static func wordsOfMove(_ refusal: EngineRefusal) -> String {
        switch refusal {
        case .takenOver: "a peer has taken it over, and what is here is older"
        case .notSettled: "the two elements differ, or something is under way; try again"
        case .recordMismatch: "its source has gone on since; ask it again"
        case .nothingKept: "what it held before was not kept, or is gone"
        case .sourceConnected: "its source is connected, and has to be asked"
        default: "what its source has sent is still being written; try again"
        }
    }

    private static func controlError(_ refusal: EngineRefusal, _ what: String) -> ControlError {
        switch refusal {
        case .noSuchVolume: ControlError(.volumeNotFound, "\(what): the data plane does not have the volume")
        case .noSuchPair: ControlError(.pairNotFound, "\(what): the data plane does not have the pair")
        case .nameInUse: ControlError(.nameInUse, "\(what): the name is taken")
        case .volumeHasPairs: ControlError(.volumeHasPairs, "\(what): it has pairs; detach them first")
        case .volumeInUse(let count):
            ControlError(
                .volumeInUse,
                "\(what): \(count) \(count == 1 ? "client is" : "clients are") connected",
                suggestion: "disconnect them, or say --force"
            )
        case .tableFull(let table): ControlError(.notEnoughResources, "\(what): the table of \(table) is full")
        case .targetTooSmall(let source, let target):
            ControlError(
                .invalidSettings,
                "\(what): the target has \(target) bytes, the volume \(source)",
                suggestion: "the target must be at least as large as the volume"
            )
        case .blockSizeMismatch(let source, let target):
            ControlError(
                .invalidSettings,
                "\(what): the target's blocks are \(target) bytes, the volume's \(source)",
                suggestion: "the target's blocks must not be larger than the volume's"
            )
        case .targetReadOnly: ControlError(.elementUnavailable, "\(what): the target is read-only")
        case .dirtyMapTooLarge(let byteCount, let limit):
            ControlError(
                .notEnoughResources,
                "\(what): its dirty maps would take \(byteCount) bytes of memory, and a pair may take \(limit)",
                suggestion: "pair it anew with a larger --granule, up to 1MiB"
            )
        case .metadataTooSmall(let byteCount, let needed):
            ControlError(
                .notEnoughResources,
                "\(what): its metadata area has \(byteCount) bytes and needs \(needed)",
                suggestion: "choose a larger --granule, or make room for the area"
            )
        case .undoAreaUnusable(let byteCount, let needed):
            ControlError(
                .notEnoughResources,
                "\(what): its undo area has \(byteCount) bytes and needs \(needed), in blocks not larger than the volume's"
            )
        case .operationRefused(_, let facts):
            ControlError(.notInThisState, "\(what): its state has just become \(facts.copyState.name); try again")
        case .operationFailed(let failure): ControlError(.operationFailed, "\(what): \(failure.words)")
        case .cannotCancel(let operation):
            ControlError(
                .cannotCancel,
                operation.map { "\(what): \($0.name) cannot be cancelled" } ?? "\(what): nothing is under way"
            )
        case .verifyRefused: ControlError(.notInThisState, "\(what): its state has just changed; try again")
        case .growthRefused(let refusal): ControlError(.notInThisState, "\(what): \(refusal.words)")
        case .takenOver, .notSettled, .recordMismatch, .sourceConnected, .replicaBusy, .nothingKept:
            ControlError(.notInThisState, "\(what): \(Self.wordsOfMove(refusal))")
        case .notRemote: ControlError(.notSupported, "\(what): both elements are of this host")
        case .noVerifyRunning: ControlError(.cannotCancel, "\(what): it has just come to its end")
        case .stopping: ControlError(.stopping, "\(what): the daemon is stopping")
        }
    }
}
