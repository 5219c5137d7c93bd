/// Changes how a pair's copies get along with hosts and with each other: `POST /v1/pairs/{name}/ConfigureResync`.
///
/// What is not given stays as it is.
package struct ResyncRequest: StrictRequest, Hashable {
    /// Whether copies rest; what hosts write is mirrored all the same.
    package var paused: Bool?
    /// The most that is copied in a second; 0 for as much as goes.
    package var capBytesPerSecond: UInt64?
    /// What no host load brings a copy under; 0 for what brings it to an end within a day, and at least 16 MiB/s.
    package var floorBytesPerSecond: UInt64?
    /// What the p99 latency of hosts may become while a copy runs, in percent of what it is without.
    package var latencyTargetPercent: UInt16?
    /// Pairs with a larger number wait for those with a smaller one.
    package var order: UInt16?

    package enum CodingKeys: String, CodingKey, CaseIterable {
        case paused, capBytesPerSecond, floorBytesPerSecond, latencyTargetPercent, order
    }

    package init(
        paused: Bool? = nil,
        capBytesPerSecond: UInt64? = nil,
        floorBytesPerSecond: UInt64? = nil,
        latencyTargetPercent: UInt16? = nil,
        order: UInt16? = nil
    ) {
        self.paused = paused
        self.capBytesPerSecond = capBytesPerSecond
        self.floorBytesPerSecond = floorBytesPerSecond
        self.latencyTargetPercent = latencyTargetPercent
        self.order = order
    }

    /// Strict as well where it is a part of another request.
    package init(from decoder: any Decoder) throws {
        let known = CodingKeys.allCases.map(\.stringValue)
        let found = try decoder.container(keyedBy: AnyName.self)
        for name in found.allKeys where !known.contains(name.stringValue) {
            throw DecodingError.dataCorruptedError(
                forKey: name,
                in: found,
                debugDescription: "unknown field '\(name.stringValue)'. Known are \(known.joined(separator: ", "))"
            )
        }
        let container = try decoder.container(keyedBy: CodingKeys.self)
        paused = try container.decodeIfPresent(Bool.self, forKey: .paused)
        capBytesPerSecond = try container.decodeIfPresent(UInt64.self, forKey: .capBytesPerSecond)
        floorBytesPerSecond = try container.decodeIfPresent(UInt64.self, forKey: .floorBytesPerSecond)
        latencyTargetPercent = try container.decodeIfPresent(UInt16.self, forKey: .latencyTargetPercent)
        order = try container.decodeIfPresent(UInt16.self, forKey: .order)
    }

    private struct AnyName: CodingKey {
        var stringValue: String
        var intValue: Int? { nil }
        init(stringValue: String) { self.stringValue = stringValue }
        init?(intValue: Int) { nil }
    }

    /// Nothing is to be changed.
    package var isEmpty: Bool { self == ResyncRequest() }
}

/// How a pair's copies are to get along with hosts and with each other.
package struct ResyncSettingsReply: Codable, Hashable, Sendable {
    package var paused: Bool
    /// Absent where there is no cap.
    package var capBytesPerSecond: UInt64?
    /// Absent where the daemon chooses it.
    package var floorBytesPerSecond: UInt64?
    package var latencyTargetPercent: UInt16
    package var order: UInt16

    package init(
        paused: Bool,
        capBytesPerSecond: UInt64?,
        floorBytesPerSecond: UInt64?,
        latencyTargetPercent: UInt16,
        order: UInt16
    ) {
        self.paused = paused
        self.capBytesPerSecond = capBytesPerSecond
        self.floorBytesPerSecond = floorBytesPerSecond
        self.latencyTargetPercent = latencyTargetPercent
        self.order = order
    }
}

/// What limits the copy that runs, and what it costs hosts.
package struct ResyncReply: Codable, Hashable, Sendable {
    /// One of `elements`, `hostLatency`, `floor`, `cap`, `paused` and `order`.
    package var limit: String
    /// The same in words.
    package var limitedBy: String
    /// The pair that comes first.
    package var waitsFor: String?
    /// What may be copied in a second now; absent where the elements decide.
    package var allowedBytesPerSecond: UInt64?
    package var floorBytesPerSecond: UInt64
    /// p99 latency of the hosts' requests without and with the copy; absent where too few requests were seen.
    package var hostP99UndisturbedMicroseconds: Double?
    package var hostP99Microseconds: Double?

    package init(
        limit: String,
        limitedBy: String,
        waitsFor: String?,
        allowedBytesPerSecond: UInt64?,
        floorBytesPerSecond: UInt64,
        hostP99UndisturbedMicroseconds: Double?,
        hostP99Microseconds: Double?
    ) {
        self.limit = limit
        self.limitedBy = limitedBy
        self.waitsFor = waitsFor
        self.allowedBytesPerSecond = allowedBytesPerSecond
        self.floorBytesPerSecond = floorBytesPerSecond
        self.hostP99UndisturbedMicroseconds = hostP99UndisturbedMicroseconds
        self.hostP99Microseconds = hostP99Microseconds
    }
}
