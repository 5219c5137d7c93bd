internal import Foundation
package import RepldControlAPI
package import RepldCore
internal import RepldEngine
package import RepldFormat

/// What the control planes of two hosts say to each other: one JSON object each way, of at most 64 KiB.
///
/// Every message has a version and a kind, and the fields of its kind; others are refused, so that nothing that a newer daemon
/// means is passed over. Nothing in them is trusted: names, numbers and ids are checked as those of a person are.
///
///     identify     who are you?                                  answered with the host alone
///     associate    let your volume be the replica of my pair     geometry; the same pair again is answered again
///     dissociate   my pair is no more                            also where it was not known
///     operate      an operation, asked of the replica's host     reply, as from SetReplicationRelationship
///     await        has the pair the copy state?                  reply, or refused with `timeout` after a second at most
///     mode         this is the mode of my pair now               the host alone
///     takeOver     let your element serve hosts                  record that the pair has there; also a second time
///     differences  a piece of where my element may differ        the host alone
///     meet         that was all of it: I can be the replica      record that the pair has there; also a second time
///     grow         can your volume take a size? let it           geometry; what it has already is answered again
package enum PeerMessages {
    package static var version: Int { 1 }

    /// How long an `await` may hold its answer back: well below what a connection takes to count as lost.
    package static var awaitLimit: Duration { .seconds(1) }

    /// Reads a message.
    package static func decode(_ bytes: [UInt8]) throws(ControlError) -> PeerRequest {
        guard bytes.count <= PeerMessage.byteCountMaximum else {
            throw ControlError(
                .invalidRequest,
                "a message of \(bytes.count) bytes, expected at most \(PeerMessage.byteCountMaximum)"
            )
        }
        let data = Data(bytes)
        do {
            let header = try ControlJSON.decode(Header.self, from: data)
            guard header.version == version else {
                throw ControlError(
                    .notSupported,
                    "a message of version \(header.version), this daemon knows \(version)",
                    suggestion: "let both hosts run the same version of repld"
                )
            }
            guard let kind = Kind(rawValue: header.kind) else {
                throw ControlError(.notSupported, "a message of the unknown kind '\(header.kind)'")
            }
            let request = try decode(kind, data)
            if let fault = request.fault { throw ControlError(.invalidRequest, fault) }
            return request
        } catch let error as JSONRefusal {
            throw ControlError(.invalidRequest, "a message that cannot be read: \(error.message)")
        } catch let error as ControlError {
            throw error
        } catch {
            throw ControlError(.invalidRequest, "a message that cannot be read", underlying: error)
        }
    }

    /// The bytes of a message; refused where they are too many.
    package static func encode(_ message: some Encodable) throws(ControlError) -> [UInt8] {
        let bytes: Data
        do {
            bytes = try ControlJSON.encode(message)
        } catch {
            throw ControlError(.internalFailure, "a message cannot be written", underlying: error)
        }
        guard bytes.count <= PeerMessage.byteCountMaximum else {
            throw ControlError(
                .invalidRequest,
                "a message of \(bytes.count) bytes is too long for a peer, which takes \(PeerMessage.byteCountMaximum)"
            )
        }
        return [UInt8](bytes)
    }

    enum Kind: String, Codable, Sendable, CaseIterable {
        case identify, associate, dissociate, operate, await, mode, takeOver, differences, meet, grow
    }

    private struct Header: Decodable {
        var version: Int
        var kind: String
    }

    private static func decode(_ kind: Kind, _ data: Data) throws -> PeerRequest {
        switch kind {
        case .identify: .identify(try ControlJSON.decodeRequest(IdentifyMessage.self, from: data))
        case .associate: .associate(try ControlJSON.decodeRequest(AssociateMessage.self, from: data))
        case .dissociate: .dissociate(try ControlJSON.decodeRequest(DissociateMessage.self, from: data))
        case .operate: .operate(try ControlJSON.decodeRequest(OperateMessage.self, from: data))
        case .await: .await(try ControlJSON.decodeRequest(AwaitMessage.self, from: data))
        case .mode: .mode(try ControlJSON.decodeRequest(ModeMessage.self, from: data))
        case .takeOver: .takeOver(try ControlJSON.decodeRequest(TakeOverMessage.self, from: data))
        case .differences: .differences(try ControlJSON.decodeRequest(DifferencesMessage.self, from: data))
        case .meet: .meet(try ControlJSON.decodeRequest(MeetMessage.self, from: data))
        case .grow: .grow(try ControlJSON.decodeRequest(GrowMessage.self, from: data))
        }
    }
}

