internal import Logging
package import RepldControlAPI
internal import RepldCore
internal import RepldDataPlane
internal import RepldEngine
internal import RepldPair

/// What becomes of a pair whose link was lost, and is back
extension ReplicationService {
    /// Lets a pair mirror again by itself, or wait for Resume; durably, and from the next time on.
    package func configureRecovery(
        ofPair name: String,
        _ request: RecoveryRequest
    ) async throws(ControlError) -> PairReply {
        let mode = try Self.recoveryMode(request.copyRecoveryMode)
        let found = try pairEntry(named: name)
        if found.remote == nil {
            try Self.checkRecoversLocally(mode)
            return try await reply(for: found)
        }
        // A move takes with it what is set when it begins.
        let volume = registry.content.volume(found.volumeNumber)?.name ?? ""
        let subjects = ["volume \(volume)", "pair \(name)"]
        var begun: [String] = []
        defer { for subject in begun { end(on: subject) } }
        for subject in subjects {
            try begin("recovery mode of pair '\(name)'", on: subject)
            begun.append(subject)
        }
        let entry = try pairEntry(named: name)
        guard mode != Self.recoveryMode(of: entry) else { return try await reply(for: entry) }
        let isAutomatic = mode == .automatic
        try await set(\.recoversByItself, of: entry, to: isAutomatic, "recovery mode") {
            () async throws(DataPlaneError) in try await plane.setRecovery(entry.id, isAutomatic: isAutomatic)
        }
        noteChange("the recovery mode is \(mode.name) now", of: entry)
        return try await pair(named: name)
    }

    /// Between elements of one host there is no link, and what an error has stopped waits for somebody.
    static func recoveryMode(of entry: PairEntry) -> CopyRecoveryMode {
        entry.remote != nil && entry.settings.recoversByItself ? .automatic : .manual
    }

    static func recoveryMode(_ text: NumberOrName) throws(ControlError) -> CopyRecoveryMode {
        if let mode = CopyRecoveryMode(text: text.description) { return mode }
        throw ControlError(.invalidRequest, "copyRecoveryMode: found '\(text)', expected Automatic or Manual")
    }

    static func checkRecoversLocally(_ mode: CopyRecoveryMode) throws(ControlError) {
        guard mode == .automatic else { return }
        throw ControlError(
            .invalidSettings,
            "automatic recovery is for a target at a peer, after a lost link: a local one that fails waits for ResyncReplica",
            suggestion: "leave out --recovery"
        )
    }

    // MARK: - Moves

    /// Takes up what was set about a pair where it was taken over from without asking; what was set here since holds.
    static func takeUp(_ message: MeetMessage, into entry: inout PairEntry) {
        if entry.recoveryPointNanoseconds == nil {
            entry.recoveryPointNanoseconds = message.recoveryPointNanoseconds
        }
        if message.recoversByItself == false { entry.settings.recoversByItself = false }
    }

    /// Lets the data plane know of it.
    func handSettings(of id: PairID) async {
        guard let entry = registry.content.pair(id) else { return }
        await resumeMode(of: entry)
        do {
            try await plane.setRecovery(id, isAutomatic: entry.settings.recoversByItself)
        } catch {
            logger.error("a recovery mode is not taken", metadata: ["pair": "\(entry.name)", "reason": "\(error)"])
        }
    }
}
