import Foundation
import RepldTestSupport
import Testing

extension SystemTests {
    /// A copy on another host: two daemons, TLS with a key file, and hosts that write through NBD.
    @Suite(
        "A pair between two hosts",
        .requires(
            .product("repld"),
            .product("replctl"),
            .tool("fio"),
            .tool("nbdinfo"),
            .tool("qemu-io"),
            .pythonModule("nbd")
        )
    )
    struct HostPairTests {
        @Test("copies what was there and mirrors what fio writes, and both hosts show it")
        func mirrors() throws {
            try withTestBed { bed in
                let hosts = try HostPair(bed)
                try bed.fill(hosts.mirror.source, mebibytes: 24, at: 32)
                // What an earlier life of the target left there has to go.
                try bed.fill(hosts.mirror.target, mebibytes: 4, at: 58)
                let fio = try hosts.mirror.startFio(byteCount: 16 * mebibyte)
                try hosts.mirror.waitForWrites(100)
                try hosts.create()
                try hosts.expectNoError(fio, byteCount: 16 * mebibyte)
                try hosts.expectEqual("the copy and what was written meanwhile are both there")
                let again = try hosts.mirror.startFio(
                    byteCount: 8 * mebibyte,
                    offset: 8 * mebibyte,
                    blockByteCount: 65536
                )
                try hosts.expectNoError(again, byteCount: 8 * mebibyte)
                try hosts.expectEqual("both elements have every byte that fio wrote")
                let (source, replica) = (try hosts.pair(), try hosts.south.replica(Mirror.pair))
                #expect(source.copyState.name == "Synchronized" && source.dirtyByteCount == 0)
                #expect(source.role == "source" && replica.role == "replica")
                #expect(source.id == replica.id && source.copyState == replica.copyState)
                #expect(source.peer?.name == "south" && source.peer?.volume == HostPair.copy)
                #expect(replica.peer?.name == "north" && replica.peer?.volume == Mirror.volume)
                #expect(source.peer?.isConnected == true && replica.peer?.isConnected == true)
                for daemon in [hosts.north, hosts.south] {
                    let list = try daemon.controls("pair", "ls")
                    #expect(list.contains(Mirror.pair) && list.contains("Synchronized"), "\(list)")
                }
                #expect(try hosts.north.peer("south").pairs == [Mirror.pair])
            }
        }

        @Test("is operated from both, and gives its copy back when it is detached")
        func operated() throws {
            try withTestBed { bed in
                let hosts = try HostPair(bed)
                #expect(try hosts.isCopyExported(), "a volume is its host's own")
                try hosts.create()
                #expect(try !hosts.isCopyExported(), "hosts cannot use a replica")
                let words = try hosts.south.control(["volume", "rm", HostPair.copy])
                #expect(!words.isSuccess && words.errors.contains("replica"), "\(words)")
                try hosts.south.controls("set", Mirror.pair, "Suspend", "--wait", "Suspended")
                #expect(try hosts.pair().copyState.name == "Suspended")
                try hosts.mirror.write(0x41, hosts.mirror.uri, at: 7)
                #expect(try hosts.pair().dirtyByteCount == mebibyte)
                #expect(try !bed.areEqual(hosts.mirror.source, hosts.mirror.target))
                try hosts.south.controls("set", Mirror.pair, "Resume", "--wait", "Synchronized")
                #expect(try hosts.pair().copy?.totalByteCount == mebibyte, "only what was written is looked at")
                try hosts.expectEqual("resumed from the other host")
                try hosts.south.controls("set", Mirror.pair, "Detach")
                for daemon in [hosts.north, hosts.south] {
                    #expect(try !daemon.control(["pair", "show", Mirror.pair]).isSuccess, "the pair is gone")
                }
                #expect(try hosts.mirror.holds(0x41, hosts.south.uri(HostPair.copy), at: 7), "the copy is usable")
                try hosts.mirror.write(0x42, hosts.mirror.uri, at: 7)
                #expect(try hosts.mirror.holds(0x41, hosts.south.uri(HostPair.copy), at: 7), "and left alone")
            }
        }