/// A message that was read, and whose fields may be what they are.
package enum PeerRequest: Hashable, Sendable {
    case identify(IdentifyMessage)
    case associate(AssociateMessage)
    case dissociate(DissociateMessage)
    case operate(OperateMessage)
    case await(AwaitMessage)
    case mode(ModeMessage)
    case takeOver(TakeOverMessage)
    case differences(DifferencesMessage)
    case meet(MeetMessage)
    case grow(GrowMessage)

    /// What no daemon would say, in words; `nil` when it may be.
    var fault: String? {
        switch self {
        case .identify: nil
        case .associate(let message): message.fault
        case .dissociate(let message): PeerMessages.fault(of: message.pair)
        case .operate(let message): PeerMessages.fault(of: message.pair) ?? PeerMessages.fault(ofCaller: message.by)
        case .await(let message): PeerMessages.fault(of: message.pair)
        case .mode(let message): PeerMessages.fault(of: message.pair)
        case .takeOver(let message): message.fault
        case .differences(let message): message.fault
        case .meet(let message): message.fault
        case .grow(let message): message.fault
        }
    }
}

extension PeerMessages {
    static func fault(of id: String) -> String? {
        PairID(id) == nil ? "found the id '\(id.prefix(64))', expected 32 lower-case hexadecimal digits" : nil
    }

    /// The name stands in log lines and jobs.
    static func fault(ofCaller name: String) -> String? {
        let isPlain = name.unicodeScalars.allSatisfy { $0.value >= 0x20 && $0.value != 0x7F }
        return isPlain && (1...128).contains(name.utf8.count) ? nil : "'by' is no name of somebody who asks"
    }
}

/// Asks a daemon what it calls itself.
package struct IdentifyMessage: StrictRequest, Hashable {
    package var version = PeerMessages.version
    package var kind = PeerMessages.Kind.identify.rawValue

    package enum CodingKeys: String, CodingKey, CaseIterable { case version, kind }

    package init() {}
}

/// Asks that a volume become the other element of a pair.
package struct AssociateMessage: StrictRequest, Hashable {
    package var version = PeerMessages.version
    package var kind = PeerMessages.Kind.associate.rawValue
    package var pair: String
    package var name: String
    /// What the daemon calls itself that asks.
    package var host: String
    package var sourceVolume: String
    package var byteCount: UInt64
    package var blockByteCount: UInt32
    package var granuleByteCount: UInt32
    /// The volume that is asked for.
    package var volume: String
    /// Absent for Synchronous.
    package var mode: ReplicationMode?

    package enum CodingKeys: String, CodingKey, CaseIterable {
        case version, kind, pair, name, host, sourceVolume, byteCount, blockByteCount, granuleByteCount, volume, mode
    }

    package init(
        pair: PairID,
        name: String,
        host: PairID,
        sourceVolume: String,
        byteCount: UInt64,
        blockByteCount: UInt32,
        granuleByteCount: UInt32,
        volume: String
    ) {
        self.pair = pair.description
        self.name = name
        self.host = host.description
        self.sourceVolume = sourceVolume
        self.byteCount = byteCount
        self.blockByteCount = blockByteCount
        self.granuleByteCount = granuleByteCount
        self.volume = volume
    }

    var fault: String? {
        if let fault = PeerMessages.fault(of: pair) ?? PeerMessages.fault(of: host) { return fault }
        for name in [name, sourceVolume, volume] {
            if let fault = ObjectName.fault(of: name) { return fault }
        }
        guard byteCount > 0, byteCount <= UInt64(Int64.max) else { return "byteCount: found \(byteCount)" }
        guard blockByteCount >= 512, blockByteCount.nonzeroBitCount == 1 else {
            return "blockByteCount: found \(blockByteCount), expected a power of two from 512"
        }
        guard (4096...(1 << 20)).contains(granuleByteCount), granuleByteCount.nonzeroBitCount == 1 else {
            return "granuleByteCount: found \(granuleByteCount), expected a power of two from 4KiB to 1MiB"
        }
        return nil
    }
}

