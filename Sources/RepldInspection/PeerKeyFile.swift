internal import Glibc

/// Makes the file with the key by which two hosts know each other.
package enum PeerKeyFile {
    /// Why no file was made.
    package struct MakeError: Error, Hashable, Sendable, CustomStringConvertible {
        package let path: String
        package let errorNumber: Int32

        package var description: String {
            errorNumber == EEXIST
                ? "\(path) exists already; a key is never overwritten, because hosts may still need it"
                : "cannot make \(path): \(unsafe String(cString: strerror(errorNumber)))"
        }
    }

    /// How much of a key nobody can guess.
    package static var byteCount: Int { 32 }

    /// Makes a new key, in a file that its owner alone may read: one line of hexadecimal digits.
    package static func make(at path: String) throws(MakeError) {
        var random = SystemRandomNumberGenerator()
        var text: [UInt8] = []
        for _ in 0..<byteCount {
            let digits = String(UInt8.random(in: .min ... .max, using: &random), radix: 16)
            text += [UInt8](repeating: UInt8(ascii: "0"), count: 2 - digits.utf8.count) + digits.utf8
        }
        text.append(UInt8(ascii: "\n"))
        let file = unsafe open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0o600)
        guard file >= 0 else { throw MakeError(path: path, errorNumber: errno) }
        defer { close(file) }
        let count = unsafe text.withUnsafeBytes { unsafe write(file, $0.baseAddress, $0.count) }
        guard count == text.count, fchmod(file, 0o600) == 0, fsync(file) == 0 else {
            let reason = count == text.count ? errno : ENOSPC
            _ = unsafe unlink(path)
            throw MakeError(path: path, errorNumber: reason)
        }
    }
}
