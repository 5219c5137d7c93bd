internal import Logging
package import RepldControlAPI
internal import RepldCore
internal import RepldDataPlane
internal import RepldEngine
internal import RepldPair

/// How copies get along with hosts and with each other
extension ReplicationService {
    /// Changes what is given, durably and at once, and shows the pair.
    package func configureResync(ofPair name: String, _ request: ResyncRequest) async throws(ControlError) -> PairReply
    {
        let subject = "pair \(name)"
        _ = try pairEntry(named: name)
        try begin("resync settings", on: subject)
        defer { end(on: subject) }
        let entry = try pairEntry(named: name)
        let wanted = try Self.copySettings(entry.settings.copy, changedBy: request)
        guard wanted != entry.settings.copy else { return try await reply(for: entry) }
        try await set(\.copy, of: entry, to: wanted, "resync settings") {
            () async throws(DataPlaneError) in try await plane.configureCopy(entry.id, wanted)
        }
        noteChange("resync: \(Self.words(of: wanted))", of: entry)
        return try await pair(named: name)
    }

    /// Changes a setting of a pair durably, and lets the data plane know of it; what that does not take is not kept either.
    func set<Value>(
        _ setting: WritableKeyPath<PairSettings, Value>,
        of entry: PairEntry,
        to wanted: Value,
        _ name: String,
        telling tell: () async throws(DataPlaneError) -> Void
    ) async throws(ControlError) {
        try keep(setting, wanted, of: entry)
        do {
            try await tell()
        } catch {
            // A pair that is not attached takes it up when it is.
            guard error.refusal != .noSuchPair else { return }
            try keep(setting, entry.settings[keyPath: setting], of: entry)
            throw Self.controlError(error, "the \(name) of pair '\(entry.name)' cannot be changed")
        }
    }

    private func keep<Value>(
        _ setting: WritableKeyPath<PairSettings, Value>,
        _ value: Value,
        of entry: PairEntry
    ) throws(ControlError) {
        try registry.commit { content in
            guard let index = content.pairs.firstIndex(where: { $0.id == entry.id }) else { return }
            content.pairs[index].settings[keyPath: setting] = value
        }
    }

    /// Settings with what a request changes.
    static func copySettings(
        _ settings: CopySettings,
        changedBy request: ResyncRequest
    ) throws(ControlError) -> CopySettings {
        var wanted = settings
        if let isPaused = request.paused { wanted.isPaused = isPaused }
        if let cap = request.capBytesPerSecond { wanted.capByteRate = cap }
        if let floor = request.floorBytesPerSecond { wanted.floorByteRate = floor == 0 ? nil : floor }
        if let percent = request.latencyTargetPercent { wanted.latencyTargetPercent = percent }
        if let order = request.order { wanted.order = order }
        if let fault = PairSettingsRule.fault(of: wanted) { throw ControlError(.invalidSettings, fault) }
        return wanted
    }

    private static func words(of settings: CopySettings) -> String {
        let cap = settings.capByteRate == 0 ? "no cap" : "cap \(ByteCount.format(settings.capByteRate))/s"
        let floor = settings.floorByteRate.map { "floor \(ByteCount.format($0))/s" } ?? "automatic floor"
        let latency = "host p99 up to \(settings.latencyTargetPercent)%"
        return "\(settings.isPaused ? "paused, " : "")\(cap), \(floor), \(latency), order \(settings.order)"
    }

    static func reply(for settings: CopySettings) -> ResyncSettingsReply {
        ResyncSettingsReply(
            paused: settings.isPaused,
            capBytesPerSecond: settings.capByteRate == 0 ? nil : settings.capByteRate,
            floorBytesPerSecond: settings.floorByteRate,
            latencyTargetPercent: settings.latencyTargetPercent,
            order: settings.order
        )
    }

    func reply(for control: CopyControlStatus) -> ResyncReply {
        let first = control.waitsFor.flatMap { registry.content.pair($0) }
        let words = first.map { "waits for pair \($0.name) (order \($0.settings.copy.order))" } ?? control.limit.words
        return ResyncReply(
            limit: "\(control.limit)",
            limitedBy: words,
            waitsFor: first?.name,
            allowedBytesPerSecond: control.allowedByteRate,
            floorBytesPerSecond: control.floorByteRate,
            hostP99UndisturbedMicroseconds: control.undisturbedP99Nanoseconds.map { Double($0) / 1000 },
            hostP99Microseconds: control.p99Nanoseconds.map { Double($0) / 1000 }
        )
    }
}
