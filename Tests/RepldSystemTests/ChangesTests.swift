import Foundation
import RepldTestSupport
import Testing

extension SystemTests {
    /// Where two elements may differ, as `replctl pair changes`, other people's NBD clients and the elements themselves say.
    @Suite(
        "Changes",
        .requires(
            .root,
            .loopDevices,
            .product("repld"),
            .product("replctl"),
            .tool("nbdinfo"),
            .tool("qemu-io"),
            .tool("qemu-img"),
            .pythonModule("nbd")
        )
    )
    struct ChangesTests {
        @Test("of a Suspended pair are what was written since, to every client that others wrote")
        func suspended() throws {
            try withTestBed { bed in
                let mirror = try bed.mirror(byteCount: 64 * mebibyte)
                try mirror.create()
                #expect(try mirror.changes().runs.isEmpty, "a Synchronized pair has none")
                try mirror.write(0x11, mirror.uri, at: 30)
                try mirror.set("Suspend", "Suspended")
                try mirror.write(0x22, mirror.uri, at: 3)
                try mirror.write(0x33, mirror.uri, at: 10, mebibytes: 2)
                try bed.runs("qemu-io", ["-f", "raw", "-c", "write -P 7 20485k 512", "-c", "flush", mirror.uri])
                try bed.runs("qemu-io", ["-f", "raw", "-c", "write -P 8 65535k 1k", "-c", "flush", mirror.uri])
                let granule: UInt64 = 64 << 10
                let written = [
                    Run(3 * mebibyte, mebibyte), Run(10 * mebibyte, 2 * mebibyte), Run(20 * mebibyte, granule),
                    Run(64 * mebibyte - granule, granule),
                ]
                let listed = try mirror.changes()
                #expect(listed.runs == written)
                #expect(listed.changedByteCount == written.reduce(0) { $0 + $1.length })
                #expect(listed.granuleByteCount == granule && listed.byteCount == 64 * mebibyte)
                #expect(listed.copyState.name == "Suspended" && !listed.hasMore)
                #expect(try mirror.differingGranules(of: granule) == written, "so it is on the elements")
                for context in ["repld:dirty", "repld:dirty:p"] {
                    let map = ["--map=\(context)", "--json", mirror.uri]
                    let runs = try Reply.decode([Reply.MapRun].self, bed.runs("nbdinfo", map))
                    let dirty = runs.filter { $0.type == 1 }.map { Run($0.offset, $0.length) }
                    #expect(Run.joined(dirty) == written, "nbdinfo --map=\(context)")
                    #expect(runs.reduce(0) { $0 + $1.length } == 64 * mebibyte)
                    #expect(try mirror.dirtyForQemu(context) == written, "qemu-img map with \(context)")
                }
                let maps = try mirror.maps(["base:allocation", "repld:dirty", "repld:dirty:p"])
                #expect(maps["repld:dirty"] == written && maps["repld:dirty:p"] == written)
                #expect(maps["base:allocation"] != nil, "beside where it has holes")
                try mirror.set("Resume", "Synchronized")
                #expect(try mirror.changes().runs.isEmpty)
                #expect(try mirror.maps(["repld:dirty"])["repld:dirty"]?.isEmpty == true)
                try mirror.expectEqual("what was listed is what was copied")
            }
        }

        @Test("of a Split pair are told by side, and on the target's own export")
        func bySide() throws {
            try withTestBed { bed in
                let mirror = try bed.mirror(byteCount: 64 * mebibyte)
                try mirror.create()
                try mirror.set("Split", "Split")
                try mirror.write(0x11, mirror.uri, at: 1)
                try mirror.write(0x22, mirror.targetURI, at: 2)
                try mirror.write(0x33, mirror.targetURI, at: 9)
                let both = [Run(mebibyte, 2 * mebibyte), Run(9 * mebibyte, mebibyte)]
                #expect(try mirror.changes("--side", "source").runs == [Run(mebibyte, mebibyte)])
                let target = [Run(2 * mebibyte, mebibyte), Run(9 * mebibyte, mebibyte)]
                #expect(try mirror.changes("--side", "target").runs == target)
                #expect(try mirror.changes().runs == both)
                #expect(try mirror.differingGranules(of: 64 << 10) == both)
                for export in ["v", "p/target"] {
                    let maps = try mirror.maps(["repld:dirty", "repld:dirty:p"], export: export)
                    #expect(maps["repld:dirty"] == both && maps["repld:dirty:p"] == both, "\(export)")
                    let names = try Reply.decode([String].self, mirror.differences("contexts", export: export))
                    #expect(names == ["base:allocation", "repld:dirty", "repld:dirty:p"])
                }
            }
        }

