import Foundation
import RepldTestSupport
import Testing

extension SystemTests {
    /// Two daemons and a pair between them, over TCP on this machine.
    @Suite("Two hosts", .requires(.product("repld"), .product("replctl"), .tool("qemu-io"), .tool("nbdinfo")))
    struct PeerTests {
        private static let byteCount = 64 * mebibyte

        @Test("keep a pair over the end of either daemon, and hosts use the replica only afterwards")
        func pairOverKills() throws {
            try withTestBed { bed in
                let hosts = try TwoHosts(bed, byteCount: Self.byteCount)
                try bed.fill(hosts.source, mebibytes: 20)
                try hosts.connect()
                try hosts.north.controls(
                    "pair",
                    "create",
                    "--source",
                    Mirror.volume,
                    "--target",
                    "repl://south/copy",
                    "--name",
                    Mirror.pair,
                    "--wait"
                )
                #expect(try bed.areEqual(hosts.source, hosts.target), "after the first copy")
                #expect(
                    try !bed.run("nbdinfo", ["--size", hosts.south.uri("copy")]).isSuccess,
                    "only the peer writes it"
                )
                try hosts.write(0x11, at: 1)
                #expect(try bed.areEqual(hosts.source, hosts.target), "a write is on both")

                try hosts.south.kill()
                try hosts.north.waitForCopyState("Partitioned", of: Mirror.pair)
                try hosts.write(0x22, at: 30)
                try hosts.restartSouth()
                try hosts.north.waitForCopyState("Synchronized", of: Mirror.pair)
                #expect(try bed.areEqual(hosts.source, hosts.target), "after the replica's daemon was killed")

                try hosts.north.kill()
                #expect(try !hosts.south.control(["set", Mirror.pair, "Suspend"]).isSuccess)
                #expect(try hosts.south.replica(Mirror.pair).copyState.name == "Synchronized", "as it was told last")
                try hosts.restartNorth()
                try hosts.north.waitForCopyState("Synchronized", of: Mirror.pair)
                try hosts.connect()
                try hosts.south.controls("set", Mirror.pair, "Suspend")
                try hosts.write(0x33, at: 50)
                try hosts.south.controls("set", Mirror.pair, "Resume", "--wait", "Synchronized")
                #expect(
                    try bed.areEqual(hosts.source, hosts.target),
                    "after operations that the replica's host asked for"
                )

                try hosts.north.controls("set", Mirror.pair, "Detach")
                #expect(try hosts.south.controls("pair", "ls").hasPrefix("no pairs"))
                try bed.runs("nbdinfo", ["--size", hosts.south.uri("copy")])
                for daemon in [hosts.north, hosts.south] { #expect(try daemon.stop() == .exited(0)) }
            }
        }

        @Test("do not talk to a host with another key")
        func anotherKey() throws {
            try withTestBed { bed in
                let hosts = try TwoHosts(bed, byteCount: Self.byteCount)
                try hosts.south.controls("peer", "rm", "north")
                try bed.runs(Product.path("replctl"), ["peer", "key-new", bed.path("other")])
                let address = ["--address", hosts.northAddress, "--key-file", bed.path("other")]
                #expect(try hosts.south.control(["peer", "add", "north"] + address).isSuccess)
                try hosts.north.wait(for: "a reason") {
                    try hosts.north.peer("south").reason?.contains("attempt") == false
                }
                #expect(try !hosts.north.peer("south").isConnected && !hosts.south.peer("north").isConnected)
                let pair = ["pair", "create", "--source", Mirror.volume, "--target", "repl://south/copy"]
                let outcome = try hosts.north.control(pair)
                #expect(!outcome.isSuccess && outcome.errors.contains("peer 'south' is not connected"), "\(outcome)")
                #expect(try hosts.south.controls("pair", "ls").hasPrefix("no pairs"))
            }
        }
    }

    /// Daemons `north`, which serves `v`, and `south`, which serves `copy`, each the other's peer.
    private final class TwoHosts {
        let bed: TestBed
        let north: Daemon
        let south: Daemon
        let source: String
        let target: String
        private(set) var northAddress = ""
        private(set) var southAddress = ""

        init(_ bed: TestBed, byteCount: UInt64) throws {
            self.bed = bed
            north = try Daemon(bed: bed, name: "north")
            south = try Daemon(bed: bed, name: "south")
            source = try bed.file("source", byteCount: byteCount)
            target = try bed.file("target", byteCount: byteCount)
            for daemon in [north, south] { try daemon.start(["--peer-listen", "127.0.0.1:0"]) }
            northAddress = try north.peerAddress()
            southAddress = try south.peerAddress()
            let key = bed.path("key")
            try bed.runs(Product.path("replctl"), ["peer", "key-new", key])
            try north.controls("peer", "add", "south", "--address", southAddress, "--key-file", key)
            try south.controls("peer", "add", "north", "--address", northAddress, "--key-file", key)
            try north.controls("volume", "add", Mirror.volume, "--element", source)
            try south.controls("volume", "add", "copy", "--element", target)
        }

        /// Waits until both have found each other.
        func connect() throws {
            for (daemon, peer) in [(north, "south"), (south, "north")] {
                try daemon.wait(for: "\(peer) is connected") { try daemon.peer(peer).isConnected }
            }
        }

        func restartNorth() throws { try north.start(["--peer-listen", northAddress]) }
        func restartSouth() throws { try south.start(["--peer-listen", southAddress]) }

        /// Writes a megabyte of a pattern through NBD, and makes it durable.
        func write(_ pattern: UInt8, at mebibyteOffset: UInt64) throws {
            let command = "write -P \(pattern) \(mebibyteOffset)M 1M"
            try bed.runs("qemu-io", ["-f", "raw", "-c", command, "-c", "flush", north.uri(Mirror.volume)])
        }
    }
}

extension Reply {
    /// A peer as `replctl peer show --json` prints it.
    fileprivate struct Peer: Decodable {
        var isConnected: Bool
        var reason: String?
    }

    /// What a host knows of a pair whose replica it has.
    fileprivate struct Replica: Decodable { var copyState: Enumerated }

    fileprivate struct PeerPlace: Decodable { var peerAddress: String }
}

extension Daemon {
    fileprivate func peer(_ name: String) throws -> Reply.Peer {
        try Reply.decode(Reply.Peer.self, controls("peer", "show", name, "--json"))
    }

    fileprivate func replica(_ name: String) throws -> Reply.Replica {
        try Reply.decode(Reply.Replica.self, controls("pair", "show", name, "--json"))
    }

    /// Where peers connect.
    fileprivate func peerAddress() throws -> String {
        try Reply.decode(Reply.PeerPlace.self, controls("daemon", "--json")).peerAddress
    }
}
