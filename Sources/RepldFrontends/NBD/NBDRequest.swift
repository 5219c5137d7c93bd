package import RepldCore

/// One request of a client in transmission: the 28-byte header, as sent.
package struct NBDRequest: Hashable, Sendable, BitwiseCopyable {
    package static var headerByteCount: Int { 28 }

    @usableFromInline
    package var flags: NBDCommandFlags
    /// The command's number, which may be none that is known.
    @usableFromInline
    package var commandNumber: UInt16
    /// The client's name for the request, returned unchanged.
    @usableFromInline
    package var cookie: UInt64
    /// First byte of the export that it is about.
    @usableFromInline
    package var offset: UInt64
    /// Bytes of the export that it is about; for a write, also the length of the payload that follows.
    @usableFromInline
    package var length: UInt32

    @inlinable
    package init(flags: NBDCommandFlags, commandNumber: UInt16, cookie: UInt64, offset: UInt64, length: UInt32) {
        self.flags = flags
        self.commandNumber = commandNumber
        self.cookie = cookie
        self.offset = offset
        self.length = length
    }

    /// Reads the header at the front of `bytes`, at least `headerByteCount` of them; `nil` when the magic is wrong,
    /// after which nothing in the stream can be trusted.
    @inlinable
    package init?(parsing bytes: RawSpan) {
        guard bytes.loadBigEndian(at: 0, as: UInt32.self) == NBDMagic.request else { return nil }
        flags = NBDCommandFlags(rawValue: bytes.loadBigEndian(at: 4, as: UInt16.self))
        commandNumber = bytes.loadBigEndian(at: 6, as: UInt16.self)
        cookie = bytes.loadBigEndian(at: 8, as: UInt64.self)
        offset = bytes.loadBigEndian(at: 16, as: UInt64.self)
        length = bytes.loadBigEndian(at: 24, as: UInt32.self)
    }
}

/// What is to be done with a request.
package enum NBDVerdict: Hashable, Sendable, BitwiseCopyable {
    case accept(NBDCommand)
    /// Answer with the error, after reading and dropping so many bytes of payload.
    case refuse(NBDErrorCode, payloadByteCount: UInt32)
    case close(NBDCloseReason)
}

extension NBDRequest {
    /// Decides about the request, for a client of `session`.
    ///
    /// Checked in this order, the first failure decides: a payload beyond reading ends the connection; unknown command;
    /// flags that do not belong to the command or were not offered; command not offered; write to a read-only export;
    /// reserved fields of a flush; length 0 (the protocol leaves it open; an empty extent means nothing to the machines
    /// below, and a client that sends one has a bug worth an error); past the end; not aligned; too long.
    /// DISC is accepted whatever its other fields say: it is a wish to leave.
    package func verdict(for session: NBDSession) -> NBDVerdict {
        let export = session.export
        guard let command = NBDCommand(rawValue: commandNumber) else {
            return .refuse(.invalidArgument, payloadByteCount: 0)
        }
        let payloadByteCount = command == .write ? length : 0
        if payloadByteCount > NBDLimit.skippedPayloadByteCount { return .close(.writePayloadTooLong) }
        if command == .disconnect { return .accept(.disconnect) }
        guard flags.isSubset(of: session.flags(allowedFor: command)), session.offers(command) else {
            return .refuse(.invalidArgument, payloadByteCount: payloadByteCount)
        }
        if command.isWriting && export.flags.contains(.readOnly) {
            return .refuse(.notPermitted, payloadByteCount: payloadByteCount)
        }
        if command == .flush {
            guard offset == 0 && length == 0 else { return .refuse(.invalidArgument, payloadByteCount: 0) }
            return .accept(.flush)
        }
        if let code = failureOfExtent(command, session) { return .refuse(code, payloadByteCount: payloadByteCount) }
        return .accept(command)
    }

    /// The extent of an accepted request that has one.
    @inlinable
    package var extent: Extent { Extent(offset: offset, length: UInt64(length)) }

    private func failureOfExtent(_ command: NBDCommand, _ session: NBDSession) -> NBDErrorCode? {
        let export = session.export
        if length == 0 { return .invalidArgument }
        let (end, isOverflow) = offset.addingReportingOverflow(UInt64(length))
        if isOverflow || end > export.byteCount {
            return command == .write || command == .writeZeroes ? .noSpace : .invalidArgument
        }
        let unalignedBits = (offset | UInt64(length)) & UInt64(export.minimumBlockByteCount - 1)
        if unalignedBits != 0 { return .invalidArgument }
        if length > export.maximumPayloadByteCount {
            switch command {
            case .write: return .invalidArgument
            // The protocol allows `overflow` for reads only where DF is offered, which is with structured replies.
            case .read: return session.hasStructuredReplies ? .overflow : .invalidArgument
            case .disconnect, .flush, .trim, .cache, .writeZeroes, .blockStatus: break
            }
        }
        return nil
    }
}

extension NBDCommand {
    /// Whether a read-only export refuses it.
    fileprivate var isWriting: Bool { self == .write || self == .trim || self == .writeZeroes }
}

extension NBDSession {
    fileprivate func offers(_ command: NBDCommand) -> Bool {
        switch command {
        case .read, .write, .disconnect: true
        case .flush: export.flags.contains(.sendFlush)
        // Refused for what they are rather than for not being offered: `verdict` says "not permitted" next.
        case .trim: export.flags.contains(.sendTrim) || export.flags.contains(.readOnly)
        case .writeZeroes: export.flags.contains(.sendWriteZeroes) || export.flags.contains(.readOnly)
        case .cache: export.flags.contains(.sendCache)
        case .blockStatus: !contexts.isEmpty
        }
    }

    /// FUA is allowed on every command where it was offered: clients are known to set it on reads.
    fileprivate func flags(allowedFor command: NBDCommand) -> NBDCommandFlags {
        var allowed: NBDCommandFlags = export.flags.contains(.sendFUA) ? .forceUnitAccess : []
        switch command {
        case .read:
            if hasStructuredReplies { allowed.insert(.doNotFragment) }
        case .writeZeroes:
            allowed.insert(.noHole)
            if export.flags.contains(.sendFastZero) { allowed.insert(.fastZero) }
        case .blockStatus:
            allowed.insert(.requestOne)
        case .write, .disconnect, .flush, .trim, .cache:
            break
        }
        return allowed
    }
}
