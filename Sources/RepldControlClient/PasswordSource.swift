internal import Foundation
internal import Glibc
internal import RepldControlAPI

/// Reads passwords from where others do not see them: files, standard input, the terminal without echo.
package enum PasswordSource {
    /// Why no password could be read.
    package struct Refusal: Error, Hashable, Sendable, CustomStringConvertible {
        package let description: String
    }

    /// Far more than a password and the end of its line.
    private static var byteCountMax: Int { 4096 }

    /// The first line of a file; `-` is standard input.
    package static func file(_ path: String) throws(Refusal) -> String {
        let name = path == "-" ? "standard input" : path
        let descriptor = path == "-" ? dup(STDIN_FILENO) : unsafe open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { throw Refusal(description: "cannot open \(name): \(reason)") }
        defer { close(descriptor) }
        return try line(from: descriptor, named: name)
    }

    /// What somebody types at the terminal after `prompt`, without echo.
    ///
    /// Throws when there is no terminal.
    package static func terminal(_ prompt: String) throws(Refusal) -> String {
        let terminal = unsafe open("/dev/tty", O_RDWR | O_CLOEXEC | O_NOCTTY)
        guard terminal >= 0 else {
            throw Refusal(description: "there is no terminal to ask for a password; name a file that holds it")
        }
        defer { close(terminal) }
        var settings = termios()
        guard unsafe tcgetattr(terminal, &settings) == 0 else {
            throw Refusal(description: "cannot switch off the terminal's echo: \(reason)")
        }
        var silent = settings
        // Without signals, as getpass(3) does: one that ends the tool here would leave a terminal without echo.
        silent.c_lflag &= ~tcflag_t(ECHO | ISIG)
        guard unsafe tcsetattr(terminal, TCSAFLUSH, &silent) == 0 else {
            throw Refusal(description: "cannot switch off the terminal's echo: \(reason)")
        }
        defer {
            _ = unsafe tcsetattr(terminal, TCSAFLUSH, &settings)
            write("\n", to: terminal)
        }
        write(prompt, to: terminal)
        let line = try line(from: terminal, named: "the terminal")
        guard !line.utf8.contains(0x03) else { throw Refusal(description: "interrupted") }
        return line
    }

    /// A new password, typed twice.
    package static func newFromTerminal(of user: String) throws(Refusal) -> String {
        let first = try terminal("New password of \(user): ")
        if let fault = PasswordRule.fault(of: first) { throw Refusal(description: fault) }
        guard try terminal("The same again: ") == first else {
            throw Refusal(description: "the two passwords are not the same")
        }
        return first
    }

    private static var reason: String { unsafe String(cString: strerror(errno)) }

    private static func write(_ text: String, to descriptor: Int32) {
        _ = unsafe Glibc.write(descriptor, text, text.utf8.count)
    }

    private static func line(from descriptor: Int32, named name: String) throws(Refusal) -> String {
        var bytes: [UInt8] = []
        var buffer = [UInt8](repeating: 0, count: byteCountMax)
        while !bytes.contains(UInt8(ascii: "\n")) {
            let count = unsafe read(descriptor, &buffer, buffer.count)
            if count < 0 && errno == EINTR { continue }
            guard count >= 0 else { throw Refusal(description: "cannot read \(name): \(reason)") }
            if count == 0 { break }
            bytes += buffer.prefix(count)
            guard bytes.count <= byteCountMax else {
                throw Refusal(description: "\(name) holds more than \(byteCountMax) bytes, which is no password")
            }
        }
        var line = bytes.prefix { $0 != UInt8(ascii: "\n") }
        if line.last == UInt8(ascii: "\r") { line.removeLast() }
        guard !line.isEmpty else { throw Refusal(description: "\(name) holds no password: its first line is empty") }
        guard let text = String(validating: line, as: UTF8.self) else {
            throw Refusal(description: "the password from \(name) is not UTF-8 text")
        }
        return text
    }
}
