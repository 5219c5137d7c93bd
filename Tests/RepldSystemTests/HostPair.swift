import Foundation
import Glibc
import RepldTestSupport
import Testing

/// Two daemons that stand for two hosts: `north` serves volume `v`, `south` has volume `copy`, paired as `p` where a test has asked
/// for that.
struct HostPair {
    let bed: TestBed
    /// The pair as its source's host has it.
    let mirror: Mirror
    let south: Daemon
    /// Where the daemons listen to each other.
    let northAddress: String
    let southAddress: String

    /// What tests of two hosts need besides their own tools.
    static let requirements: [Requirement] = [
        .root, .product("repld"), .product("replctl"), .tool("ip"), .tool("tc"),
    ]
    static let copy = "copy"
    /// Seconds of silence after which a link is lost.
    static let silenceLimit = 5.0
    /// What a host may wait at most when a link is lost: the silence, and what a busy machine takes to notice and go on.
    static let longestWait = silenceLimit + 5

    var north: Daemon { mirror.daemon }
    /// The key that both daemons have.
    var keyFile: String { bed.path("peers.key") }

    /// Starts the daemons and adds their volumes; on the same network, or each on its own of two.
    init(_ bed: TestBed, byteCount: UInt64 = 64 * mebibyte, network: TestNetwork? = nil) throws {
        self.bed = bed
        let source = try bed.file("source", byteCount: byteCount)
        let target = try bed.file("target", byteCount: byteCount)
        let loopback = try Self.loopbackAddress()
        northAddress = "\(network?.north.address ?? loopback):7733"
        southAddress = "\(network?.south.address ?? loopback):7734"
        let north = try Daemon(bed: bed, name: "north", host: network?.north)
        south = try Daemon(bed: bed, name: "south", host: network?.south)
        mirror = Mirror(bed: bed, daemon: north, source: source, target: target)
        try startNorth()
        try startSouth()
        try north.controls("volume", "add", Mirror.volume, "--element", source)
        try south.controls("volume", "add", Self.copy, "--element", target)
    }

    func startNorth() throws { try north.start(["--peer-listen", northAddress]) }
    func startSouth() throws { try south.start(["--peer-listen", southAddress]) }

    /// An address of this machine that nobody else uses: each pair of daemons has one, and so any port it likes, also when one of them
    /// is started again.
    private static func loopbackAddress() throws -> String {
        let numbers = (0..<3).map { _ in Int.random(in: 1...254) }
        return "127." + numbers.map(String.init).joined(separator: ".")
    }

    // MARK: - Peers and pairs

    /// Makes a key file.
    func makeKey(_ path: String) throws {
        try bed.runs(try Product.path("replctl"), ["peer", "key-new", path])
    }

    /// Makes each daemon known to the other, by the same key, and waits until they are connected.
    func connect() throws {
        try makeKey(keyFile)
        try north.controls(
            "peer",
            "add",
            "south",
            "--address",
            southAddress,
            "--key-file",
            keyFile,
            "--compress",
            "off"
        )
        try south.controls(
            "peer",
            "add",
            "north",
            "--address",
            northAddress,
            "--key-file",
            keyFile,
            "--compress",
            "off"
        )
        try north.waitForPeer("south")
        try south.waitForPeer("north")
    }

    static var createArguments: [String] {
        ["pair", "create", "--source", Mirror.volume, "--target", "repl://south/\(copy)", "--name", Mirror.pair]
    }

    /// Pairs the two volumes and waits until they are equal.
    func create() throws {
        try connect()
        let outcome = try north.control(Self.createArguments + ["--wait"])
        #expect(outcome.isSuccess, "\(outcome)")
        #expect(try pair().copyState == Reply.Enumerated(number: 4, name: "Synchronized"))
    }

    /// The pair as its source's host tells of it.
    func pair() throws -> Reply.Pair { try north.pair(Mirror.pair) }

    func waitForCopyState(_ name: String) throws { try north.waitForCopyState(name, of: Mirror.pair) }

    /// Whether hosts of the copy's own host can choose it.
    func isCopyExported() throws -> Bool { try bed.run("nbdinfo", ["--size", south.uri(Self.copy)]).isSuccess }

    func expectEqual(_ words: String) throws { try mirror.expectEqual(words) }

    // MARK: - Load

    /// Every write succeeded and was read back as written, and none took longer than a host may wait.
    func expectNoError(_ fio: Child, byteCount: UInt64) throws {
        try mirror.expectNoError(fio, byteCount: byteCount)
        let report = try Reply.decode(Reply.Fio.self, fio.output())
        let longest = try #require(report.jobs.first?.write.lat_ns).max / 1_000_000_000
        #expect(longest < Self.longestWait, "the longest write took \(longest) s")
        #expect(try north.activity(Mirror.volume).failedRequestCount == 0)
    }
}

extension Daemon {
    func peer(_ name: String) throws -> Reply.Peer {
        try Reply.decode(Reply.Peer.self, controls("peer", "show", name, "--json"))
    }

    func waitForPeer(_ name: String, isConnected: Bool = true, atMost limit: Duration = .hang) throws {
        let words = "peer \(name) is \(isConnected ? "connected" : "away")"
        try wait(for: words, atMost: limit) { try peer(name).isConnected == isConnected }
    }
}
