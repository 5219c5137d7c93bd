// The numbers of the NBD protocol, as typed values. Source: doc/proto.md of NetworkBlockDevice/nbd, section "Values".

/// The magic numbers that frame the messages of both phases.
package enum NBDMagic {
    /// First eight bytes of the server's greeting, "NBDMAGIC".
    package static let greeting: UInt64 = 0x4e42_444d_4147_4943
    /// Second eight bytes of the greeting, and the first eight of every option, "IHAVEOPT".
    package static let option: UInt64 = 0x4948_4156_454f_5054
    package static let optionReply: UInt64 = 0x0003_e889_0455_65a9
    package static let request: UInt32 = 0x2560_9513
    package static let simpleReply: UInt32 = 0x6744_6698
    package static let structuredReply: UInt32 = 0x668e_33ef
}

/// What the server can do before an export is chosen.
package struct NBDHandshakeFlags: OptionSet, Hashable, Sendable, BitwiseCopyable {
    package let rawValue: UInt16
    package init(rawValue: UInt16) { self.rawValue = rawValue }

    package static let fixedNewstyle = NBDHandshakeFlags(rawValue: 1 << 0)
    package static let noZeroes = NBDHandshakeFlags(rawValue: 1 << 1)
}

/// What the client takes up of `NBDHandshakeFlags`.
///
/// A bit that is not here ends the connection, as the protocol demands.
package struct NBDClientFlags: OptionSet, Hashable, Sendable, BitwiseCopyable {
    package let rawValue: UInt32
    package init(rawValue: UInt32) { self.rawValue = rawValue }

    package static let fixedNewstyle = NBDClientFlags(rawValue: 1 << 0)
    package static let noZeroes = NBDClientFlags(rawValue: 1 << 1)
    package static let known: NBDClientFlags = [.fixedNewstyle, .noZeroes]
}

/// What an export can do, as the client is told when transmission begins.
package struct NBDTransmissionFlags: OptionSet, Hashable, Sendable, BitwiseCopyable {
    package let rawValue: UInt16
    package init(rawValue: UInt16) { self.rawValue = rawValue }

    /// Always set on the wire; the handshake adds it.
    package static let hasFlags = NBDTransmissionFlags(rawValue: 1 << 0)
    package static let readOnly = NBDTransmissionFlags(rawValue: 1 << 1)
    package static let sendFlush = NBDTransmissionFlags(rawValue: 1 << 2)
    package static let sendFUA = NBDTransmissionFlags(rawValue: 1 << 3)
    package static let rotational = NBDTransmissionFlags(rawValue: 1 << 4)
    package static let sendTrim = NBDTransmissionFlags(rawValue: 1 << 5)
    package static let sendWriteZeroes = NBDTransmissionFlags(rawValue: 1 << 6)
    /// Set on the wire exactly when structured replies were negotiated; the handshake adds it.
    package static let sendDoNotFragment = NBDTransmissionFlags(rawValue: 1 << 7)
    package static let canMultiConnect = NBDTransmissionFlags(rawValue: 1 << 8)
    package static let sendCache = NBDTransmissionFlags(rawValue: 1 << 10)
    package static let sendFastZero = NBDTransmissionFlags(rawValue: 1 << 11)
}

/// What a client may ask for during the handshake.
package enum NBDOption: UInt32, Sendable, BitwiseCopyable, CaseIterable {
    case exportName = 1
    case abort = 2
    case list = 3
    case startTLS = 5
    case info = 6
    case go = 7
    case structuredReply = 8
    case listMetaContext = 9
    case setMetaContext = 10
    case extendedHeaders = 11
}

/// What kind of answer an option gets.
///
/// Bit 31 marks an error.
package enum NBDReplyKind: UInt32, Sendable, BitwiseCopyable, CaseIterable {
    case acknowledge = 1
    case server = 2
    case info = 3
    case metaContext = 4
    case errorUnsupported = 0x8000_0001
    case errorPolicy = 0x8000_0002
    case errorInvalid = 0x8000_0003
    case errorPlatform = 0x8000_0004
    case errorTLSRequired = 0x8000_0005
    case errorUnknown = 0x8000_0006
    case errorShutdown = 0x8000_0007
    case errorBlockSizeRequired = 0x8000_0008
    case errorTooBig = 0x8000_0009
}

/// What a client may want to know about an export, in INFO and GO.
package enum NBDInfoKind: UInt16, Sendable, BitwiseCopyable, CaseIterable {
    case export = 0
    case name = 1
    case description = 2
    case blockSize = 3
}

/// What a client may ask of an export in transmission.
package enum NBDCommand: UInt16, Sendable, BitwiseCopyable, CaseIterable {
    case read = 0
    case write = 1
    case disconnect = 2
    case flush = 3
    case trim = 4
    case cache = 5
    case writeZeroes = 6
    case blockStatus = 7
}

