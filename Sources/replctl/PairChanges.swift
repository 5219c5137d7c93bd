import ArgumentParser
import Foundation
import RepldControlAPI
import RepldControlClient

extension PairCommand {
    /// `replctl pair changes`: where the two elements may differ.
    struct Changes: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "List where the two elements of a pair may differ: what a copy would look at.",
            discussion: """
                In a pair that is Fractured, Split, Suspended, Inactive or Failedover that is what has changed since it stopped \
                mirroring, in whole granules, and what the target had not got, or not flushed, by then. While a copy runs it \
                is what is still to be copied, and what the target had changed counts as the source's. In a pair that is \
                Synchronized it is nothing. What is remembered outlives the daemon; after a crash the \
                extents that were active count as different as well.

                The list is made in parts, each of a moment of its own: what hosts change meanwhile may be in it or not.
                """
        )

        /// Whose changes, in the daemon's words.
        enum Side: String, CaseIterable, ExpressibleByArgument { case source, target, both }

        @OptionGroup var common: CommonOptions
        @Argument(help: "Name of the pair.", completion: NameCompletion.pairs) var name: String
        @Option(help: "Only what this side has changed: source, target or both.") var side = Side.both
        @Option(help: "List at most so many runs; without it, all.") var limit: UInt64?

        func validate() throws {
            if limit == 0 { throw ValidationError("--limit: found '0', expected 1 or more") }
        }

        func run() async throws {
            let path = "/v1/pairs/\(Arguments.escaped(name))"
            let runs = ChangedRuns(common.client, pairPath: path, side: side.rawValue, limit: limit)
            if common.json {
                try await printJSON(runs)
            } else {
                try await printTable(runs)
            }
        }

        private func printTable(_ runs: ChangedRuns) async throws {
            var head: PairChangesReply?
            let summary = try await runs.forEach {
                head = $0
                if !$0.runs.isEmpty { print(Text.changesHeader($0)) }
            } _: { run in
                if let head { print(Text.changedRun(run, head)) }
            }
            if let head { print(Text.changesSummary(summary, head)) }
        }

        /// One object, as of a single answer that has all runs; printed as they come.
        private func printJSON(_ runs: ChangedRuns) async throws {
            var separator = ""
            let summary = try await runs.forEach { head in
                print(
                    """
                    {
                      "byteCount" : \(head.byteCount),
                      "copyState" : \(try text(head.copyState)),
                      "granuleByteCount" : \(head.granuleByteCount),
                      "name" : \(try text(head.name)),
                      "side" : \(try text(head.side)),
                      "runs" : [
                    """,
                    terminator: ""
                )
            } _: { run in
                print("\(separator)\n    \(try text(run))", terminator: "")
                separator = ","
            }
            print(
                """

                  ],
                  "runCount" : \(summary.runCount),
                  "changedByteCount" : \(summary.byteCount),
                  "hasMore" : \(summary.hasMore)
                }
                """
            )
        }

        private func text(_ value: some Encodable) throws -> String {
            String(decoding: try ControlJSON.encode(value), as: UTF8.self)
        }
    }
}

/// The list of changes in words: its columns are as wide as the volume needs, because it is printed as it comes.
extension Text {
    static func changesHeader(_ reply: PairChangesReply) -> String {
        row(["OFFSET", "LENGTH", "AT", "SIZE"], reply)
    }

    static func changedRun(_ run: ChangedRun, _ reply: PairChangesReply) -> String {
        row(
            [String(run.offset), String(run.length), ByteCount.format(run.offset), ByteCount.format(run.length)],
            reply
        )
    }

    static func changesSummary(_ summary: ChangedRuns.Summary, _ reply: PairChangesReply) -> String {
        let granule = ByteCount.format(reply.granuleByteCount)
        guard summary.runCount > 0 else { return "nothing may differ (granule \(granule), \(reply.copyState.name))" }
        let size = "\(ByteCount.format(summary.byteCount)) (\(summary.byteCount) bytes)"
        let runs = summary.runCount == 1 ? "1 run" : "\(summary.runCount) runs"
        let more = summary.hasMore ? "; there are more" : ""
        return "\(runs), \(size) may differ (granule \(granule), \(reply.copyState.name))\(more)"
    }

    private static func row(_ cells: [String], _ reply: PairChangesReply) -> String {
        let bytes = max(6, String(reply.byteCount).count)
        let widths = [bytes, bytes, 10]
        return cells.enumerated().map { column, cell in
            guard column < widths.count else { return cell }
            return cell + String(repeating: " ", count: max(0, widths[column] - cell.count))
        }.joined(separator: "  ")
    }
}
