import Glibc
import RepldCore
package import RepldEngine

/// Connections to and from peers, as far as they are the loop's: the admitter makes them.
extension UringPlatform {
    /// Connects, within `Options.admissionTimeNanoseconds` from this call.
    ///
    /// Failures: `timedOut`; `invalidArgument` when one side does not know the other's key; `noResources` for too many at
    /// once; `gone` for all else, an unknown name and a closed port among them. The address' `trouble` has the words.
    package mutating func connect(_ peer: PeerAddress, token: Token) {
        let id = start(Operation(token: token, kind: .connect, place: 0), isForRing: false)
        connectsInFlight += 1
        if enqueue(.connect(peer, id: id)) { return }
        operations[id].refusal = .noResources
        deferred.append(id)
    }

    /// The key by which the peer at the other end proved who it is; `nil` where nothing is encrypted.
    package func keyIdentity(of socket: SocketID) -> PeerKey.Identity? {
        invariant(sockets[Int(socket.index)].isTaken, "an open socket is asked for its key")
        return sockets[Int(socket.index)].session?.identity
    }

    package func hasProven(_ socket: SocketID, toBe peer: PeerAddress) -> Bool {
        guard case .key(let key) = peer.security else { return true }
        return keyIdentity(of: socket) == key.identity
    }

    /// Hands an accepted descriptor to the admitter, or closes it when that has enough to do.
    mutating func admit(_ descriptor: Int32, _ id: SlotID) {
        guard let door = listeners[Int(operations[id].place)]?.door else {
            invariantFailed("a listener for peers has its door")
        }
        if enqueue(.accepted(descriptor, door, id: id)) { return }
        door.trouble.add("a connection was closed: too many come at once")
        _ = Glibc.close(descriptor)
    }

    private mutating func enqueue(_ request: AdmissionRequest) -> Bool {
        if admitter == nil {
            admitter = try? Admitter(
                capacity: admissionCapacity,
                timeNanoseconds: admissionTimeNanoseconds,
                eventDescriptor: eventDescriptor
            )
        }
        guard let admitter, admitter.enqueue(request) else { return false }
        jobsInFlight += 1
        return true
    }

    /// The end of an admission: a socket, a failure, or nothing where somebody was not let in.
    mutating func settleAdmission(_ answer: AdmissionAnswer) {
        if !answer.isAccepted {
            if let failure = answer.failure { return finish(answer.id, count: 0, failure: failure) }
            let socket = adopt(answer.descriptor, isTCP: true, session: answer.session)
            return finish(answer.id, count: UInt32(socket ?? 0), failure: socket == nil ? .noResources : nil)
        }
        guard answer.descriptor >= 0 else { return }
        guard isAccepting(answer.id) else { return answer.discard() }
        let token = operations[answer.id].token
        let socket = adopt(answer.descriptor, isTCP: true, session: answer.session)
        let failure: IOFailure? = socket == nil ? .noResources : nil
        ready.append(Completion(token: token, count: UInt32(socket ?? 0), failure: failure))
    }

    /// Whether the accept that a connection came by still goes on.
    private func isAccepting(_ id: SlotID) -> Bool {
        for index in 0..<acceptors.count where acceptors[index].operation == id { return !acceptors[index].isStopping }
        return false
    }
}
