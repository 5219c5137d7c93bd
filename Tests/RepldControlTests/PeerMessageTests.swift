import Foundation
import RepldControlAPI
import RepldCore
import RepldEngine
import RepldFormat
import Testing

@testable import RepldControl

/// What a daemon makes of messages that no daemon of its version sends.
@Suite struct PeerMessageTests {
    private static let pair = "000102030405060708090a0b0c0d0e0f"

    private static func associate(_ change: (String, String)? = nil) -> String {
        let text = """
            {"version":1,"kind":"associate","pair":"\(pair)","name":"m9","host":"HOST","sourceVolume":"db1",\
            "byteCount":4096,"blockByteCount":512,"granuleByteCount":65536,"volume":"copy"}
            """
        return change.map { text.replacing($0.0, with: $0.1) } ?? text
    }

    private static func grow(_ fields: String) -> String {
        #"{"version":1,"kind":"grow","pair":"\#(pair)",\#(fields)}"#
    }

    private static func meet(_ change: (String, String)? = nil) -> String {
        let record = PairRecord(
            sequence: 1,
            pair: PairID(pair) ?? PairID(high: 0, low: 0),
            volumeByteCount: 1 << 20,
            copyState: 4,
            isClosedCleanly: true
        )
        let text = """
            {"version":1,"kind":"meet","pair":"\(pair)","record":"\(PeerMessages.text(of: record))","isAhead":false,"telling":7,"differingUnitCount":1,"geometry":\
            {"byteCount":1048576,"logicalBlockByteCount":512,"physicalBlockByteCount":4096,"canDiscard":true,\
            "canZeroFast":true,"isDirect":true}}
            """
        return change.map { text.replacing($0.0, with: $0.1) } ?? text
    }

    /// Ten units from the fourth on, of which the first and the last differ.
    private static func differences(_ change: (String, String)? = nil) -> String {
        let text = """
            {"version":1,"kind":"differences","pair":"\(pair)","telling":7,"unitByteCount":65536,"firstUnit":3,"unitCount":10,\
            "isCompressed":false,"bits":"AQI="}
            """
        return change.map { text.replacing($0.0, with: $0.1) } ?? text
    }

