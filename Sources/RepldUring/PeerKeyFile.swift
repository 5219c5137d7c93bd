import CRepldTLS
import Glibc
import RepldCore

/// Memory for a secret: overwritten when the last reference goes, which whoever uses its bytes has to hold.
@safe
final class WipedMemory {
    let writable: UnsafeMutableRawBufferPointer

    init(byteCount: Int) {
        unsafe writable = .allocate(byteCount: byteCount, alignment: 16)
        unsafe writable.initializeMemory(as: UInt8.self, repeating: 0)
    }

    deinit {
        unsafe repld_tls_wipe(writable.baseAddress, writable.count)
        unsafe writable.deallocate()
    }

    var count: Int { unsafe writable.count }
    var bytes: UnsafeRawBufferPointer { unsafe UnsafeRawBufferPointer(writable) }

    /// Filled by the kernel's generator; at most 256 bytes.
    static func random(byteCount: Int) throws(PeerKeyError) -> WipedMemory {
        let memory = WipedMemory(byteCount: byteCount)
        guard unsafe getentropy(memory.writable.baseAddress, byteCount) == 0 else {
            throw PeerKeyError(.system(step: "asking for random bytes", errorNumber: errno))
        }
        return memory
    }
}

/// A key's file, and what is asked of it.
enum PeerKeyFile {
    /// Longer than any key's line.
    private static var byteCountMax: Int { 1024 }

    /// What is in the file, if nobody else may read it.
    static func read(_ path: String) throws(PeerKeyError) -> WipedMemory {
        // Not blocking: it may be a pipe.
        let descriptor = unsafe open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY)
        guard descriptor >= 0 else { throw PeerKeyError(.system(step: "opening it", errorNumber: errno)) }
        defer { _ = close(descriptor) }
        var status = stat()
        guard unsafe fstat(descriptor, &status) == 0 else {
            throw PeerKeyError(.system(step: "looking at it", errorNumber: errno))
        }
        guard status.st_mode & S_IFMT == S_IFREG else { throw PeerKeyError(.notAFile) }
        guard status.st_mode & 0o077 == 0 else { throw PeerKeyError(.open(mode: status.st_mode & 0o7777)) }
        guard status.st_uid == 0 || status.st_uid == geteuid() else {
            throw PeerKeyError(.owner(userID: status.st_uid))
        }
        let memory = WipedMemory(byteCount: byteCountMax)
        var count = 0
        while count < byteCountMax {
            let start = unsafe memory.writable.baseAddress.map { unsafe $0 + count }
            let got = unsafe Glibc.read(descriptor, start, byteCountMax - count)
            if got < 0 && errno == EINTR { continue }
            guard got >= 0 else { throw PeerKeyError(.system(step: "reading it", errorNumber: errno)) }
            if got == 0 { break }
            count += got
        }
        guard count < byteCountMax else { throw PeerKeyError(.notOneLine) }
        let text = WipedMemory(byteCount: count)
        unsafe text.writable.copyMemory(from: UnsafeRawBufferPointer(rebasing: memory.bytes[..<count]))
        return text
    }

    /// Writes a file that was not there, for its owner alone; it is on stable storage, or not there.
    static func create(_ path: String, _ text: UnsafeRawBufferPointer) throws(PeerKeyError) {
        let descriptor = unsafe open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0o600)
        guard descriptor >= 0 else {
            throw PeerKeyError(errno == EEXIST ? .exists : .system(step: "creating it", errorNumber: errno))
        }
        defer { _ = close(descriptor) }
        var written = unsafe write(descriptor, text.baseAddress, text.count)
        if written == text.count && fsync(descriptor) != 0 { written = -1 }
        guard written == text.count, isDirectoryDurable(of: path) else {
            let number = written >= 0 && errno == 0 ? ENOSPC : errno
            _ = unsafe unlink(path)
            throw PeerKeyError(.system(step: "writing it", errorNumber: number))
        }
    }

    private static func isDirectoryDurable(of path: String) -> Bool {
        let directory = unsafe open(directoryName(of: path), O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        guard directory >= 0 else { return false }
        defer { _ = close(directory) }
        return fsync(directory) == 0
    }
}

