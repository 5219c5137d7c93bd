internal import Foundation
internal import Glibc

/// A small NBD client with blocking sockets, enough to put real I/O on a volume: one thread, many requests in flight.
///
/// Fixed newstyle negotiation with GO and simple replies. Source: the NBD protocol document, `doc/proto.md`.
final class DemoClient {
    enum Command: UInt16 { case read = 0, write = 1, disconnect = 2, flush = 3 }

    private let descriptor: Int32
    private(set) var byteCount: UInt64 = 0

    /// Connects to a server's unix socket and chooses an export.
    init(socketPath: String, export: String) throws {
        descriptor = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0)
        guard descriptor >= 0 else { throw DemoError("cannot make a socket: errno \(errno)") }
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        let path = Array(socketPath.utf8)
        guard path.count < MemoryLayout.size(ofValue: address.sun_path) else {
            throw DemoError("the socket path \(socketPath) is too long")
        }
        unsafe withUnsafeMutableBytes(of: &address.sun_path) { unsafe $0.copyBytes(from: path) }
        let result = unsafe withUnsafePointer(to: &address) { pointer in
            unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                unsafe connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_un>.size))
            }
        }
        guard result == 0 else { throw DemoError("cannot connect to \(socketPath): errno \(errno)") }
        try negotiate(export)
    }

    deinit { _ = Glibc.close(descriptor) }

    private func negotiate(_ export: String) throws {
        let greeting = try receive(18)
        guard Array(greeting[0..<16]) == Array("NBDMAGICIHAVEOPT".utf8) else {
            throw DemoError("the server does not speak fixed newstyle NBD")
        }
        // Client flags: fixed newstyle, no zeroes. Then option GO: name, no information requests.
        let name = Array(export.utf8)
        var message: [UInt8] = [0, 0, 0, 3] + Array("IHAVEOPT".utf8) + [0, 0, 0, 7]
        message += bigEndian(UInt32(4 + name.count + 2)) + bigEndian(UInt32(name.count)) + name + [0, 0]
        try send(message)
        while true {
            let header = try receive(20)
            let type = number(header[12..<16])
            let payload = try receive(Int(number(header[16..<20])))
            if type == 1 { return }
            if type == 3, payload.count >= 12, number(payload[0..<2]) == 0 { byteCount = number(payload[2..<10]) }
            if type & 1 << 31 != 0 { throw DemoError("the server refused export \(export): error \(type & 0xFFFF)") }
        }
    }

    /// Sends one request; its reply comes later.
    func start(_ command: Command, cookie: UInt64, offset: UInt64 = 0, length: UInt32 = 0, data: [UInt8] = []) throws {
        var message: [UInt8] = [0x25, 0x60, 0x95, 0x13, 0, 0]
        message.reserveCapacity(28 + data.count)
        message += bigEndian(command.rawValue) + bigEndian(cookie) + bigEndian(offset) + bigEndian(length)
        message += data
        try send(message)
    }

    /// Waits for the next reply, of whichever request: its cookie and its error, 0 for none.
    func nextReply() throws -> (cookie: UInt64, error: UInt32) {
        let header = try receive(16)
        guard number(header[0..<4]) == 0x6744_6698 else {
            throw DemoError("the server sent something that is no reply")
        }
        return (number(header[8..<16]), UInt32(number(header[4..<8])))
    }

    /// Ends the session in order.
    func disconnect() throws { try start(.disconnect, cookie: 0) }

    private func send(_ bytes: [UInt8]) throws {
        var sent = 0
        while sent < bytes.count {
            let result = unsafe bytes.withUnsafeBytes { buffer in
                unsafe Glibc.send(
                    descriptor,
                    buffer.baseAddress.map { unsafe $0 + sent },
                    bytes.count - sent,
                    Int32(MSG_NOSIGNAL)
                )
            }
            if result < 0 && errno == EINTR { continue }
            guard result > 0 else { throw DemoError("the connection to the daemon broke: errno \(errno)") }
            sent += result
        }
    }

    private func receive(_ count: Int) throws -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: count)
        var received = 0
        while received < count {
            let result = unsafe bytes.withUnsafeMutableBytes { buffer in
                unsafe recv(descriptor, buffer.baseAddress.map { unsafe $0 + received }, count - received, 0)
            }
            if result < 0 && errno == EINTR { continue }
            guard result > 0 else { throw DemoError("the connection to the daemon broke: errno \(errno)") }
            received += result
        }
        return bytes
    }

    private func bigEndian<Number: FixedWidthInteger>(_ number: Number) -> [UInt8] {
        unsafe withUnsafeBytes(of: number.bigEndian) { unsafe Array($0) }
    }

    private func number(_ bytes: ArraySlice<UInt8>) -> UInt64 { bytes.reduce(0) { $0 << 8 | UInt64($1) } }
}