    @Test(
        arguments: [
            ("", "not valid JSON"), ("\u{0}\u{1}", "not valid JSON"), ("[]", "expected an object"),
            ("7", "expected an object"),
            ("{}", "'version' is missing"), (#"{"version":"1","kind":"identify"}"#, "'version' has the wrong type"),
            (#"{"version":2,"kind":"identify"}"#, "version 2, this daemon knows 1"),
            (#"{"version":0,"kind":"identify"}"#, "version 0"),
            (#"{"version":1,"kind":"format-disk"}"#, "unknown kind 'format-disk'"),
            (#"{"version":1,"kind":"identify","please":true}"#, "unknown field 'please'"),
            (associate((#","volume":"copy""#, "")), "'volume' is missing"),
            (associate(("\"m9\"", "\"../m9\"")), "name"), (associate(("\"copy\"", "\"\"")), "name"),
            (associate((pair, "xyz")), "expected 32 lower-case hexadecimal digits"),
            (associate((":4096", ":0")), "byteCount"), (associate((":4096", ":-1")), "byteCount"),
            (associate((":512", ":513")), "blockByteCount"), (associate((":65536", ":1000")), "granuleByteCount"),
            (associate(), "the host that asks is not the one"),
            (meet(), "there is no pair \(pair) with your host"), (meet(("AAAA", "AAAB")), "record"),
            (differences(), "there is no pair \(pair) with your host"),
            (differences((":65536,", ":5000,")), "unitByteCount"), (differences((":10,", ":0,")), "unitCount"),
            (differences((":10,", ":1048577,")), "unitCount"), (differences((":10,", ":17,")), "bits: expected"),
            (differences((":10,", ":9,")), "bits: expected"),
            (differences((":3,", ":18446744073709551615,")), "unitCount"),
            (differences(("AQI=", "AAA=")), "bits: expected"), (differences(("AQI=", "AQ")), "bits: expected"),
            (differences(("false", "true")), "bits: expected"),
            (#"{"version":1,"kind":"mode","pair":"000102030405060708090a0b0c0d0e0f","mode":9}"#, "mode"),
            (#"{"version":1,"kind":"dissociate","pair":7}"#, "'pair' has the wrong type"),
            (grow(#""isCheck":false"#), "byteCount: expected the size that is to be held"),
            (grow(#""isCheck":true,"byteCount":0"#), "byteCount: found 0"),
            (grow(#""byteCount":4096"#), "'isCheck' is missing"),
            (grow(#""isCheck":true"#), "there is no replica of pair \(pair) of your host"),
            (
                #"{"version":1,"kind":"operate","pair":"000102030405060708090a0b0c0d0e0f","by":"a\nb","operation":2}"#,
                "'by' is no name"
            ),
        ]
    )
    func isRefusedAndChangesNothing(text: String, words: String) async throws {
        try await TwoHosts.run { hosts in
            let registry = hosts.south.directory.file("state/registry.json")
            let before = try Data(contentsOf: URL(filePath: registry))
            // What is no host's id in the test above stays as well-formed as the rest.
            let text = text.replacing("HOST", with: String(repeating: "a", count: 32))
            let answer = try await hosts.answer(to: Array(text.utf8))
            let status = answer.refusal?.extendedStatus
            #expect(status?.message.contains(words) == true, "\(String(describing: status))")
            #expect(try Data(contentsOf: URL(filePath: registry)) == before)
            #expect(!hosts.south.plane.calls.contains(.addReplica("m9")))
        }
    }

    @Test func anOversizeMessageIsRefused() async throws {
        try await TwoHosts.run { hosts in
            let text = #"{"version":1,"kind":"identify"}"#
            let limit = PeerMessage.byteCountMaximum
            let fits = text + String(repeating: " ", count: limit - text.utf8.count)
            #expect(try await hosts.answer(to: Array(fits.utf8)).refusal == nil)
            let status = try await hosts.answer(to: Array((fits + " ").utf8)).refusal?.extendedStatus
            #expect(status?.message == "a message of \(limit + 1) bytes, expected at most \(limit)")
        }
    }

    @Test func noMessageIsMadeThatIsTooLong() {
        let long = String(repeating: "x", count: PeerMessage.byteCountMaximum)
        let message = OperateMessage(pair: "", by: long, SetReplicationRelationshipRequest(operation: .number(2)))
        #expect(throws: ControlError.self) { try PeerMessages.encode(message) }
    }

    @Test(
        arguments: [
            "", "{}", #"{"version":2,"host":"HOST"}"#, #"{"version":1,"host":"me"}"#,
            #"{"version":1,"host":"HOST","x":1}"#,
            #"{"version":1,"host":"HOST","geometry":{"byteCount":0,"logicalBlockByteCount":512,"#
                + #""physicalBlockByteCount":512,"canDiscard":true,"canZeroFast":true,"isDirect":true}}"#,
            #"{"version":1,"host":"HOST","geometry":{"byteCount":4096,"logicalBlockByteCount":0,"#
                + #""physicalBlockByteCount":512,"canDiscard":true,"canZeroFast":true,"isDirect":true}}"#,
        ]
    )
    func anAnswerThatIsNoneIsRefused(text: String) {
        let bytes = Array(text.replacing("HOST", with: String(repeating: "a", count: 32)).utf8)
        let error = #expect(throws: ControlError.self) { _ = try PeerAnswer.decode(bytes, of: "peer 'b'") }
        #expect(error?.message.hasPrefix("peer 'b' has answered what cannot be read") == true)
    }

    @Test func messagesComeBackAsTheyWere() throws {
        let id = PairID(high: 3, low: 4)
        var request = SetReplicationRelationshipRequest(operation: .name("Resume"), force: true)
        request.keepsUndo = false
        let messages: [(any Encodable, PeerRequest)] = [
            (IdentifyMessage(), .identify(IdentifyMessage())),
            (DissociateMessage(pair: id), .dissociate(DissociateMessage(pair: id))),
            (
                OperateMessage(pair: id.description, by: "user olga", request),
                .operate(OperateMessage(pair: id.description, by: "user olga", request))
            ),
            (
                GrowMessage(pair: id, isCheck: true, byteCount: nil),
                .grow(GrowMessage(pair: id, isCheck: true, byteCount: nil))
            ),
        ]
        for (message, expected) in messages {
            #expect(try PeerMessages.decode(PeerMessages.encode(message)) == expected)
        }
        #expect(OperateMessage(pair: "", by: "", request).request == request)
    }

    /// Words of a newer daemon's refusals are kept, whatever their code.
    @Test func anUnknownCodeIsARefusal() {
        let status = ExtendedStatus(code: "moon-phase", message: "not today", suggestion: "tomorrow")
        let error = ControlError(MethodReply(returnCode: .failed, extendedStatus: status), of: "peer 'b'")
        #expect(error.code == .refused && error.message == "peer 'b': not today" && error.suggestion == "tomorrow")
        #expect(ControlError.Code(word: "volume-in-use") == .volumeInUse)
    }
}
