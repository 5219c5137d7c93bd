import Foundation
import RepldControl
import RepldControlAPI
import RepldCore
import SystemPackage

/// A value that was decoded encodes, and decodes to the same value, again and again.
func checkRoundTrip<Value: Equatable & Encodable>(_ value: Value, _ decode: (Data) throws -> Value) {
    do {
        let bytes = try ControlJSON.encode(value)
        let again = try decode(bytes)
        invariant(again == value, "what was decoded is encoded as what it is")
        let bytesAgain = try ControlJSON.encode(again)
        invariant(bytesAgain == bytes, "what was encoded is encoded as the same again")
    } catch {
        invariantFailed("what was decoded cannot be encoded and decoded again")
    }
}

/// A body of the control API, as its routes read it.
func request<Body: StrictRequest & Equatable>(_ type: Body.Type, _ bytes: Data) {
    do throws(JSONRefusal) {
        checkRoundTrip(try ControlJSON.decodeRequest(type, from: bytes)) {
            try ControlJSON.decodeRequest(type, from: $0)
        }
    } catch {
        invariant(!error.message.isEmpty, "a refusal has words")
    }
}

func refused(_ error: ControlError) {
    invariant(!error.message.isEmpty && !error.description.isEmpty, "a refusal has words")
    invariant(error.code != .internalFailure, "whoever sent it is told what is wrong with it")
}

/// A message of another daemon.
func message(_ bytes: Data) {
    do throws(ControlError) {
        use(try PeerMessages.decode([UInt8](bytes)))
    } catch {
        refused(error)
    }
}

func use(_ request: PeerRequest) {
    checkRoundTrip(request) { try PeerMessages.decode([UInt8]($0)) }
    switch request {
    case .operate(let message):
        checkRoundTrip(message.request) {
            try ControlJSON.decodeRequest(SetReplicationRelationshipRequest.self, from: $0)
        }
    case .differences(let message):
        var end: UInt64 = 0
        for extent in message.extents ?? [] {
            let isWhole = extent.offset % message.unitByteCount == 0 && extent.length % message.unitByteCount == 0
            invariant(isWhole && extent.length > 0 && extent.offset >= end, "extents have whole units, in disk order")
            end = extent.end
        }
    case .takeOver(let message):
        invariant(PairSettingsRule.fault(of: message.moving.settings) == nil, "a pair may have what it brings")
    case .identify, .associate, .dissociate, .await, .mode, .meet, .grow: break
    }
}

extension PeerRequest: Encodable {
    /// As what it is.
    public func encode(to encoder: any Encoder) throws {
        switch self {
        case .identify(let message): try message.encode(to: encoder)
        case .associate(let message): try message.encode(to: encoder)
        case .dissociate(let message): try message.encode(to: encoder)
        case .operate(let message): try message.encode(to: encoder)
        case .await(let message): try message.encode(to: encoder)
        case .mode(let message): try message.encode(to: encoder)
        case .takeOver(let message): try message.encode(to: encoder)
        case .differences(let message): try message.encode(to: encoder)
        case .meet(let message): try message.encode(to: encoder)
        case .grow(let message): try message.encode(to: encoder)
        }
    }
}

/// An answer of another daemon, and what this one tells of it.
func answer(_ bytes: Data) {
    do throws(ControlError) {
        let answer = try PeerAnswer.decode([UInt8](bytes), of: "peer 'b'")
        checkRoundTrip(answer) { try PeerAnswer.decode([UInt8]($0), of: "peer 'b'") }
        if let geometry = answer.geometry { invariant(geometry.element.byteCount > 0, "a volume has a size") }
        if let refusal = answer.refusal {
            let told = ControlError(refusal, of: "peer 'b'")
            invariant(told.message.hasPrefix("peer 'b': "), "it is told who refused")
            checkRoundTrip(told.reply) { try ControlJSON.decode(MethodReply.self, from: $0) }
        }
    } catch {
        refused(error)
    }
}

/// The registry, and what is told of what it lists.
func registry(_ bytes: Data) {
    do throws(ControlError) {
        let content = try Registry.decode(bytes, of: "/registry.json")
        invariant(content.fault == nil, "a registry that was taken does not contradict itself")
        checkRoundTrip(content) { try Registry.decode($0, of: "/registry.json") }
        for mark in content.volumes.compactMap(\.mark) + content.pairs.compactMap(\.mark) {
            invariant(!mark.words.isEmpty && mark.isSame(as: mark), "an element is itself")
        }
        for area in content.pairs.compactMap(\.internalMetadata) {
            invariant(area.end > area.offset, "an area has an end")
        }
        for peer in content.peers {
            invariant(peer.opening.port != 0 && !peer.address.isEmpty, "a peer has an address")
        }
    } catch {
        refused(error)
    }
}

func users(_ bytes: Data) {
    do throws(ControlError) {
        checkRoundTrip(try UserFile.decode(bytes, of: "/users.json")) { try UserFile.decode($0, of: "/users.json") }
    } catch {
        refused(error)
    }
}

/// Everything that comes from outside; the first byte of an input says what the rest is.
let readers: [@Sendable (Data) -> Void] = [
    message, answer, registry, users,
    { request(PairCreateRequest.self, $0) },
    { request(SetReplicationRelationshipRequest.self, $0) },
    { request(ResyncRequest.self, $0) },
    { request(RecoveryRequest.self, $0) },
    { request(VerifyRequest.self, $0) },
    { request(VolumeAddRequest.self, $0) },
    { request(VolumeGrowRequest.self, $0) },
    { request(VolumeServeRequest.self, $0) },
    { request(PeerAddRequest.self, $0) },
    { request(PeerConfigureRequest.self, $0) },
    { request(UserAddRequest.self, $0) },
    { request(UserPasswordRequest.self, $0) },
    { request(UserRoleRequest.self, $0) },
]

/// Whatever comes gives a value that can be used, or a refusal with words.
@_cdecl("LLVMFuzzerTestOneInput")
public func fuzzOneInput(_ bytes: UnsafePointer<UInt8>?, _ count: Int) -> CInt {
    guard let bytes, count > 0 else { return 0 }
    // From 'a' on, so that inputs can be read.
    let place = Int(bytes[0] &- UInt8(ascii: "a")) % readers.count
    readers[place](Data(bytes: bytes + 1, count: count - 1))
    return 0
}
