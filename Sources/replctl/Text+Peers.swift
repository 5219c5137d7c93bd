import Foundation
import RepldControlAPI

/// Peers in words.
extension Text {
    static func peers(_ reply: PeerListReply) -> String {
        guard !reply.peers.isEmpty else { return "no peers; 'replctl peer add' makes one known" }
        let rows = reply.peers.map { peer in
            [
                peer.name, peer.address, peer.plaintext ? "plaintext" : "key", peer.isConnected ? "connected" : "away",
                roundTrip(peer), ByteCount.format(peer.sentByteCount), ByteCount.format(peer.receivedByteCount),
                ratio(peer), peer.reason ?? "",
            ]
        }
        return table(["NAME", "ADDRESS", "BY", "STATE", "ROUND TRIP", "SENT", "RECEIVED", "RATIO", ""], rows)
    }

    static func peer(_ peer: PeerReply) -> String {
        var rows = [
            ("Peer", peer.name + (peer.host.map { " (host \($0))" } ?? "")),
            ("Address", peer.address),
            ("Known by", peer.keyFile.map { "the key in \($0)" } ?? "nothing: plaintext"),
            ("State", peer.isConnected ? "connected" : "not connected" + (peer.reason.map { ": \($0)" } ?? "")),
            ("Round trip", roundTrip(peer)),
            ("Sent", "\(ByteCount.format(peer.sentByteCount)) (\(peer.sentByteCount) bytes)"),
            ("Received", "\(ByteCount.format(peer.receivedByteCount)) (\(peer.receivedByteCount) bytes)"),
        ]
        let compressed =
            peer.compressionRatio == nil
            ? "" : ", \(ByteCount.format(peer.plainByteCount)) to \(ByteCount.format(peer.compressedByteCount))"
        rows.append(("Compressed", "\(peer.compression.rawValue): \(ratio(peer))\(compressed)"))
        rows.append(("Pairs", peer.pairs.isEmpty ? "none" : peer.pairs.joined(separator: ", ")))
        rows.append(("Known since", time(peer.createdAt)))
        return fields(rows)
    }

    /// The other host of a pair, in lines of `pair show`.
    static func peer(of pair: PairReply) -> [(String, String)] {
        guard let peer = pair.peer, let role = pair.role else { return [] }
        let state = peer.isConnected ? "connected" : "not connected" + (peer.reason.map { ": \($0)" } ?? "")
        return [
            ("Role", role == .source ? "source: the replica is at the peer" : "replica: the source is at the peer"),
            ("Peer", "\(peer.name), volume \(peer.volume), \(state)"),
        ]
    }

    private static func roundTrip(_ peer: PeerReply) -> String {
        guard let microseconds = peer.roundTripMicroseconds else { return "-" }
        return microseconds < 1000
            ? "\(Int(microseconds.rounded())) us" : "\((microseconds / 100).rounded() / 10) ms"
    }

    private static func ratio(_ peer: PeerReply) -> String {
        peer.compressionRatio.map { "\(($0 * 10).rounded() / 10):1" } ?? "-"
    }
}