        @Test("of many runs come whole, page by page, and as many as are wanted")
        func many() throws {
            try withTestBed { bed in
                let mirror = try bed.mirror(byteCount: 64 * mebibyte)
                let pair = ["--source", "v", "--target", mirror.target, "--name", "p", "--granule", "4KiB", "--wait"]
                let made = try mirror.daemon.control(["pair", "create"] + pair)
                #expect(made.isSuccess, "\(made)")
                try mirror.set("Suspend", "Suspended")
                try mirror.differences("write", "8192", "2500")
                let written = (0..<2500).map { Run($0 * 8192, 4096) }
                #expect(try mirror.changes().runs == written)
                #expect(try mirror.maps(["repld:dirty"])["repld:dirty"] == written)
                #expect(try mirror.dirtyForQemu("repld:dirty") == written)
                let some = try mirror.changes("--limit", "1200")
                #expect(some.runs == Array(written.prefix(1200)) && some.hasMore)
                let table = try mirror.daemon.controls("pair", "changes", "p", "--limit", "2")
                #expect(
                    table.split(separator: "\n").map { $0.split(separator: " ").map(String.init) }.prefix(3) == [
                        ["OFFSET", "LENGTH", "AT", "SIZE"], ["0", "4096", "0B", "4KiB"],
                        ["8192", "4096", "8KiB", "4KiB"],
                    ]
                )
                #expect(
                    table.contains("2 runs, 8KiB (8192 bytes) may differ (granule 4KiB, Suspended); there are more")
                )
                let refused = try mirror.daemon.control(["pair", "changes", "p", "--side", "left"])
                #expect(!refused.isSuccess && refused.errors.contains("'left'"), "\(refused)")
            }
        }
    }

    /// Bytes that may differ, or do.
    struct Run: Decodable, Equatable {
        var offset: UInt64
        var length: UInt64

        init(_ offset: UInt64, _ length: UInt64) {
            self.offset = offset
            self.length = length
        }

        /// With neighbours made one: clients tell a run in as many pieces as they asked.
        static func joined(_ runs: [Run]) -> [Run] {
            var joined: [Run] = []
            for run in runs {
                if let last = joined.last, last.offset + last.length == run.offset {
                    joined[joined.count - 1].length += run.length
                } else {
                    joined.append(run)
                }
            }
            return joined
        }
    }

    /// What `replctl pair changes --json` prints.
    struct Changes: Decodable {
        var name: String
        var side: String
        var copyState: Reply.Enumerated
        var byteCount: UInt64
        var granuleByteCount: UInt64
        var runs: [Run]
        var runCount: Int
        var changedByteCount: UInt64
        var hasMore: Bool
    }
}

extension Mirror {
    fileprivate typealias Run = SystemTests.Run

    fileprivate func changes(_ arguments: String...) throws -> SystemTests.Changes {
        let outcome = try daemon.control(["pair", "changes", Self.pair, "--json"] + arguments)
        let changes = try Reply.decode(SystemTests.Changes.self, outcome.successfulOutput())
        #expect(changes.name == Self.pair && changes.runCount == changes.runs.count)
        return changes
    }

    /// Runs the script that asks with libnbd.
    @discardableResult
    fileprivate func differences(
        _ mode: String,
        _ arguments: String...,
        export: String = Self.volume
    ) throws -> String {
        try bed.runClient("differences.py", [daemon.nbdSocket, export, mode] + arguments).successfulOutput()
    }

    /// For each context the runs with a flag set.
    fileprivate func maps(_ contexts: [String], export: String = Self.volume) throws -> [String: [Run]] {
        let arguments = [daemon.nbdSocket, export, "map"] + contexts
        let printed = try bed.runClient("differences.py", arguments).successfulOutput()
        let runs = try Reply.decode([String: [[UInt64]]].self, printed)
        return runs.mapValues { runs in Run.joined(runs.filter { $0[2] != 0 }.map { Run($0[0], $0[1]) }) }
    }

    /// What qemu takes for dirty, which it prints as the absence of data.
    fileprivate func dirtyForQemu(_ context: String) throws -> [Run] {
        struct Entry: Decodable {
            var start: UInt64
            var length: UInt64
            var data: Bool
        }
        let options = "driver=nbd,export=\(Self.volume),server.type=unix,server.path=\(daemon.nbdSocket)"
        let image = "\(options),x-dirty-bitmap=\(context)"
        let printed = try bed.runs("qemu-img", ["map", "--output=json", "--image-opts", image])
        let entries = try Reply.decode([Entry].self, printed)
        return Run.joined(entries.filter { !$0.data }.map { Run($0.start, $0.length) })
    }

    /// The granules in which the elements do differ.
    fileprivate func differingGranules(of granule: UInt64) throws -> [Run] {
        let first = try content(of: source)
        let second = try content(of: target)
        #expect(first.count == second.count)
        let differing = stride(from: 0, to: first.count, by: Int(granule)).filter { start in
            let range = start..<min(start + Int(granule), first.count)
            return first[range] != second[range]
        }
        return Run.joined(differing.map { Run(UInt64($0), min(granule, UInt64(first.count - $0))) })
    }

    private func content(of element: String) throws -> Data {
        let file = try FileHandle(forReadingFrom: URL(filePath: element))
        defer { try? file.close() }
        return try file.readToEnd() ?? Data()
    }
}