/// A key's text: one line of hexadecimal or base64.
///
/// A line of hexadecimal digits alone is taken as that, so that half a line is not taken for base64. Base64 of a random key
/// looks so once in 10^20 keys.
enum PeerKeyText {
    /// Writes `secret` in hexadecimal with an end of line.
    static func writeLine(of secret: UnsafeRawBufferPointer, into text: UnsafeMutableRawBufferPointer) {
        invariant(text.count == 2 * secret.count + 1, "a line has room for two digits of each byte, and its end")
        for place in 0..<secret.count {
            let byte = unsafe secret[place]
            unsafe text[2 * place] = digit(byte >> 4)
            unsafe text[2 * place + 1] = digit(byte & 15)
        }
        unsafe text[text.count - 1] = newline
    }

    /// Reads the line; the count of bytes in `secret`, which has room for as many as the text has.
    static func decode(
        _ text: UnsafeRawBufferPointer,
        into secret: UnsafeMutableRawBufferPointer
    ) throws(PeerKeyError) -> Int {
        var end = text.count
        if end > 0, unsafe text[end - 1] == newline { end -= 1 }
        guard end > 0 else { throw PeerKeyError(.notOneLine) }
        let line = unsafe UnsafeRawBufferPointer(rebasing: text[..<end])
        guard unsafe !line.contains(where: { $0 == newline || $0 == 13 }) else { throw PeerKeyError(.notOneLine) }
        if unsafe line.allSatisfy({ hexValue($0) != nil }) {
            return try unsafe decodeHex(line, into: secret)
        }
        return try unsafe decodeBase64(line, into: secret)
    }

    @unsafe
    private static func decodeHex(
        _ line: UnsafeRawBufferPointer,
        into secret: UnsafeMutableRawBufferPointer
    ) throws(PeerKeyError) -> Int {
        guard line.count % 2 == 0 else { throw PeerKeyError(.notHexOrBase64) }
        for place in 0..<line.count / 2 {
            let high = unsafe hexValue(line[2 * place]) ?? 0
            unsafe secret[place] = unsafe high << 4 | (hexValue(line[2 * place + 1]) ?? 0)
        }
        return line.count / 2
    }

    /// RFC 4648, section 4, with padding, and with zeroes in the bits that are left over.
    @unsafe
    private static func decodeBase64(
        _ line: UnsafeRawBufferPointer,
        into secret: UnsafeMutableRawBufferPointer
    ) throws(PeerKeyError) -> Int {
        let padding = unsafe line.reversed().prefix { $0 == UInt8(ascii: "=") }.count
        guard line.count % 4 == 0, padding <= 2 else { throw PeerKeyError(.notHexOrBase64) }
        var bits: UInt32 = 0
        var bitCount: UInt32 = 0
        var count = 0
        for place in 0..<line.count - padding {
            guard let value = unsafe base64Value(line[place]) else { throw PeerKeyError(.notHexOrBase64) }
            bits = bits << 6 | UInt32(value)
            bitCount += 6
            guard bitCount >= 8 else { continue }
            bitCount -= 8
            unsafe secret[count] = UInt8(truncatingIfNeeded: bits >> bitCount)
            bits &= 1 << bitCount - 1
            count += 1
        }
        guard bits == 0 else { throw PeerKeyError(.notHexOrBase64) }
        return count
    }

    private static var newline: UInt8 { 10 }

    private static func digit(_ value: UInt8) -> UInt8 {
        value < 10 ? UInt8(ascii: "0") + value : UInt8(ascii: "a") + value - 10
    }

    private static func hexValue(_ byte: UInt8) -> UInt8? {
        switch byte {
        case UInt8(ascii: "0")...UInt8(ascii: "9"): byte - UInt8(ascii: "0")
        case UInt8(ascii: "a")...UInt8(ascii: "f"): byte - UInt8(ascii: "a") + 10
        case UInt8(ascii: "A")...UInt8(ascii: "F"): byte - UInt8(ascii: "A") + 10
        default: nil
        }
    }

    private static func base64Value(_ byte: UInt8) -> UInt8? {
        switch byte {
        case UInt8(ascii: "A")...UInt8(ascii: "Z"): byte - UInt8(ascii: "A")
        case UInt8(ascii: "a")...UInt8(ascii: "z"): byte - UInt8(ascii: "a") + 26
        case UInt8(ascii: "0")...UInt8(ascii: "9"): byte - UInt8(ascii: "0") + 52
        case UInt8(ascii: "+"): 62
        case UInt8(ascii: "/"): 63
        default: nil
        }
    }
}
