import Foundation

/// Two hosts on a cable of their own: network namespaces and a pair of virtual Ethernet devices, gone at the end of the test.
///
/// What is sent between the two hosts, and nothing else, meets what a test does to the cable.
package struct TestNetwork {
    /// One of the two.
    package struct Host: Sendable {
        let name: String
        package let address: String
        let hardwareAddress: String

        /// The command that lets a program run on this host's network.
        ///
        /// Not `ip netns exec`, which gives the program copies of all mounts as well: those hold what is unmounted here.
        package var launcher: [String] { ["nsenter", "--net=\(TestNetwork.directory)/\(name)", "--"] }
    }

    static let directory = "/run/netns"
    private static let device = "cable0"
    /// Nobody's.
    private static let nobody = "02:00:00:00:00:ff"

    package let north: Host
    package let south: Host
    private let bed: TestBed

    package init(bed: TestBed) throws {
        self.bed = bed
        let end = bed.directory.split(separator: "/").last ?? ""
        north = Host(name: "\(end)-north", address: "10.77.0.1", hardwareAddress: "02:00:00:00:00:01")
        south = Host(name: "\(end)-south", address: "10.77.0.2", hardwareAddress: "02:00:00:00:00:02")
        for host in [north, south] {
            try bed.runs("ip", ["netns", "add", host.name])
            bed.onCleanup("remove \(host.name)") { [unowned bed] in
                try bed.runs("ip", ["netns", "delete", host.name])
            }
        }
        let ends = [
            ["name", Self.device, "address", north.hardwareAddress, "netns", north.name],
            ["type", "veth", "peer"],
            ["name", Self.device, "address", south.hardwareAddress, "netns", south.name],
        ]
        try bed.runs("ip", ["link", "add"] + ends.flatMap { $0 })
        for host in [north, south] {
            try ip(host, "address", "add", "\(host.address)/24", "dev", Self.device)
            try ip(host, "link", "set", "lo", "up")
            try ip(host, "link", "set", Self.device, "up")
        }
        for host in [north, south] { try setSilent(host, false) }
    }

    private func other(_ host: Host) -> Host { host.name == north.name ? south : north }

    /// Takes one end of the cable out, or plugs it in: both hosts notice.
    package func setUnplugged(_ isUnplugged: Bool) throws {
        try ip(north, "link", "set", Self.device, isUnplugged ? "down" : "up")
        // What was learnt is forgotten with the device's end.
        if !isUnplugged { for host in [north, south] { try setSilent(host, false) } }
    }

    /// What a host sends is lost without a trace, or arrives again.
    ///
    /// It is addressed to nobody's device.
    package func setSilent(_ host: Host, _ isSilent: Bool) throws {
        let receiver = other(host)
        let hardwareAddress = isSilent ? Self.nobody : receiver.hardwareAddress
        let neighbour = [receiver.address, "lladdr", hardwareAddress, "nud", "permanent", "dev", Self.device]
        try bed.runs("ip", ["-n", host.name, "neighbour", "replace"] + neighbour)
    }

    /// Nothing that either of them sends arrives, or all does again.
    package func setSilent(_ isSilent: Bool) throws {
        for host in [north, south] { try setSilent(host, isSilent) }
    }

    /// Lets the cable carry so many megabits a second each way.
    package func limit(megabitsPerSecond: Int) throws {
        for host in [north, south] {
            let bucket = ["rate", "\(megabitsPerSecond)mbit", "burst", "64kb", "latency", "50ms"]
            try bed.runs("tc", ["-n", host.name, "qdisc", "replace", "dev", Self.device, "root", "tbf"] + bucket)
        }
    }

    /// Takes the limit away.
    package func unlimit() throws {
        for host in [north, south] {
            try bed.runs("tc", ["-n", host.name, "qdisc", "delete", "dev", Self.device, "root"])
        }
    }

    private func ip(_ host: Host, _ arguments: String...) throws {
        try bed.runs("ip", ["-n", host.name] + arguments)
    }
}
