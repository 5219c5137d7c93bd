import RepldCore
import Testing

@testable import RepldFrontends

@Suite struct NBDReplyTests {
    static let cookie: UInt64 = 0x0102_0304_0506_0708
    static let cookieBytes: [UInt8] = [1, 2, 3, 4, 5, 6, 7, 8]
    static let chunkMagic: [UInt8] = [0x66, 0x8E, 0x33, 0xEF]

    @Test func simpleReplies() {
        let success = produced { NBDReply.appendSimple(cookie: Self.cookie, error: nil, to: &$0) }
        #expect(success == [0x67, 0x44, 0x66, 0x98, 0, 0, 0, 0] + Self.cookieBytes)
        #expect(success.count == NBDReply.simpleByteCount)
        let failure = produced { NBDReply.appendSimple(cookie: Self.cookie, error: .noSpace, to: &$0) }
        #expect(failure == [0x67, 0x44, 0x66, 0x98, 0, 0, 0, 28] + Self.cookieBytes)
    }

    @Test func doneChunk() {
        let bytes = produced { NBDReply.appendDone(cookie: Self.cookie, to: &$0) }
        #expect(bytes == Self.chunkMagic + [0, 1, 0, 0] + Self.cookieBytes + [0, 0, 0, 0])
        #expect(bytes.count == NBDReply.chunkHeaderByteCount)
    }

