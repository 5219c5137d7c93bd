internal import Foundation
internal import Logging
package import RepldControlAPI
internal import RepldCore
internal import RepldDataPlane
internal import RepldEngine

/// Peers: the other hosts that pairs may reach to
extension ReplicationService {
    /// Lets the data plane keep in touch with a peer, and remembers it.
    package func addPeer(_ request: PeerAddRequest) async throws(ControlError) -> PeerReply {
        let name = request.name
        if let fault = ObjectName.fault(of: name) { throw ControlError(.invalidName, fault) }
        let subject = "peer \(name)"
        try begin("add", on: subject)
        defer { end(on: subject) }
        guard let address = PeerAddressText(request.address) else {
            throw ControlError(
                .invalidRequest,
                "address: found '\(request.address)', expected \(PeerAddressText.expectation)"
            )
        }
        let keyFile = try Self.keyFile(of: request)
        try checkUnused(name, address)
        // The number is taken before the await: two additions at once must not get the same.
        let number = registry.content.nextPeerNumber
        try registry.commit { $0.nextPeerNumber = number + 1 }
        let entry = PeerEntry(
            number: number,
            name: name,
            host: address.host,
            port: address.port,
            keyFile: keyFile,
            compression: request.compression ?? .auto,
            createdAt: Date()
        )
        do {
            try await plane.addPeer(entry.opening)
        } catch {
            throw Self.controlError(error, "cannot add peer '\(name)'")
        }
        do {
            // Another one may have been given the address meanwhile.
            try checkUnused(name, address)
            try registry.commit { $0.peers.append(entry) }
        } catch {
            try? await plane.removePeer(entry.id)
            throw error
        }
        let security = keyFile == nil ? "without a key, and nothing is encrypted" : "with a key"
        record("peer-added", message: "peer '\(name)' is at \(entry.address), \(security)", level: .notice)
        return try await peer(named: name)
    }

    /// Gives up the connection to a peer, and forgets it.
    package func removePeer(named name: String) async throws(ControlError) {
        let subject = "peer \(name)"
        try begin("remove", on: subject)
        defer { end(on: subject) }
        let entry = try peerEntry(named: name)
        try checkIsUnused(entry)
        if peerFailures[entry.number] == nil {
            do {
                try await plane.removePeer(entry.id)
            } catch {
                throw Self.controlError(error, "cannot remove peer '\(name)'")
            }
            peerFailures[entry.number] = "it is being removed"
        }
        do {
            // A pair may have been made meanwhile.
            try checkIsUnused(entry)
        } catch {
            await open(entry)
            throw error
        }
        try registry.commit { $0.peers.removeAll { $0.number == entry.number } }
        peerFailures[entry.number] = nil
        record("peer-removed", message: "peer '\(name)' is forgotten", level: .notice)
    }

    /// Changes what is given, durably and at once, and shows the peer.
    package func configurePeer(
        named name: String,
        _ request: PeerConfigureRequest
    ) async throws(ControlError) -> PeerReply {
        let subject = "peer \(name)"
        try begin("change", on: subject)
        defer { end(on: subject) }
        let entry = try peerEntry(named: name)
        var wanted = entry
        if let compression = request.compression { wanted.compression = compression }
        guard wanted != entry else { return try await peer(named: name) }
        try keep(wanted)
        // One that the data plane does not have takes them up when it is told of it.
        if peerFailures[entry.number] == nil {
            do {
                try await plane.configurePeer(entry.id, wanted.opening.settings)
            } catch {
                try keep(entry)
                throw Self.controlError(error, "the settings of peer '\(name)' cannot be changed")
            }
        }
        let words = "what is sent to peer '\(name)' is compressed: \(wanted.compression.rawValue)"
        record("peer-changed", message: words, level: .notice)
        return try await peer(named: name)
    }

    private func keep(_ wanted: PeerEntry) throws(ControlError) {
        try registry.commit { content in
            guard let index = content.peers.firstIndex(where: { $0.number == wanted.number }) else { return }
            // What its daemon calls itself may have become known meanwhile.
            content.peers[index].compression = wanted.compression
        }
    }

    /// Tries again to tell the data plane of a peer whose key could not be read.
    package func retryPeer(named name: String) async throws(ControlError) -> PeerReply {
        let subject = "peer \(name)"
        try begin("retry", on: subject)
        defer { end(on: subject) }
        let entry = try peerEntry(named: name)
        guard peerFailures[entry.number] != nil else { return try await peer(named: name) }
        await open(entry)
        if let reason = peerFailures[entry.number] {
            throw ControlError(.peerNotConnected, "peer '\(name)' still cannot be reached: \(reason)")
        }
        return try await peer(named: name)
    }

    /// All peers, by name.
    package func peerList() async throws(ControlError) -> [PeerReply] {
        let status = try await planeStatus()
        return registry.content.peers.sorted { $0.name < $1.name }.map { reply(for: $0, status) }
    }

    package func peer(named name: String) async throws(ControlError) -> PeerReply {
        let entry = try peerEntry(named: name)
        return reply(for: entry, try await planeStatus())
    }

    func peerEntry(named name: String) throws(ControlError) -> PeerEntry {
        guard let entry = registry.content.peer(named: name) else {
            let known = registry.content.peers.map(\.name)
            throw ControlError(
                .peerNotFound,
                "there is no peer '\(name)'",
                suggestion: Suggestion.nearest(to: name, among: known).map { "did you mean '\($0)'?" }
                    ?? "'replctl peer ls' lists them, 'replctl peer add' makes one known"
            )
        }
        return entry
    }

