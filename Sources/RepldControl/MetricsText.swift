package import RepldControlAPI

/// Volumes, pairs and peers in the text format of Prometheus, version 0.0.4.
package enum MetricsText {
    private struct Family {
        var name: String
        var type: String
        var help: String
        var samples: [(labels: [(String, String)], value: String)] = []
    }

    /// One family after another; a volume that is not served has only `repld_volume_up`.
    package static func render(
        volumes: [VolumeReply],
        pairs: [PairReply],
        jobs: [JobReply] = [],
        peers: [PeerReply] = []
    ) -> String {
        (volumeFamilies(volumes) + pairFamilies(pairs) + [jobFamily(jobs)] + peerFamilies(peers)).map(text).joined()
    }

    private static func peerFamilies(_ peers: [PeerReply]) -> [Family] {
        func family(_ name: String, _ type: String, _ help: String, _ value: (PeerReply) -> UInt64?) -> Family {
            let samples = peers.compactMap { peer in value(peer).map { (labels: [("peer", peer.name)], value: "\($0)") }
            }
            return Family(name: name, type: type, help: help, samples: samples)
        }
        return [
            family("repld_peer_up", "gauge", "1 when the peer is connected.") { $0.isConnected ? 1 : 0 },
            family("repld_peer_round_trip_microseconds", "gauge", "Round trip as measured last.") {
                $0.roundTripMicroseconds.map { UInt64($0.rounded()) }
            },
            family("repld_peer_sent_bytes_total", "counter", "Bytes sent to the peer.") { $0.sentByteCount },
            family("repld_peer_received_bytes_total", "counter", "Bytes received from the peer.") {
                $0.receivedByteCount
            },
            family("repld_peer_plain_bytes_total", "counter", "Bytes before compression, of what was compressed.") {
                $0.plainByteCount
            },
            family("repld_peer_compressed_bytes_total", "counter", "The same bytes after compression.") {
                $0.compressedByteCount
            },
        ]
    }

    private static func jobFamily(_ jobs: [JobReply]) -> Family {
        var family = Family(name: "repld_jobs", type: "gauge", help: "Jobs that are kept, by their state.")
        family.samples = JobState.allCases.map { state in
            let count = jobs.count { $0.state == Enumerated(state) }
            return (labels: [("state", state.name.replacing(" ", with: ""))], value: "\(count)")
        }
        return family
    }

    private static func volumeFamilies(_ volumes: [VolumeReply]) -> [Family] {
        func family(
            _ name: String,
            _ type: String,
            _ help: String,
            _ value: (VolumeReply) -> UInt64?
        ) -> Family {
            let samples = volumes.compactMap { volume in
                value(volume).map { (labels: [("volume", volume.name)], value: "\($0)") }
            }
            return Family(name: name, type: type, help: help, samples: samples)
        }
        return [
            family("repld_volume_up", "gauge", "1 when the volume is served.") { $0.reason == nil ? 1 : 0 },
            family("repld_volume_size_bytes", "gauge", "Size of the volume.") { $0.byteCount },
            family("repld_volume_connections", "gauge", "Connected clients.") {
                $0.activity.map { UInt64($0.connectionCount) }
            },
            family("repld_volume_requests_in_flight", "gauge", "Host requests not answered yet.") {
                $0.activity.map { UInt64($0.requestsInFlight) }
            },
            family("repld_volume_reads_total", "counter", "Host reads.") { $0.activity?.readCount },
            family("repld_volume_read_bytes_total", "counter", "Bytes read by hosts.") { $0.activity?.readByteCount },
            family("repld_volume_writes_total", "counter", "Host writes.") { $0.activity?.writeCount },
            family("repld_volume_written_bytes_total", "counter", "Bytes written by hosts.") {
                $0.activity?.writeByteCount
            },
            family("repld_volume_flushes_total", "counter", "Host flushes.") { $0.activity?.flushCount },
            family("repld_volume_failed_requests_total", "counter", "Host requests answered with an error.") {
                $0.activity?.failedRequestCount
            },
            family("repld_volume_reads_served_by_target_total", "counter", "Reads that the source could not serve.") {
                $0.activity?.readsServedByTarget
            },
        ]
    }

    private static func pairFamilies(_ pairs: [PairReply]) -> [Family] {
        func family<Value: CustomStringConvertible>(
            _ name: String,
            _ help: String,
            _ value: (PairReply) -> Value?
        ) -> Family {
            let samples = pairs.compactMap { pair in
                value(pair).map { (labels: [("pair", pair.name), ("volume", pair.sourceVolume)], value: "\($0)") }
            }
            return Family(name: name, type: "gauge", help: help, samples: samples)
        }
        var state = Family(
            name: "repld_pair_copy_state",
            type: "gauge",
            help: "The standard's number of the copy state, with its word as a label."
        )
        state.samples = pairs.map { pair in
            let labels = [("pair", pair.name), ("state", pair.copyState.name), ("volume", pair.sourceVolume)]
            return (labels: labels, value: "\(pair.copyState.number)")
        }
        return [
            state,
            family("repld_pair_operation", "The standard's number of the operation under way; 0 for none.") {
                $0.operation?.number ?? 0
            },
            family("repld_pair_exposure_seconds", "Age of what the target lacks; none where nobody knows.") {
                $0.exposureSeconds
            },
            family(
                "repld_pair_recovery_point_seconds",
                "What that age may become before an asynchronous pair is Skewed."
            ) {
                $0.recoveryPointSeconds
            },
            family("repld_pair_dirty_bytes", "Bytes that may differ.") { $0.dirtyByteCount },
            family("repld_pair_copy_total_bytes", "Bytes of the copy that runs or ran last.") {
                $0.copy?.totalByteCount
            },
            family("repld_pair_copy_done_bytes", "Of those, bytes dealt with.") { $0.copy?.doneByteCount },
            family("repld_pair_copy_written_bytes", "Of those, bytes written to the target.") {
                $0.copy?.writtenByteCount
            },
        ]
    }

    /// Names need no escaping: they are letters, digits, dots, dashes and underscores.
    private static func text(_ family: Family) -> String {
        var lines = "# HELP \(family.name) \(family.help)\n# TYPE \(family.name) \(family.type)\n"
        for sample in family.samples {
            let labels = sample.labels.map { "\($0.0)=\"\($0.1)\"" }.joined(separator: ",")
            lines += "\(family.name){\(labels)} \(sample.value)\n"
        }
        return lines
    }
}
