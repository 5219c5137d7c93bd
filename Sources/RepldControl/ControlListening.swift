internal import Glibc

/// Where the control plane listens, and who may connect.
package struct ControlListening: Hashable, Sendable {
    package static var keys: [String] { ["socket", "socket-mode", "socket-group", "listen"] }
    /// What fits into `sockaddr_un.sun_path` with its end mark.
    package static var socketPathByteLimit: Int { 107 }

    package var socketPath: String
    /// Permission bits of the socket; whoever may connect and is neither the daemon's user nor root needs a password.
    package var socketMode: UInt32 = 0o600
    /// Group of the socket; `nil` for the daemon's own.
    package var socketGroup: String?
    /// TCP addresses, all of the loopback: passwords travel on them in clear text.
    package var tcp: [HostPort] = []

    package init(socketPath: String, tcp: [HostPort] = []) {
        self.socketPath = socketPath
        self.tcp = tcp
    }

    /// Why no TCP listener may have this address; `nil` when it may.
    package static func fault(of address: HostPort) -> String? {
        guard let isLoopback = isLoopback(address.host) else { return "\(address) is no IP address; \(advice)" }
        return isLoopback ? nil : "\(address) can be reached from other hosts; \(advice)"
    }

    /// The address itself, or a refusal as `fault` words it.
    package static func checked(_ address: HostPort) throws(ControlError) -> HostPort {
        if let fault = fault(of: address) { throw ControlError(.configuration, "cannot listen for control: \(fault)") }
        return address
    }

    private static var advice: String {
        """
        passwords would cross the network in clear text, so that only loopback addresses such as 127.0.0.1:7700 or \
        [::1]:7700 are taken; let others come through a TLS proxy on this host or 'ssh -L 7700:127.0.0.1:7700'
        """
    }

    /// `nil` for what is no IP address.
    private static func isLoopback(_ host: String) -> Bool? {
        var four = in_addr()
        if unsafe inet_pton(AF_INET, host, &four) == 1 { return UInt32(bigEndian: four.s_addr) >> 24 == 127 }
        var six = in6_addr()
        guard unsafe inet_pton(AF_INET6, host, &six) == 1 else { return nil }
        let bytes = unsafe withUnsafeBytes(of: six) { unsafe Array($0) }
        return bytes.last == 1 && bytes.dropLast().allSatisfy { $0 == 0 }
    }

    mutating func read(_ section: YAMLSection) throws(ConfigurationError) {
        if let value = try section.scalar("socket") { socketPath = try value.socketPath() }
        if let value = try section.scalar("socket-mode") { socketMode = try value.fileMode() }
        if let value = try section.scalar("socket-group") {
            socketGroup = try value.read("the name of a group") { $0.isEmpty ? nil : $0 }
        }
        for value in try section.scalars("listen") {
            let address = try value.hostPort()
            if let fault = Self.fault(of: address) { throw value.refusal(fault) }
            tcp.append(address)
        }
    }
}

extension HostPort: CustomStringConvertible {
    package var description: String { host.contains(":") ? "[\(host)]:\(port)" : "\(host):\(port)" }
}