        @Test(
            "whose target's daemon is killed under load fails not one write, is Partitioned, and comes back by itself"
        )
        func targetKilled() throws {
            try withTestBed { bed in
                let hosts = try HostPair(bed)
                try hosts.create()
                let fio = try hosts.mirror.startFio(byteCount: 24 * mebibyte, writesPerSecond: 750)
                for round in 1...2 {
                    try hosts.mirror.waitForWrites(UInt64(round) * 1000)
                    try hosts.south.kill()
                    try hosts.waitForCopyState("Partitioned")
                    #expect(fio.isRunning, "the load goes on")
                    let broken = try hosts.pair()
                    #expect(broken.reason?.isEmpty == false, "the pair says why")
                    #expect(broken.peer?.isConnected == false && broken.peer?.reason?.isEmpty == false)
                    try hosts.startSouth()
                    try hosts.waitForCopyState("Synchronized")
                }
                try hosts.expectNoError(fio, byteCount: 24 * mebibyte)
                #expect(try hosts.pair().dirtyByteCount == 0)
                try hosts.expectEqual("both elements are equal again")
            }
        }

        @Test("whose source's daemon, or both, are killed under load has every acknowledged write on both elements")
        func sourceKilled() throws {
            try Torture.run("kill of the source's host") { bed, torture in
                let hosts = try HostPair(bed)
                let writes = try hosts.numberedWrites()
                for round in 1...Torture.roundCount {
                    let hot = torture.number(1...7) * 8 * mebibyte
                    // A clean stop leaves bitmaps that say nothing of an earlier copy.
                    let isFresh = round % 2 == 1
                    if isFresh {
                        #expect(try hosts.north.stop() == .exited(0))
                        try hosts.startNorth()
                        try hosts.waitForCopyState("Synchronized")
                    }
                    let count = torture.number(1...3000)
                    let writer = try writes.start(count, within: hot, seed: torture.nextSeed(), kills: true)
                    try writes.finish(writer)
                    _ = try hosts.north.process.wait(atMost: .hang)
                    if !isFresh {
                        try hosts.south.kill()
                        try hosts.startSouth()
                    }
                    try hosts.startNorth()
                    try hosts.north.waitUntilServed(Mirror.volume)
                    try writes.check("round \(round), right after the start")
                    try hosts.waitForCopyState("Synchronized")
                    if isFresh { try CopyBound.expectHeld(hosts.mirror, hotByteCount: hot, "round \(round)") }
                    try hosts.mirror.expectWhole(writes, "round \(round), synchronized again")
                }
            }
        }

        @Test("serves hosts while its target's daemon is away, and costs a copy of what they wrote meanwhile")
        func alone() throws {
            try withTestBed { bed in
                let hosts = try HostPair(bed)
                try bed.fill(hosts.mirror.source, mebibytes: 32)
                try hosts.create()
                try hosts.mirror.write(0x60, hosts.mirror.uri, at: 20)
                try hosts.south.kill()
                try hosts.waitForCopyState("Partitioned")
                try hosts.mirror.write(0x61, hosts.mirror.uri, at: 30)
                #expect(try hosts.north.stop() == .exited(0))
                try hosts.startNorth()
                #expect(try hosts.pair().copyState.name == "Partitioned", "and not less than that")
                let withheld = try hosts.north.control(["volume", "serve", Mirror.volume])
                #expect(!withheld.isSuccess && withheld.errors.contains("waiting for peer 'south'"), "\(withheld)")
                try hosts.north.controls("volume", "serve", Mirror.volume, "--force")
                try hosts.mirror.write(0x62, hosts.mirror.uri, at: 40)
                #expect(try hosts.mirror.holds(0x60, hosts.mirror.uri, at: 20))
                #expect(try hosts.pair().dirtyByteCount == 2 * mebibyte, "what was flushed before does not count")
                #expect(try hosts.north.stop() == .exited(0))
                try hosts.startSouth()
                #expect(try !hosts.isCopyExported(), "a replica without its source is a replica")
                try hosts.startNorth()
                try hosts.waitForCopyState("Synchronized")
                #expect(try hosts.pair().copy?.totalByteCount == 2 * mebibyte)
                try hosts.expectEqual("both elements are equal again")
            }
        }

