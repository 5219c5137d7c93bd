import RepldCore
import Testing

@testable import RepldFrontends

/// The table of the transmission phase: which request gets which verdict.
@Suite struct NBDRequestTests {
    static let byteCount: UInt64 = 512 << 20

    static func session(
        _ flags: NBDTransmissionFlags = TestDirectory.everything,
        isStructured: Bool = true,
        contexts: NBDMetadataContexts = .allocation
    ) -> NBDSession {
        let export = TestDirectory.volume(7, flags: flags)
        return NBDSession(export: export, hasStructuredReplies: isStructured, contexts: contexts)
    }

    static func request(
        _ command: NBDCommand,
        offset: UInt64 = 0,
        length: UInt32 = 4096,
        flags: NBDCommandFlags = []
    ) -> NBDRequest {
        let isBare = command == .flush || command == .disconnect
        return NBDRequest(
            flags: flags,
            commandNumber: command.rawValue,
            cookie: 5,
            offset: offset,
            length: isBare && length == 4096 ? 0 : length
        )
    }

    @Test func readsTheGoldenHeader() throws {
        let bytes: [UInt8] = [
            0x25, 0x60, 0x95, 0x13, 0x00, 0x01, 0x00, 0x06, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 16, 0,
        ]
        let request = try #require(parsed(bytes))
        #expect(
            request
                == NBDRequest(
                    flags: .forceUnitAccess,
                    commandNumber: 6,
                    cookie: 0x0102_0304_0506_0708,
                    offset: 0x1_0000_0002,
                    length: 4096
                )
        )
        #expect(NBDRequest.headerByteCount == bytes.count)
    }

    @Test(arguments: 0..<4)
    func refusesAWrongMagic(byte: Int) {
        var bytes: [UInt8] = [0x25, 0x60, 0x95, 0x13] + [UInt8](repeating: 0, count: 24)
        bytes[byte] ^= 0x10
        #expect(parsed(bytes) == nil)
    }

    @Test(arguments: NBDCommand.allCases)
    func acceptsEveryCommand(command: NBDCommand) {
        #expect(Self.request(command).verdict(for: Self.session()) == .accept(command))
    }

    @Test(arguments: [8, 9, 0x100, .max] as [UInt16])
    func refusesUnknownCommands(number: UInt16) {
        let request = NBDRequest(flags: [], commandNumber: number, cookie: 0, offset: 0, length: .max)
        #expect(request.verdict(for: Self.session()) == .refuse(.invalidArgument, payloadByteCount: 0))
    }

    @Test(arguments: NBDCommand.allCases, 0..<16)
    func flagsBelongToTheirCommands(command: NBDCommand, bit: UInt16) {
        let flag = NBDCommandFlags(rawValue: 1 << bit)
        let isAllowed =
            switch flag {
            case .forceUnitAccess: true
            case .noHole, .fastZero: command == .writeZeroes
            case .doNotFragment: command == .read
            case .requestOne: command == .blockStatus
            default: false
            }
        let verdict = Self.request(command, flags: flag).verdict(for: Self.session())
        let payload: UInt32 = command == .write ? 4096 : 0
        if isAllowed || command == .disconnect {
            #expect(verdict == .accept(command))
        } else {
            #expect(verdict == .refuse(.invalidArgument, payloadByteCount: payload))
        }
    }

    @Test func flagsThatWereNotOfferedAreRefused() {
        let refused = NBDVerdict.refuse(.invalidArgument, payloadByteCount: 0)
        let noFUA = Self.session(TestDirectory.everything.subtracting(.sendFUA))
        #expect(Self.request(.read, flags: .forceUnitAccess).verdict(for: noFUA) == refused)
        let noFast = Self.session(TestDirectory.everything.subtracting(.sendFastZero))
        #expect(Self.request(.writeZeroes, flags: .fastZero).verdict(for: noFast) == refused)
        #expect(Self.request(.writeZeroes, flags: .noHole).verdict(for: noFast) == .accept(.writeZeroes))
        let simple = Self.session(isStructured: false, contexts: [])
        #expect(Self.request(.read, flags: .doNotFragment).verdict(for: simple) == refused)
    }

    @Test(
        arguments: [
            (.flush, .sendFlush), (.trim, .sendTrim), (.cache, .sendCache),
            (.writeZeroes, [.sendWriteZeroes, .sendFastZero]),
        ] as [(NBDCommand, NBDTransmissionFlags)]
    )
    func commandsThatWereNotOfferedAreRefused(command: NBDCommand, flag: NBDTransmissionFlags) {
        let session = Self.session(TestDirectory.everything.subtracting(flag))
        #expect(Self.request(command).verdict(for: session) == .refuse(.invalidArgument, payloadByteCount: 0))
    }

    @Test func statusNeedsAContext() {
        let verdict = Self.request(.blockStatus).verdict(for: Self.session(contexts: []))
        #expect(verdict == .refuse(.invalidArgument, payloadByteCount: 0))
    }

    @Test(arguments: NBDCommand.allCases, [true, false])
    func readOnlyRefusesWhatWrites(command: NBDCommand, offersWriting: Bool) {
        let base: NBDTransmissionFlags = offersWriting ? TestDirectory.everything : [.sendFlush, .sendFUA, .sendCache]
        let verdict = Self.request(command).verdict(for: Self.session(base.union(.readOnly)))
        switch command {
        case .write: #expect(verdict == .refuse(.notPermitted, payloadByteCount: 4096))
        case .trim, .writeZeroes: #expect(verdict == .refuse(.notPermitted, payloadByteCount: 0))
        case .read, .disconnect, .flush, .cache, .blockStatus: #expect(verdict == .accept(command))
        }
    }

    @Test(arguments: [(0, 0, true), (0, 512, false), (512, 0, false)] as [(UInt64, UInt32, Bool)])
    func flushReservesItsFields(offset: UInt64, length: UInt32, isAccepted: Bool) {
        let verdict = Self.request(.flush, offset: offset, length: length).verdict(for: Self.session())
        #expect(verdict == (isAccepted ? .accept(.flush) : .refuse(.invalidArgument, payloadByteCount: 0)))
    }

    static let withExtent: [NBDCommand] = [.read, .write, .trim, .cache, .writeZeroes, .blockStatus]

    /// Around every edge of an export of 512 MiB in blocks of 512 bytes; `nil` is acceptance.
    @Test(
        arguments: withExtent,
        [
            (0, 0, .invalidArgument),
            (0, 511, .invalidArgument), (0, 512, nil), (0, 513, .invalidArgument),
            (511, 512, .invalidArgument), (512, 512, nil), (513, 512, .invalidArgument),
            (byteCount - 512, 512, nil), (byteCount - 1024, 1024, nil),
            (byteCount - 512, 1024, .noSpace), (byteCount - 511, 512, .noSpace), (byteCount, 512, .noSpace),
            (byteCount + 512, 512, .noSpace), (.max - 511, 512, .noSpace), (.max - 512, 512, .noSpace),
            (.max, 512, .noSpace),
            (1 << 63, 1 << 9, .noSpace),
        ] as [(UInt64, UInt32, NBDErrorCode?)]
    )
    func extentsAreChecked(command: NBDCommand, given: (offset: UInt64, length: UInt32, code: NBDErrorCode?)) {
        let request = Self.request(command, offset: given.offset, length: given.length)
        let payload = command == .write ? given.length : 0
        switch given.code {
        case nil:
            #expect(request.verdict(for: Self.session()) == .accept(command))
        case .noSpace? where command != .write && command != .writeZeroes:
            let verdict = request.verdict(for: Self.session())
            #expect(verdict == .refuse(.invalidArgument, payloadByteCount: 0))
        case let code?:
            #expect(request.verdict(for: Self.session()) == .refuse(code, payloadByteCount: payload))
        }
    }

    @Test func payloadsHaveALimit() {
        let limit = NBDLimit.payloadByteCount
        #expect(Self.request(.read, length: limit).verdict(for: Self.session()) == .accept(.read))
        #expect(Self.request(.write, length: limit).verdict(for: Self.session()) == .accept(.write))
        let longRead = Self.request(.read, length: limit + 512)
        #expect(longRead.verdict(for: Self.session()) == .refuse(.overflow, payloadByteCount: 0))
        let simple = Self.session(isStructured: false, contexts: [])
        #expect(longRead.verdict(for: simple) == .refuse(.invalidArgument, payloadByteCount: 0))
        for command in [NBDCommand.trim, .cache, .writeZeroes, .blockStatus] {
            #expect(Self.request(command, length: limit + 512).verdict(for: Self.session()) == .accept(command))
        }
    }

    @Test func writesThatAreTooLongAreSkippedUpToALimit() {
        let limit = NBDLimit.skippedPayloadByteCount
        for length in [NBDLimit.payloadByteCount + 512, limit] {
            let verdict = Self.request(.write, length: length).verdict(for: Self.session())
            #expect(verdict == .refuse(.invalidArgument, payloadByteCount: length))
        }
        for length in [limit + 1, .max] {
            #expect(Self.request(.write, length: length).verdict(for: Self.session()) == .close(.writePayloadTooLong))
        }
    }

    @Test func disconnectIsAcceptedWhateverElseItSays() {
        let request = NBDRequest(flags: .init(rawValue: .max), commandNumber: 2, cookie: 1, offset: 1, length: .max)
        #expect(request.verdict(for: Self.session(.readOnly)) == .accept(.disconnect))
    }
}
