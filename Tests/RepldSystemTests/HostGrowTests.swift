import Foundation
import RepldTestSupport
import Testing

extension SystemTests {
    /// `replctl volume grow` where the replica is on another host: both elements enlarged, and asked for once.
    @Suite(
        "A growth of a pair between two hosts",
        RequirementTrait(
            requirements: HostPair.requirements + [.tool("fio"), .tool("qemu-io"), .tool("nbdinfo"), .tool("cmp")]
        )
    )
    struct HostGrowTests {
        private static let former = 64 * mebibyte
        private static let wanted = 96 * mebibyte

        @Test("under load copies the new space alone, and the replica that takes over has all of it")
        func underLoad() throws {
            try withTestBed { bed in
                let hosts = try HostPair(bed, network: TestNetwork(bed: bed))
                try bed.fill(hosts.mirror.source, mebibytes: 64)
                try hosts.create()
                let fio = try hosts.mirror.startFio(byteCount: 32 * mebibyte, writesPerSecond: 2000)
                try hosts.mirror.waitForWrites(500)

                // Random, so that a copy which left the new range out would be seen.
                try bed.fill(hosts.mirror.source, mebibytes: 32, at: 64)
                let early = try hosts.grow()
                #expect(!early.isSuccess && early.errors.contains("repl://south/copy"), "\(early)")
                let exact = try hosts.grow("--size", "96MiB")
                #expect(!exact.isSuccess && exact.errors.contains(hosts.mirror.target), "\(exact)")
                #expect(exact.errors.contains("\(Self.former)") && exact.errors.contains("\(Self.wanted)"))
                let there = try hosts.south.control(["volume", "grow", HostPair.copy])
                #expect(!there.isSuccess && there.errors.contains("volume grow \(Mirror.volume)"), "\(there)")

                try bed.runs("truncate", ["--size", "\(Self.wanted)", hosts.mirror.target])
                let words = try hosts.north.controls("volume", "grow", Mirror.volume)
                #expect(words.contains("has grown from 64MiB to 96MiB"), "\(words)")
                #expect(fio.isRunning, "all of that happened under load")
                #expect(try hosts.size(hosts.mirror.uri) == Self.wanted)
                try hosts.mirror.write(0x5a, hosts.mirror.uri, at: 95)
                try hosts.waitForCopyState("Synchronized")
                #expect(try hosts.pair().copy?.totalByteCount == Self.wanted - Self.former, "and nothing else")
                try hosts.expectNoError(fio, byteCount: 32 * mebibyte)
                let shrink = try hosts.grow("--size", "64MiB")
                #expect(!shrink.isSuccess && shrink.errors.contains("cannot shrink"), "\(shrink)")
                try hosts.expectEqual("both elements are equal, the new space included")

                try hosts.north.kill()
                try hosts.south.waitUntilSourceIsGone()
                try hosts.south.controls("set", Mirror.pair, "Failover")
                #expect(try hosts.size(hosts.south.uri(HostPair.copy)) == Self.wanted)
                #expect(try hosts.mirror.holds(0x5a, hosts.south.uri(HostPair.copy), at: 95))
            }
        }

        enum Blow: CaseIterable { case sourceDies, replicaDies, linkIsLost }

        @Test("that is followed by the worst at once is there afterwards, on both hosts", arguments: Blow.allCases)
        func struck(_ blow: Blow) throws {
            try withTestBed { bed in
                let network = try TestNetwork(bed: bed)
                let hosts = try HostPair(bed, network: network)
                try bed.fill(hosts.mirror.source, mebibytes: 64)
                try hosts.create()
                for element in [hosts.mirror.source, hosts.mirror.target] {
                    try bed.runs("truncate", ["--size", "\(Self.wanted)", element])
                }
                try bed.fill(hosts.mirror.source, mebibytes: 32, at: 64)
                try hosts.north.controls("volume", "grow", Mirror.volume)
                switch blow {
                case .sourceDies:
                    try hosts.north.kill()
                    try hosts.startNorth()
                case .replicaDies:
                    try hosts.south.kill()
                    try hosts.startSouth()
                case .linkIsLost:
                    try network.setUnplugged(true)
                    try hosts.waitForCopyState("Partitioned")
                    try network.setUnplugged(false)
                }
                try hosts.waitForCopyState("Synchronized")
                let total = try hosts.pair().copy?.totalByteCount ?? 0
                #expect(total <= Self.wanted - Self.former, "what was known of the former space still is")
                #expect(try hosts.size(hosts.mirror.uri) == Self.wanted)
                try hosts.mirror.write(0x33, hosts.mirror.uri, at: 90)
                try hosts.expectEqual("both elements are equal")
            }
        }
    }
}

extension HostPair {
    /// Asks for a growth of the volume, which may be refused.
    fileprivate func grow(_ arguments: String...) throws -> Outcome {
        try north.control(["volume", "grow", Mirror.volume] + arguments)
    }

    fileprivate func size(_ uri: String) throws -> UInt64? {
        UInt64(try bed.runs("nbdinfo", ["--size", uri]).trimmingCharacters(in: .whitespacesAndNewlines))
    }
}