    @Test(arguments: [true, false])
    func dataAndHoleChunks(isDone: Bool) {
        let data = produced {
            NBDReply.appendDataHeader(cookie: Self.cookie, offset: 512, byteCount: 4096, isDone: isDone, to: &$0)
        }
        let flag: UInt8 = isDone ? 1 : 0
        #expect(
            data == Self.chunkMagic + [0, flag, 0, 1] + Self.cookieBytes + [0, 0, 0x10, 8] + [0, 0, 0, 0, 0, 0, 2, 0]
        )
        #expect(data.count == NBDReply.dataHeaderByteCount)
        let hole = produced {
            NBDReply.appendHole(cookie: Self.cookie, offset: 512, byteCount: 4096, isDone: isDone, to: &$0)
        }
        #expect(
            hole == Self.chunkMagic + [0, flag, 0, 2] + Self.cookieBytes + [0, 0, 0, 12] + [0, 0, 0, 0, 0, 0, 2, 0]
                + [0, 0, 0x10, 0]
        )
        #expect(hole.count == NBDReply.holeByteCount)
    }

    @Test(arguments: NBDErrorCode.allCases, [true, false])
    func errorChunks(code: NBDErrorCode, isDone: Bool) {
        let bytes = produced { NBDReply.appendError(cookie: Self.cookie, error: code, isDone: isDone, to: &$0) }
        let words = Array(String(describing: NBDReply.words(for: code)).utf8)
        #expect(bytes.count == 26 + words.count && bytes.count <= NBDReply.errorByteCountMaximum)
        #expect(Array(bytes[..<8]) == Self.chunkMagic + [0, isDone ? 1 : 0, 0x80, 1])
        #expect(bytes.big(at: 16, as: UInt32.self) == UInt32(6 + words.count))
        #expect(bytes.big(at: 20, as: UInt32.self) == code.rawValue)
        #expect(bytes.big(at: 24, as: UInt16.self) == UInt16(words.count))
        #expect(Array(bytes[26...]) == words)
    }

    /// The extents of a status answer to a request of `length` bytes, given the element's runs.
    static func status(
        _ runs: [(UInt64, NBDAllocationState)],
        length: UInt32,
        extentCountMaximum: Int = 8,
        flags: NBDCommandFlags = []
    ) -> [[UInt32]] {
        let request = NBDRequest(flags: flags, commandNumber: 7, cookie: cookie, offset: 0, length: length)
        // Something else stands in the output already: a reply begins where it begins.
        let bytes = produced { output in
            NBDReply.appendDone(cookie: 1, to: &output)
            var status = NBDBlockStatus(
                answering: request,
                extentCountMaximum: extentCountMaximum,
                output: &output
            )
            for run in runs {
                guard status.append(byteCount: run.0, run.1, to: &output) else { break }
            }
            status.finish(output: &output)
        }.dropFirst(20)
        let chunk = Array(bytes)
        #expect(Array(chunk[..<8]) == chunkMagic + [0, 1, 0, 5])
        #expect(Int(chunk.big(at: 16, as: UInt32.self)) == chunk.count - 20)
        #expect(chunk.big(at: 20, as: UInt32.self) == NBDMetadataContexts.allocation.id)
        let extents = stride(from: 24, to: chunk.count, by: 8).map {
            [chunk.big(at: $0, as: UInt32.self), chunk.big(at: $0 + 4, as: UInt32.self)]
        }
        #expect(chunk.count == NBDReply.blockStatusByteCount(extentCount: extents.count))
        return extents
    }

    @Test(arguments: 0..<NBDMetadataContexts.limit, [true, false])
    func statusOfAContextBearsItsNumber(index: Int, isDone: Bool) {
        let request = NBDRequest(flags: [], commandNumber: 7, cookie: Self.cookie, offset: 0, length: 4096)
        let bytes = produced { output in
            var status = NBDBlockStatus(
                answering: request,
                about: .context(at: index),
                isDone: isDone,
                extentCountMaximum: 8,
                output: &output
            )
            _ = status.append(byteCount: 1024, difference: [], to: &output)
            _ = status.append(byteCount: 1024, difference: .dirty, to: &output)
            _ = status.append(byteCount: 2048, difference: .dirty, to: &output)
            status.finish(output: &output)
        }
        var golden = Self.chunkMagic + [0, isDone ? 1 : 0, 0, 5] + Self.cookieBytes + [0, 0, 0, 20]
        for word in [UInt32(index + 1), 1024, 0, 3072, 1] { golden.append(big: word) }
        #expect(bytes == golden)
    }

    static let hole: NBDAllocationState = [.hole, .zero]

    @Test func statusMergesNeighbours() {
        #expect(Self.status([(512, []), (512, []), (1024, Self.hole)], length: 2048) == [[1024, 0], [1024, 3]])
        #expect(Self.status([(2048, Self.hole)], length: 2048) == [[2048, 3]])
    }

    @Test func statusEndsAtTheEndOfTheRequest() {
        #expect(Self.status([(512, []), (1 << 40, Self.hole)], length: 1536) == [[512, 0], [1024, 3]])
        #expect(Self.status([(512, []), (512, Self.hole), (512, [])], length: 1024) == [[512, 0], [512, 3]])
        #expect(Self.status([(.max, [])], length: .max) == [[.max, 0]])
    }

    @Test func statusMayEndEarlier() {
        #expect(Self.status([(512, [])], length: 4096) == [[512, 0]])
    }

    @Test func statusIgnoresEmptyRuns() {
        #expect(Self.status([(0, Self.hole), (512, []), (0, Self.hole), (512, [])], length: 1024) == [[1024, 0]])
    }

    @Test func statusOfOneExtentMergesFirst() {
        let runs: [(UInt64, NBDAllocationState)] = [(512, []), (512, []), (512, Self.hole), (512, [])]
        #expect(Self.status(runs, length: 4096, flags: .requestOne) == [[1024, 0]])
    }

    @Test(arguments: 1...5)
    func statusHasABound(bound: Int) {
        let runs: [(UInt64, NBDAllocationState)] = (0..<4).map { (512, $0 % 2 == 0 ? [] : Self.hole) }
        let expected = (0..<min(bound, 4)).map { [UInt32(512), $0 % 2 == 0 ? 0 : 3] }
        #expect(Self.status(runs, length: 4096, extentCountMaximum: bound) == expected)
    }
}
