extension UringPlatform {
    /// What may be used to go faster, each with a fallback.
    ///
    /// Tests and operators in doubt take one away.
    package struct Acceleration: OptionSet, Sendable, Hashable {
        package let rawValue: UInt8
        package init(rawValue: UInt8) { self.rawValue = rawValue }

        /// SINGLE_ISSUER, COOP_TASKRUN, SUBMIT_ALL.
        package static let setupFlags = Acceleration(rawValue: 1 << 0)
        /// The ring itself is entered by a registered number.
        package static let registeredRing = Acceleration(rawValue: 1 << 1)
        /// Elements and sockets are used by registered numbers.
        package static let registeredFiles = Acceleration(rawValue: 1 << 2)
        /// Transfers of the engine's memory use pinned pages.
        package static let registeredBuffers = Acceleration(rawValue: 1 << 3)
        /// One accept serves many connections.
        package static let multishotAccept = Acceleration(rawValue: 1 << 4)

        /// Short transfers of files in memory are made at once.
        package static let memoryFiles = Acceleration(rawValue: 1 << 5)

        package static let all: Acceleration = [
            .setupFlags, .registeredRing, .registeredFiles, .registeredBuffers, .multishotAccept,
            .memoryFiles,
        ]
    }

    /// Sizes of the fixed tables, and what may be used.
    package struct Options: Sendable {
        /// Operations started in one turn before they are submitted early.
        ///
        /// A power of two.
        package var submissionEntries: UInt32 = 1024
        /// Completions between two waits that need no detour through the kernel's overflow list.
        ///
        /// A power of two.
        package var completionEntries: UInt32 = 4096
        /// Operations in flight at once, over all elements and sockets.
        ///
        /// The engine's slots bound them; one more than this is an invariant.
        package var operationCapacity = 65_536
        package var elementCapacity = 256
        package var socketCapacity = 1024
        package var listenerCapacity = 16
        /// From the start of a connection to or from a peer to the proof of who it is, in nanoseconds.
        package var admissionTimeNanoseconds: UInt64 = 10_000_000_000
        /// Connections to peers under way at once, and as many from them.
        package var admissionCapacity = 64
        package var allowed = Acceleration.all

        package init() {}
    }

    /// What the running kernel has and this platform uses; printed when a daemon starts.
    package struct Features: Sendable, Hashable, CustomStringConvertible {
        package var isSingleIssuer: Bool
        package var isCooperative: Bool
        package var submitsAll: Bool
        package var hasRegisteredRing: Bool
        package var hasRegisteredFiles: Bool
        /// Known after `register(memory:)`.
        package var hasRegisteredBuffers: Bool
        package var hasMultishotAccept: Bool

        package var description: String {
            let all: [(String, Bool)] = [
                ("single issuer", isSingleIssuer), ("cooperative task run", isCooperative), ("submit all", submitsAll),
                ("registered ring", hasRegisteredRing), ("registered files", hasRegisteredFiles),
                ("registered buffers", hasRegisteredBuffers), ("multishot accept", hasMultishotAccept),
            ]
            let present = all.filter(\.1).map(\.0).joined(separator: ", ")
            let absent = all.filter { !$0.1 }.map(\.0).joined(separator: ", ")
            return "io_uring with \(present.isEmpty ? "nothing" : present)"
                + (absent.isEmpty ? "" : "; without \(absent)")
        }
    }
}