        @Test("whose hosts do not reach each other is ended by force, on each of them")
        func endedByForce() throws {
            try withTestBed { bed in
                let hosts = try HostPair(bed)
                try hosts.create()
                try hosts.mirror.write(0x71, hosts.mirror.uri, at: 5)
                #expect(try hosts.south.stop() == .exited(0))
                try hosts.waitForCopyState("Partitioned")
                let words = try hosts.mirror.refuses("Detach")
                #expect(words.contains("force") && words.contains("south"), "\(words)")
                try hosts.mirror.set("Detach", isForced: true)
                #expect(try !hosts.north.control(["pair", "show", Mirror.pair]).isSuccess)
                #expect(try hosts.mirror.holds(0x71, hosts.mirror.uri, at: 5))
                #expect(try hosts.north.stop() == .exited(0))
                try hosts.startSouth()
                #expect(try !hosts.isCopyExported(), "it has not heard of the end")
                try hosts.south.controls("set", Mirror.pair, "Detach", "--force")
                #expect(try hosts.mirror.holds(0x71, hosts.south.uri(HostPair.copy), at: 5), "its host's own again")
            }
        }

        @Test("goes on where it was after clean stops of either daemon, under load")
        func stopped() throws {
            try withTestBed { bed in
                let hosts = try HostPair(bed)
                let writes = try hosts.numberedWrites()
                let writer = try writes.start(.max >> 1, seed: 1)
                try hosts.mirror.waitForWrites(500)
                #expect(try hosts.south.stop() == .exited(0))
                try hosts.waitForCopyState("Partitioned")
                #expect(writer.isRunning)
                try hosts.startSouth()
                try hosts.waitForCopyState("Synchronized")
                #expect(try hosts.north.stop() == .exited(0))
                try writes.finish(writer)
                try hosts.expectEqual("a stopped source leaves equal elements")
                try hosts.startNorth()
                try hosts.waitForCopyState("Synchronized")
                let copied = try hosts.north.copiedByteCounts(Mirror.pair)
                #expect(copied.written == 0, "nothing differed: \(copied)")
                try hosts.mirror.expectWhole(writes, "after clean stops")
            }
        }
    }

    /// What a daemon does not know it does not let in.
    @Suite("A peer", .requires(.product("repld"), .product("replctl"), .tool("qemu-io")))
    struct PeerAdmissionTests {
        @Test("with another key is refused in words, and nothing is replicated")
        func wrongKey() throws {
            try withTestBed { bed in
                let hosts = try HostPair(bed)
                let other = bed.path("other.key")
                try hosts.makeKey(hosts.keyFile)
                try hosts.makeKey(other)
                try hosts.north.controls(
                    "peer",
                    "add",
                    "south",
                    "--address",
                    hosts.southAddress,
                    "--key-file",
                    hosts.keyFile
                )
                try hosts.south.controls("peer", "add", "north", "--address", hosts.northAddress, "--key-file", other)
                try hosts.expectRefused { $0.contains("key") }
            }
        }

        @Test("that the other host does not know is refused in words, and nothing is replicated")
        func unknown() throws {
            try withTestBed { bed in
                let hosts = try HostPair(bed)
                try hosts.makeKey(hosts.keyFile)
                try hosts.north.controls(
                    "peer",
                    "add",
                    "south",
                    "--address",
                    hosts.southAddress,
                    "--key-file",
                    hosts.keyFile
                )
                try hosts.expectRefused { $0.contains("key") }
            }
        }
    }
}

extension HostPair {
    /// Fills the volume with numbered blocks and pairs it.
    func numberedWrites() throws -> NumberedWrites {
        // Nobody has used the volume: what is beneath it may be changed.
        let model = try NumberedWrites.fill(mirror.source, byteCount: 64 * mebibyte, bed)
        let writes = NumberedWrites(mirror: mirror, export: Mirror.volume, model: model)
        try create()
        return writes
    }

    /// The source's host says why it is not let in, cannot make a pair, and its writes stay where they are.
    func expectRefused(_ isReason: (String) -> Bool) throws {
        try north.wait(for: "a reason in words", atMost: .hang) {
            let peer = try north.peer("south")
            #expect(!peer.isConnected)
            return peer.reason.map(isReason) ?? false
        }
        let outcome = try north.control(Self.createArguments)
        #expect(!outcome.isSuccess && outcome.errors.contains("not connected"), "\(outcome)")
        #expect(try !north.control(["pair", "show", Mirror.pair]).isSuccess)
        try mirror.write(0x51, mirror.uri, at: 3)
        let empty = try bed.file("empty", byteCount: 64 * mebibyte)
        #expect(try bed.areEqual(mirror.target, empty), "nothing came over")
        #expect(try isCopyExported(), "the volume there is still its own host's")
    }
}
