internal import RepldCore

/// What became of the bytes that a handshake was given.
package struct NBDHandshakeProgress: Hashable, Sendable {
    /// Bytes of the input that were used; the caller keeps the rest and puts new bytes behind it.
    package var consumedByteCount: Int
    package var outcome: NBDHandshakeOutcome
}

/// Where a handshake stands.
///
/// Whatever was appended to the output is sent in every case, before anything else is done.
package enum NBDHandshakeOutcome: Hashable, Sendable {
    /// More input is needed.
    case needsInput
    /// The output has less than `NBDHandshake.replyByteCountMaximum` bytes free: send it, then call again.
    case needsOutputSpace
    /// The client chose an export. What follows the consumed bytes is its first request.
    case transmission(NBDSession)
    case close(NBDCloseReason)
}

/// The server's side of the fixed newstyle negotiation, from its greeting to the choice of an export.
///
/// States: `greeting → clientFlags → option ⇄ (skipping | listing) → ended`.
/// An option is handled when all of its data is in the input, so the machine keeps no bytes and an option costs the
/// same whether it came in one piece or byte by byte. It is answered before the next one is looked at.
///
/// Bounds: the caller's input holds at least `inputByteCountMinimum` bytes, its output is drained until
/// `replyByteCountMaximum` bytes are free; the limits of `NBDLimit` end a client that negotiates for ever.
/// TLS and extended headers are not offered: both are answered with `errorUnsupported`, as the protocol has it for
/// servers without them. Source: proto.md, sections "Handshake", "Option types" and "Option reply types".
package struct NBDHandshake: Sendable, BitwiseCopyable {
    /// An option with the longest data, and its header, fit into this.
    package static let inputByteCountMinimum = optionHeaderByteCount + NBDLimit.optionDataByteCount
    /// The longest answer to one option: an INFO with a name and a description of full length, or one entry of a LIST.
    package static let replyByteCountMaximum = 3 * NBDLimit.stringByteCount

    static let optionHeaderByteCount = 16
    /// Padding behind the answer to EXPORT_NAME, unless both sides agreed to leave it out.
    static let exportNamePaddingByteCount = 124

    private enum Phase: Sendable, BitwiseCopyable {
        case greeting
        case clientFlags
        case option
        /// Dropping the rest of an option whose data was too long; then it is answered.
        case skipping(byteCount: UInt32, option: UInt32)
        /// Answering LIST: the next export to name.
        case listing(next: Int)
        case ended
    }

    private var phase = Phase.greeting
    private var clientFlags: NBDClientFlags = []
    private var optionCount = 0
    var hasStructuredReplies = false
    /// The contexts of the last SET_META_CONTEXT.
    var contexts: NBDMetadataContexts = []
    /// The export that it was about: they hold for no other one.
    var contextsIdentity: UInt64 = 0
    /// The pairs that the export had then.
    var contextsPairs = NBDPairSet()

    package init() {}

    /// Takes the handshake as far as `input` and the space in `output` allow.
    ///
    /// The first call appends the greeting and needs no input.
    package mutating func advance<Directory: NBDExportDirectory & ~Copyable>(
        _ input: RawSpan,
        exports: borrowing Directory,
        output: inout OutputRawSpan
    ) -> NBDHandshakeProgress {
        var used = 0
        while true {
            guard output.freeCapacity >= Self.replyByteCountMaximum else {
                return NBDHandshakeProgress(consumedByteCount: used, outcome: .needsOutputSpace)
            }
            let step = advanceOnce(input.extracting(droppingFirst: used), exports: exports, output: &output)
            used += step.consumedByteCount
            if let outcome = step.outcome {
                return NBDHandshakeProgress(consumedByteCount: used, outcome: outcome)
            }
        }
    }

    /// One step: at most one message of the client, at most `replyByteCountMaximum` bytes of answer.
    private struct Step {
        var consumedByteCount: Int
        /// `nil` when the next step can be tried at once.
        var outcome: NBDHandshakeOutcome?
    }

    private mutating func advanceOnce<Directory: NBDExportDirectory & ~Copyable>(
        _ input: RawSpan,
        exports: borrowing Directory,
        output: inout OutputRawSpan
    ) -> Step {
        switch phase {
        case .greeting:
            output.appendBigEndian(NBDMagic.greeting)
            output.appendBigEndian(NBDMagic.option)
            output.appendBigEndian(NBDHandshakeFlags([.fixedNewstyle, .noZeroes]).rawValue)
            phase = .clientFlags
            return Step(consumedByteCount: 0, outcome: nil)
        case .clientFlags:
            guard input.byteCount >= 4 else { return Step(consumedByteCount: 0, outcome: .needsInput) }
            clientFlags = NBDClientFlags(rawValue: input.loadBigEndian(at: 0, as: UInt32.self))
            guard clientFlags.isSubset(of: .known) else { return close(.unknownClientFlags, consuming: 4) }
            phase = .option
            return Step(consumedByteCount: 4, outcome: nil)
        case .option:
            return takeOption(input, exports: exports, output: &output)
        case .skipping(let byteCount, let option):
            let dropped = min(input.byteCount, Int(byteCount))
            guard dropped == Int(byteCount) else {
                phase = .skipping(byteCount: byteCount - UInt32(dropped), option: option)
                return Step(consumedByteCount: dropped, outcome: .needsInput)
            }
            phase = .option
            return Step(consumedByteCount: dropped, outcome: answerSkipped(option, output: &output))
        case .listing(let next):
            if next < exports.exportCount {
                let name = exports.exportName(at: next)
                Self.appendReplyHeader(.list, .server, byteCount: 4 + name.utf8.count, to: &output)
                output.appendBigEndian(UInt32(name.utf8.count))
                output.appendText(name)
                phase = .listing(next: next + 1)
            } else {
                Self.appendReplyHeader(.list, .acknowledge, byteCount: 0, to: &output)
                phase = .option
            }
            return Step(consumedByteCount: 0, outcome: nil)
        case .ended:
            invariantFailed("a handshake that has ended is not advanced")
        }
    }

    /// Takes one option, header and data, from the front of `input`.
    private mutating func takeOption<Directory: NBDExportDirectory & ~Copyable>(
        _ input: RawSpan,
        exports: borrowing Directory,
        output: inout OutputRawSpan
    ) -> Step {
        let header = Self.optionHeaderByteCount
        guard input.byteCount >= header else { return Step(consumedByteCount: 0, outcome: .needsInput) }
        guard input.loadBigEndian(at: 0, as: UInt64.self) == NBDMagic.option else {
            return close(.badOptionMagic, consuming: header)
        }
        let number = input.loadBigEndian(at: 8, as: UInt32.self)
        let byteCount = input.loadBigEndian(at: 12, as: UInt32.self)
        let option = NBDOption(rawValue: number)
        guard optionCount < NBDLimit.optionCount else { return close(.tooManyOptions, consuming: header) }
        if option == .exportName {
            guard byteCount <= NBDLimit.stringByteCount else { return close(.exportNameTooLong, consuming: header) }
        } else if !clientFlags.contains(.fixedNewstyle) {
            return close(.optionNeedsFixedNewstyle, consuming: header)
        }
        guard byteCount <= NBDLimit.optionDataByteCount else {
            guard byteCount <= NBDLimit.skippedOptionByteCount else {
                return close(.optionDataTooLong, consuming: header)
            }
            optionCount += 1
            phase = .skipping(byteCount: byteCount, option: number)
            return Step(consumedByteCount: header, outcome: nil)
        }
        let whole = header + Int(byteCount)
        guard input.byteCount >= whole else { return Step(consumedByteCount: 0, outcome: .needsInput) }
        optionCount += 1
        let data = input.extracting(header..<whole)
        let outcome = answer(option, number: number, data: data, exports: exports, output: &output)
        return Step(consumedByteCount: whole, outcome: outcome)
    }

    /// The decision for every option whose data is at hand; `nil` when the negotiation goes on.
    private mutating func answer<Directory: NBDExportDirectory & ~Copyable>(
        _ option: NBDOption?,
        number: UInt32,
        data: RawSpan,
        exports: borrowing Directory,
        output: inout OutputRawSpan
    ) -> NBDHandshakeOutcome? {
        do throws(NBDOptionRefusal) {
            switch option {
            case .exportName:
                return chooseByName(data, exports: exports, output: &output)
            case .abort:
                Self.appendReplyHeader(.abort, .acknowledge, byteCount: 0, to: &output)
                return end(.close(.requestedByClient))
            case .list:
                guard data.byteCount == 0 else { throw .hasData }
                phase = .listing(next: 0)
            case .info, .go:
                let isGo = option == .go
                let export = try describe(isGo ? .go : .info, data, exports: exports, output: &output)
                if isGo { return end(.transmission(session(for: export))) }
            case .structuredReply:
                guard data.byteCount == 0 else { throw .hasData }
                hasStructuredReplies = true
                Self.appendReplyHeader(.structuredReply, .acknowledge, byteCount: 0, to: &output)
            case .listMetaContext:
                try listContexts(data, exports: exports, output: &output)
            case .setMetaContext:
                try setContexts(data, exports: exports, output: &output)
            case .startTLS:
                throw NBDOptionRefusal(.errorUnsupported, "this server has no TLS")
            case .extendedHeaders, nil:
                throw NBDOptionRefusal(.errorUnsupported, "this server does not know the option")
            }
        } catch {
            Self.appendRefusal(error, of: number, to: &output)
        }
        return nil
    }

    /// The answer to an option whose data was too long to look at, now that it has been dropped.
    private mutating func answerSkipped(_ number: UInt32, output: inout OutputRawSpan) -> NBDHandshakeOutcome? {
        switch NBDOption(rawValue: number) {
        case .abort:
            Self.appendReplyHeader(.abort, .acknowledge, byteCount: 0, to: &output)
            return end(.close(.requestedByClient))
        case .exportName:
            invariantFailed("an export name that is too long has ended the connection")
        case .startTLS, .extendedHeaders, nil:
            let refusal = NBDOptionRefusal(.errorUnsupported, "this server does not know the option")
            Self.appendRefusal(refusal, of: number, to: &output)
        case .setMetaContext:
            // A selection that fails still replaces the one before.
            contexts = []
            Self.appendRefusal(.tooBig, of: number, to: &output)
        case .list, .info, .go, .structuredReply, .listMetaContext:
            Self.appendRefusal(.tooBig, of: number, to: &output)
        }
        return nil
    }

    /// EXPORT_NAME: has no error reply, so a name that is not there ends the connection.
    private mutating func chooseByName<Directory: NBDExportDirectory & ~Copyable>(
        _ name: RawSpan,
        exports: borrowing Directory,
        output: inout OutputRawSpan
    ) -> NBDHandshakeOutcome {
        guard let index = exports.index(ofExport: name) else { return end(.close(.unknownExport)) }
        let export = exports.export(at: index)
        export.checkInvariants()
        let session = session(for: export)
        output.appendBigEndian(export.byteCount)
        output.appendBigEndian(session.transmissionFlags.rawValue)
        if !clientFlags.contains(.noZeroes) {
            for _ in 0..<Self.exportNamePaddingByteCount { output.append(0) }
        }
        return end(.transmission(session))
    }

    func session(for export: NBDExport) -> NBDSession {
        let holds = hasStructuredReplies && contextsIdentity == export.identity
        return NBDSession(
            export: export,
            hasStructuredReplies: hasStructuredReplies,
            contexts: holds ? contexts : [],
            pairs: holds ? contextsPairs : NBDPairSet()
        )
    }

    private mutating func end(_ outcome: NBDHandshakeOutcome) -> NBDHandshakeOutcome {
        phase = .ended
        return outcome
    }

    private mutating func close(_ reason: NBDCloseReason, consuming byteCount: Int) -> Step {
        Step(consumedByteCount: byteCount, outcome: end(.close(reason)))
    }
}
