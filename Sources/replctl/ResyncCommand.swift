import ArgumentParser
import Foundation
import RepldControlAPI
import RepldControlClient

/// How copies get along with hosts and with each other, as `pair create` and `pair resync` take it.
struct ResyncOptions: ParsableArguments {
    @Option(help: "Copy at most this much in a second, such as 50MiB; 'none' for as much as goes.") var cap: String?
    @Option(
        help: """
            Never copy less than this in a second, whatever hosts do, such as 20MiB; 'auto' for what ends within a day, and at \
            least 16MiB.
            """
    )
    var floor: String?
    @Option(
        help:
            "What the p99 latency of hosts may become while copying, in percent of what it is otherwise: 105 to 10000."
    )
    var latency: String?
    @Option(help: "Pairs with a larger number wait until those with a smaller one are done; 0 by default.")
    var order: UInt16?

    func request() throws -> ResyncRequest {
        var request = ResyncRequest(order: order)
        request.capBytesPerSecond = try cap.map { $0 == "none" ? 0 : try Arguments.rate($0, "--cap") }
        request.floorBytesPerSecond = try floor.map { $0 == "auto" ? 0 : try Arguments.rate($0, "--floor") }
        request.latencyTargetPercent = try latency.map { text in
            guard let percent = UInt16(text.hasSuffix("%") ? text.dropLast() : text[...]) else {
                throw ValidationError("--latency: found '\(text)', expected a percentage such as 125")
            }
            return percent
        }
        return request
    }
}

extension PairCommand {
    struct Resync: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Pause, resume, limit and order the copies of a pair; show what limits them.",
            discussion: """
                Copies run as fast as the slower element while hosts are idle. While hosts are busy, they hold the hosts' p99 \
                latency under a target, and never fall under a floor, so that they end. This also goes for restores and \
                failbacks. What is set here holds at once, and over restarts. Without options, shows how it stands.
                """
        )

        @OptionGroup var common: CommonOptions
        @Argument(help: "Name of the pair.", completion: NameCompletion.pairs) var name: String
        @Flag(help: "Let copies rest; what hosts write is mirrored all the same.") var pause = false
        @Flag(help: "Let copies go on.") var resume = false
        @OptionGroup var options: ResyncOptions

        func run() async throws {
            var request = try options.request()
            if pause || resume { request.paused = pause }
            let path = "/v1/pairs/\(Arguments.escaped(name))"
            let pair: PairReply =
                request.isEmpty
                ? try await common.client.call(.get, path)
                : try await common.client.call(.post, path + "/ConfigureResync", body: request)
            try common.show(pair) { Text.fields(Text.resync($0)) }
        }

        func validate() throws {
            if pause, resume { throw ValidationError("--pause and --resume: one of the two") }
        }
    }
}

extension Text {
    /// How the copies of a pair get along with hosts.
    static func resync(_ pair: PairReply) -> [(String, String)] {
        guard let settings = pair.settings.resync else { return [] }
        var rows: [(String, String)] = []
        if let resync = pair.resync {
            let allowed = resync.allowedBytesPerSecond.map { ", up to \(ByteCount.format($0))/s now" } ?? ""
            rows.append(("Limited by", resync.limitedBy + allowed))
            if let without = resync.hostP99UndisturbedMicroseconds {
                let with = resync.hostP99Microseconds.map { ", \(microseconds($0)) with the copy" } ?? ""
                rows.append(("Host p99", "\(microseconds(without)) undisturbed\(with)"))
            }
        }
        let cap = settings.capBytesPerSecond.map { "cap \(ByteCount.format($0))/s" } ?? "no cap"
        let automatic = pair.resync.map { " (\(ByteCount.format($0.floorBytesPerSecond))/s)" } ?? ""
        let floor =
            settings.floorBytesPerSecond.map { "floor \(ByteCount.format($0))/s" } ?? "automatic floor\(automatic)"
        let words = "\(cap), \(floor), host p99 up to \(settings.latencyTargetPercent)%, order \(settings.order)"
        rows.append(("Resync", settings.paused ? "paused; \(words)" : words))
        return rows
    }

    private static func microseconds(_ value: Double) -> String {
        value < 1000 ? "\(Int(value.rounded()))us" : String(format: "%.1fms", value / 1000)
    }
}