/// Tells that a pair is no more.
package struct DissociateMessage: StrictRequest, Hashable {
    package var version = PeerMessages.version
    package var kind = PeerMessages.Kind.dissociate.rawValue
    package var pair: String

    package enum CodingKeys: String, CodingKey, CaseIterable { case version, kind, pair }

    package init(pair: PairID) { self.pair = pair.description }
}

/// Asks for an operation on a pair; the fields are those of `SetReplicationRelationshipRequest`.
package struct OperateMessage: StrictRequest, Hashable {
    package var version = PeerMessages.version
    package var kind = PeerMessages.Kind.operate.rawValue
    package var pair: String
    /// Who asks, and was found to be allowed to, on the other host.
    package var by: String
    package var operation: NumberOrName
    package var force: Bool?
    package var expectedRevision: UInt64?
    package var plan: Bool?
    package var keepsUndo: Bool?
    package var recoveryPointSeconds: Double?

    package enum CodingKeys: String, CodingKey, CaseIterable {
        case version, kind, pair, by, operation, force, expectedRevision, plan, keepsUndo, recoveryPointSeconds
    }

    package init(pair: String, by: String, _ request: SetReplicationRelationshipRequest) {
        self.pair = pair
        self.by = by
        operation = request.operation
        force = request.force
        expectedRevision = request.expectedRevision
        plan = request.plan
        keepsUndo = request.keepsUndo
        recoveryPointSeconds = request.recoveryPointSeconds
    }

    /// What is asked; a wait is a message of its own.
    package var request: SetReplicationRelationshipRequest {
        SetReplicationRelationshipRequest(
            operation: operation,
            force: force,
            expectedRevision: expectedRevision,
            plan: plan,
            keepsUndo: keepsUndo,
            recoveryPointSeconds: recoveryPointSeconds
        )
    }
}

/// Asks whether a pair has a copy state, and waits a little for it.
package struct AwaitMessage: StrictRequest, Hashable {
    package var version = PeerMessages.version
    package var kind = PeerMessages.Kind.await.rawValue
    package var pair: String
    package var copyState: NumberOrName
    package var job: String?
    package var milliseconds: UInt32

    package enum CodingKeys: String, CodingKey, CaseIterable { case version, kind, pair, copyState, job, milliseconds }

    package init(pair: String, copyState: NumberOrName, job: String?, milliseconds: UInt32) {
        self.pair = pair
        self.copyState = copyState
        self.job = job
        self.milliseconds = milliseconds
    }
}

/// What a message is answered with.
package struct PeerAnswer: StrictRequest, Hashable {
    package var version = PeerMessages.version
    /// What the daemon calls itself that answers.
    package var host: String
    /// Why it was not done; absent when it was.
    package var refusal: MethodReply?
    /// Of `takeOver`: it has not been done, and is not done by this attempt later.
    package var isFinal: Bool?
    /// Of `associate` and `grow`.
    package var geometry: RemoteGeometry?
    /// Of `operate` and `await`.
    package var reply: MethodReply?
    /// Of `takeOver` and `meet` (`PeerMessages.text(of:)`).
    package var record: String?

    package enum CodingKeys: String, CodingKey, CaseIterable {
        case version, host, refusal, isFinal, geometry, reply, record
    }

    package init(
        host: PairID,
        refusal: MethodReply? = nil,
        geometry: RemoteGeometry? = nil,
        reply: MethodReply? = nil,
        record: PairRecord? = nil
    ) {
        self.host = host.description
        self.refusal = refusal
        self.geometry = geometry
        self.reply = reply
        self.record = record.map { PeerMessages.text(of: $0) }
    }

    /// Reads an answer; `who` gave it.
    package static func decode(_ bytes: [UInt8], of who: String) throws(ControlError) -> PeerAnswer {
        let what = "\(who) has answered what cannot be read"
        let answer: PeerAnswer
        do {
            answer = try ControlJSON.decodeRequest(PeerAnswer.self, from: Data(bytes))
        } catch {
            throw ControlError(.refused, "\(what): \(error.message)")
        }
        let isKnown = answer.version == PeerMessages.version
        guard isKnown, PairID(answer.host) != nil, answer.geometry?.fault == nil else {
            throw ControlError(.refused, "\(what): \(isKnown ? "a wrong value" : "version \(answer.version)")")
        }
        return answer
    }
}