    /// The peer that an address means: by its name, or by host and port.
    func peerEntry(at address: PeerAddressText) throws(ControlError) -> PeerEntry {
        let found = registry.content.peers.first { peer in
            peer.name == address.host && (!address.hasPort || peer.port == address.port)
                || peer.host == address.host && peer.port == address.port
        }
        guard let found else {
            let known = registry.content.peers.map(\.name)
            let nearest = Suggestion.nearest(to: address.host, among: known).map { "did you mean '\($0)'? Otherwise: " }
            throw ControlError(
                .peerNotFound,
                "no peer is called '\(address.host)' or is at \(address)",
                suggestion:
                    "\(nearest ?? "")'replctl peer add NAME --address \(address) --key-file FILE' makes it known"
            )
        }
        return found
    }

    /// Tells the data plane of a peer that the registry has; what stands against it is kept for who asks.
    func open(_ entry: PeerEntry) async {
        do {
            try await plane.addPeer(entry.opening)
            peerFailures[entry.number] = nil
        } catch {
            peerFailures[entry.number] = "\(error); mend that, then 'replctl peer retry \(entry.name)'"
            record("peer-not-added", message: "peer '\(entry.name)': \(error)", level: .error)
        }
    }

    /// Lets peers connect, where they may.
    func listenToPeers() async throws(ControlError) {
        guard let address = settings.peerListening else { return }
        do {
            peerListening = try await plane.listenToPeers(at: address)
        } catch {
            let words = PeerAddressText.text(host: address.host, port: address.port)
            throw ControlError(.socket, "cannot listen to peers on \(words)", underlying: error)
        }
    }

    /// Whether a peer is connected, and why it is not.
    func connection(to entry: PeerEntry?, _ status: EngineStatus) -> (isConnected: Bool, reason: String?) {
        guard let entry else { return (false, "no such peer is known here") }
        if let failure = peerFailures[entry.number] { return (false, failure) }
        guard let found = status.peers.first(where: { $0.id == entry.id }) else {
            return (false, "the data plane does not have it")
        }
        if found.isConnected { return (true, nil) }
        return (false, found.reason.isEmpty ? "no attempt has been made yet" : found.reason)
    }

    private func checkIsUnused(_ entry: PeerEntry) throws(ControlError) {
        let users = pairNames(of: entry)
        guard let first = users.first else { return }
        throw ControlError(
            .peerInUse,
            "peer '\(entry.name)' has the other element of \(users.map { "'\($0)'" }.joined(separator: ", "))",
            suggestion: "detach first: 'replctl set \(first) Detach'"
        )
    }

    /// The pairs whose other element is at a peer.
    private func pairNames(of entry: PeerEntry) -> [String] {
        let pairs = registry.content.pairs.filter { $0.remote?.peer == entry.name }.map(\.name)
        let replicas = registry.content.replicas.filter { $0.hostID == entry.hostID }.map(\.name)
        return (pairs + replicas).sorted()
    }

    private func reply(for entry: PeerEntry, _ status: EngineStatus) -> PeerReply {
        let connection = connection(to: entry, status)
        var reply = PeerReply(
            name: entry.name,
            address: entry.address,
            keyFile: entry.keyFile,
            compression: entry.compression,
            host: entry.hostID,
            isConnected: connection.isConnected,
            reason: connection.reason,
            pairs: pairNames(of: entry),
            createdAt: entry.createdAt
        )
        guard let found = status.peers.first(where: { $0.id == entry.id }) else { return reply }
        if found.roundTripNanoseconds > 0 {
            reply.roundTripMicroseconds = Double(found.roundTripNanoseconds) / 1000
        }
        reply.sentByteCount = found.sentByteCount
        reply.receivedByteCount = found.receivedByteCount
        reply.plainByteCount = found.plainByteCount
        reply.compressedByteCount = found.compressedByteCount
        if found.compressedByteCount > 0 {
            reply.compressionRatio = Double(found.plainByteCount) / Double(found.compressedByteCount)
        }
        return reply
    }

    private func checkUnused(_ name: String, _ address: PeerAddressText) throws(ControlError) {
        if registry.content.peer(named: name) != nil {
            throw ControlError(
                .nameInUse,
                "there is a peer '\(name)' already",
                suggestion: "choose another name, or remove that one with 'replctl peer rm \(name)'"
            )
        }
        let other = registry.content.peers.first { $0.host == address.host && $0.port == address.port }
        if let other { throw ControlError(.nameInUse, "peer '\(other.name)' is at \(address) already") }
    }

    /// The key file, or `nil` where plaintext is asked for in so many words.
    private static func keyFile(of request: PeerAddRequest) throws(ControlError) -> String? {
        let isPlaintext = request.plaintext ?? false
        guard let keyFile = request.keyFile else {
            if isPlaintext { return nil }
            throw ControlError(
                .invalidRequest,
                "peer '\(request.name)' needs a key file",
                suggestion: """
                    'replctl peer key-new FILE' makes one, which both hosts have to have; where nobody else can reach the link, \
                    say --plaintext
                    """
            )
        }
        if isPlaintext { throw ControlError(.invalidRequest, "a peer has a key file or is plaintext, not both") }
        return try absolute(keyFile, field: "keyFile")
    }
}
