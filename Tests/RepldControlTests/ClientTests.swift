import Foundation
import Glibc
import RepldControlClient
import Testing

/// The client against a server that is quicker than the client.
@Suite struct ClientTests {
    @Test func takesTheAnswerOfAServerThatHangsUpAtOnce() async throws {
        let directory = try TemporaryDirectory()
        let server = try HastyServer(path: directory.file("hasty.sock"))
        defer { server.stop() }
        let client = ControlClient(socketPath: directory.file("hasty.sock"))
        // Many at once, so that the client's tasks and its event loops get in each other's way.
        try await withThrowingTaskGroup { group in
            for _ in 0..<32 {
                group.addTask {
                    for _ in 0..<50 {
                        let answer = try await client.bytes(.get, "/v1/daemon")
                        #expect(String(decoding: answer, as: UTF8.self) == "{}")
                    }
                }
            }
            try await group.waitForAll()
        }
    }
}

/// Answers each request as soon as it has its head, without a look at what follows, and hangs up.
private struct HastyServer {
    private let listener: Int32

    init(path: String) throws {
        listener = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        try #require(path.utf8.count < MemoryLayout.size(ofValue: address.sun_path))
        withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: path.utf8) }
        let size = socklen_t(MemoryLayout<sockaddr_un>.size)
        let bound = withUnsafePointer(to: &address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { bind(listener, $0, size) }
        }
        try #require(bound == 0 && listen(listener, 128) == 0)
        Thread.detachNewThread { [listener] in Self.serve(listener) }
    }

    /// Ends the thread, which closes the socket.
    func stop() { _ = shutdown(listener, Int32(SHUT_RDWR)) }

    private static func serve(_ listener: Int32) {
        let answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"
        while true {
            let connection = accept(listener, nil, nil)
            guard connection >= 0 else { break }
            var request = ""
            var buffer = [UInt8](repeating: 0, count: 4096)
            while !request.contains("\r\n\r\n") {
                let count = read(connection, &buffer, buffer.count)
                guard count > 0 else { break }
                request += String(decoding: buffer.prefix(count), as: UTF8.self)
            }
            _ = send(connection, answer, answer.utf8.count, Int32(MSG_NOSIGNAL))
            close(connection)
        }
        close(listener)
    }
}