/// How a command is to be carried out.
package struct NBDCommandFlags: OptionSet, Hashable, Sendable, BitwiseCopyable {
    package let rawValue: UInt16
    package init(rawValue: UInt16) { self.rawValue = rawValue }

    /// Answer only when what the command wrote is on stable storage.
    package static let forceUnitAccess = NBDCommandFlags(rawValue: 1 << 0)
    /// Zeroed space stays allocated.
    package static let noHole = NBDCommandFlags(rawValue: 1 << 1)
    /// A read is answered with at most one content chunk.
    package static let doNotFragment = NBDCommandFlags(rawValue: 1 << 2)
    /// One extent in the answer is enough.
    package static let requestOne = NBDCommandFlags(rawValue: 1 << 3)
    /// Fail rather than zero slowly.
    package static let fastZero = NBDCommandFlags(rawValue: 1 << 4)
}

/// Errors that a client is told of.
///
/// Their numbers are the protocol's, whatever errno says on this system.
package enum NBDErrorCode: UInt32, Sendable, BitwiseCopyable, CaseIterable {
    case notPermitted = 1
    case inputOutput = 5
    case outOfMemory = 12
    case invalidArgument = 22
    case noSpace = 28
    case overflow = 75
    case notSupported = 95
    case shuttingDown = 108
}

/// What a structured reply chunk carries.
///
/// Bit 15 marks an error.
package enum NBDChunkKind: UInt16, Sendable, BitwiseCopyable, CaseIterable {
    case none = 0
    case offsetData = 1
    case offsetHole = 2
    case blockStatus = 5
    case error = 0x8001
    case errorOffset = 0x8002
}

/// Flags of a structured reply chunk.
package struct NBDChunkFlags: OptionSet, Hashable, Sendable, BitwiseCopyable {
    package let rawValue: UInt16
    package init(rawValue: UInt16) { self.rawValue = rawValue }

    /// The last chunk of its reply.
    package static let done = NBDChunkFlags(rawValue: 1 << 0)
}

/// What the `base:allocation` context says of an extent.
///
/// No bit set means data, or that nothing is known.
package struct NBDAllocationState: OptionSet, Hashable, Sendable, BitwiseCopyable {
    package let rawValue: UInt32
    package init(rawValue: UInt32) { self.rawValue = rawValue }

    package static let hole = NBDAllocationState(rawValue: 1 << 0)
    package static let zero = NBDAllocationState(rawValue: 1 << 1)
}

/// What the `repld:dirty` contexts say of an extent.
///
/// No bit set means that the elements are known to have it in common. The bit is where other servers have theirs for the
/// same purpose, so that clients made for those understand it.
package struct NBDDifferenceState: OptionSet, Hashable, Sendable, BitwiseCopyable {
    package let rawValue: UInt32
    package init(rawValue: UInt32) { self.rawValue = rawValue }

    package static let dirty = NBDDifferenceState(rawValue: 1 << 0)
}

/// The bounds that a client meets.
///
/// Each is here with its reason.
package enum NBDLimit {
    /// A string of the protocol is no longer than this (section "Conventions").
    package static let stringByteCount = 4096
    /// The data of one option: four strings of full length, more than any real client sends.
    ///
    /// The caller's input buffer holds a whole option, so this bounds what a connection costs during the handshake.
    package static let optionDataByteCount = 4 * stringByteCount
    /// Longer option data than `optionDataByteCount` is skipped and refused with `errorTooBig` up to here; a client that
    /// announces more is not worth reading on.
    package static let skippedOptionByteCount = 1 << 20
    /// Options per connection.
    ///
    /// Real clients need fewer than ten; this ends those that negotiate for ever.
    package static let optionCount = 64
    /// Information requests of one INFO or GO; four are defined.
    package static let infoRequestCount = 64
    /// Queries of one LIST_META_CONTEXT or SET_META_CONTEXT; `NBDMetadataContexts.limit` contexts are defined.
    package static let metaQueryCount = 64
    /// The name of a pair whose differences have a context of their own: the answer to one option lists all of these.
    static let pairNameByteCount = 1024
    /// The largest payload of READ and WRITE that is served: what the protocol wants every server to take.
    package static let payloadByteCount: UInt32 = 32 << 20
    /// A WRITE that is too long is refused and its payload read and dropped up to here; beyond, the connection ends,
    /// because to read on would cost more than to connect again.
    package static let skippedPayloadByteCount: UInt32 = 64 << 20
    /// Extents of one BLOCK_STATUS answer.
    ///
    /// The protocol allows 2^20; a client asks again from where the answer ends.
    package static let statusExtentCount = 256
}
