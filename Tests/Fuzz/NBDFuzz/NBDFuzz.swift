import RepldCore
import RepldFrontends

/// The exports that the fuzzed server has.
struct FuzzDirectory: NBDExportDirectory {
    var exportCount: Int { 1 }

    func export(at index: Int) -> NBDExport {
        NBDExport(
            identity: 1,
            byteCount: 1 << 30,
            minimumBlockByteCount: 512,
            preferredBlockByteCount: 4096,
            flags: [.sendFlush, .sendFUA, .sendTrim, .sendWriteZeroes, .sendFastZero, .sendCache]
        )
    }

    func exportName(at index: Int) -> String { "db1" }
    func exportDescription(at index: Int) -> String { "orders" }

    func pairs(ofExport index: Int) -> NBDPairSet {
        var pairs = NBDPairSet()
        pairs[0] = 1
        pairs[2] = 2
        return pairs
    }

    func pairName(ofExport index: Int, place: Int) -> String { "p\(place)" }
}

/// One connection, as a driver would run it: a handshake over a bounded input, then requests with their verdicts.
struct FuzzConnection {
    var handshake = NBDHandshake()
    var session: NBDSession?
    var isClosed = false
    var sentByteCount = 0

    /// Takes what it can from the front of `input` and returns how much that was.
    mutating func advance(_ input: RawSpan, _ memory: UnsafeMutableRawBufferPointer) -> Int {
        if let session { return serve(input, session, memory) }
        var output = OutputRawSpan(buffer: memory, initializedCount: 0)
        let progress = handshake.advance(input, exports: FuzzDirectory(), output: &output)
        sentByteCount += output.finalize(for: memory)
        switch progress.outcome {
        case .transmission(let session): self.session = session
        case .close: isClosed = true
        case .needsInput, .needsOutputSpace: break
        }
        return progress.consumedByteCount
    }

    private mutating func serve(
        _ input: RawSpan,
        _ session: NBDSession,
        _ memory: UnsafeMutableRawBufferPointer
    ) -> Int {
        guard input.byteCount >= NBDRequest.headerByteCount else { return 0 }
        guard let request = NBDRequest(parsing: input) else {
            isClosed = true
            return 0
        }
        var used = NBDRequest.headerByteCount
        var output = OutputRawSpan(buffer: memory, initializedCount: 0)
        switch request.verdict(for: session) {
        case .accept(let command): used += accept(command, request, session, &output)
        case .refuse(let code, let payloadByteCount):
            used += Int(payloadByteCount)
            NBDReply.appendError(cookie: request.cookie, error: code, isDone: true, to: &output)
        case .close: isClosed = true
        }
        sentByteCount += output.finalize(for: memory)
        return min(used, input.byteCount)
    }

    private mutating func accept(
        _ command: NBDCommand,
        _ request: NBDRequest,
        _ session: NBDSession,
        _ output: inout OutputRawSpan
    ) -> Int {
        switch command {
        case .disconnect:
            isClosed = true
        case .blockStatus:
            answerStatus(request, session, &output)
        case .read, .write, .flush, .trim, .cache, .writeZeroes:
            if command != .flush {
                invariant(
                    request.extent.end <= session.export.byteCount && request.extent.isAligned(to: 512)
                        && request.extent.length > 0,
                    "an accepted extent lies inside the export, on blocks"
                )
            }
            NBDReply.appendDone(cookie: request.cookie, to: &output)
        }
        return command == .write ? Int(request.length) : 0
    }
}

extension FuzzConnection {
    /// A chunk for each context that was selected, of runs whose length the request chooses.
    private func answerStatus(_ request: NBDRequest, _ session: NBDSession, _ output: inout OutputRawSpan) {
        var left = session.contexts.count
        invariant(left > 0, "a status is asked of contexts that were selected")
        for index in 0..<NBDMetadataContexts.limit {
            let context = NBDMetadataContexts.context(at: index)
            guard session.contexts.contains(context) else { continue }
            invariant(context.place.map { session.pairs[$0] != NBDPairSet.noPair } ?? true, "a selected pair is known")
            left -= 1
            var status = NBDBlockStatus(
                answering: request,
                about: context,
                isDone: left == 0,
                extentCountMaximum: 16,
                output: &output
            )
            var state: NBDAllocationState = []
            while status.append(byteCount: request.cookie % 8192, state, to: &output) {
                state.formSymmetricDifference([.hole, .zero])
                if request.cookie % 8192 == 0 { _ = status.append(byteCount: 1 << 40, state, to: &output) }
            }
            status.finish(output: &output)
        }
    }
}

/// Feeds the input to a connection in pieces whose length the first byte chooses, and asserts what no client may break:
/// no more is consumed than was given, an answer is bounded by what was asked, and a full input always makes progress.
@_cdecl("LLVMFuzzerTestOneInput")
public func fuzzOneInput(_ bytes: UnsafePointer<UInt8>?, _ count: Int) -> CInt {
    guard let bytes, count > 1 else { return 0 }
    let all = UnsafeRawBufferPointer(start: bytes, count: count)
    let pieceByteCount = max(Int(all[0]) * 64, 1)
    let memory = UnsafeMutableRawBufferPointer.allocate(byteCount: 16 << 10, alignment: 8)
    defer { memory.deallocate() }
    var connection = FuzzConnection()
    var start = 1
    var end = 1
    while !connection.isClosed {
        let used = connection.advance(RawSpan(_unsafeBytes: all[start..<end]), memory)
        invariant(used <= end - start, "no more is consumed than was given")
        start += used
        if used > 0 { continue }
        if end == count { break }
        end = min(end + pieceByteCount, count)
    }
    // An option or a request of 16 bytes has at most one answer of `replyByteCountMaximum`.
    invariant(
        connection.sentByteCount <= (count / 16 + 2) * NBDHandshake.replyByteCountMaximum,
        "a client does not make the server talk without end"
    )
    return 0
}
