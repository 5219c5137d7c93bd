import CRepldTLS
import Glibc
import RepldCore

/// The secret by which two daemons know each other.
///
/// Both have the same file: one line of at least 32 random bytes in hexadecimal or base64, readable by its owner alone. Each
/// two hosts have a key of their own; who has a key is everybody that it lets in.
///
/// On the wire it is the external pre-shared key of a TLS 1.3 handshake with a fresh Diffie-Hellman exchange (RFC 8446,
/// psk_dhe_ke), so that who learns it later cannot read what was recorded. The secret itself is never used there: the key of
/// the handshake and the name by which a listener finds it are two HMAC-SHA-256 of it under labels of their own. What
/// RFC 9257 asks for is kept: at least 128 bits of randomness, one use and one hash per key, Diffie-Hellman always, a name
/// that tells nothing. The importer of RFC 9258 is not used: OpenSSL 3.0 has no binder label for it. Nor does the handshake
/// tell the two holders of a key apart: that a host was led back to itself shows in the hosts that the hellos name.
///
/// The secret is wiped as soon as both are derived, these when the last reference goes. None of them is ever printed.
@safe
package final class PeerKey: @unchecked Sendable {
    /// The name of a key: it tells nothing of the secret, and everybody on the way sees it.
    package struct Identity: Hashable, Sendable, BitwiseCopyable, CustomStringConvertible {
        package let high: UInt64
        package let low: UInt64

        package var description: String { Self.digits(high) + Self.digits(low) }

        private static func digits(_ number: UInt64) -> String {
            let text = String(number, radix: 16)
            return String(repeating: "0", count: 16 - text.utf8.count) + text
        }
    }

    /// Bytes of secret that make a key.
    package static let byteCounts = 32...128
    /// Fewer different bytes than this in 32 random ones happen once in 2^70 keys.
    static let distinctByteCountMin = 12

    package let identity: Identity
    /// What the handshake uses; at an address that does not move.
    let derived: UnsafeMutablePointer<repld_tls_key>

    /// Derives a key from a secret, which stays the caller's to wipe.
    package init(secret: UnsafeRawBufferPointer) throws(PeerKeyError) {
        guard Self.byteCounts.contains(secret.count) else { throw PeerKeyError(.size(byteCount: secret.count)) }
        guard unsafe Set(secret).count >= Self.distinctByteCountMin else { throw PeerKeyError(.notRandom) }
        let derived = UnsafeMutablePointer<repld_tls_key>.allocate(capacity: 1)
        unsafe derived.initialize(to: repld_tls_key())
        guard unsafe repld_tls_derive(secret.baseAddress, secret.count, derived) == 0 else {
            unsafe derived.deallocate()
            throw PeerKeyError(.library)
        }
        unsafe self.derived = derived
        identity = unsafe withUnsafeBytes(of: &derived.pointee.identity) { unsafe Identity(bytes: $0) }
    }

    deinit {
        unsafe repld_tls_wipe(derived, MemoryLayout<repld_tls_key>.size)
        unsafe derived.deallocate()
    }

    /// A key of 32 new random bytes that nobody else has and that cannot be written down.
    package static func fresh() throws(PeerKeyError) -> PeerKey {
        let secret = try WipedMemory.random(byteCount: byteCounts.lowerBound)
        defer { withExtendedLifetime(secret) {} }
        return try unsafe PeerKey(secret: secret.bytes)
    }

    /// Makes a key of 32 new random bytes and writes it to a new file, durably, before it is used.
    package static func createFile(path: String) throws(PeerKeyError) -> PeerKey {
        do throws(PeerKeyError) {
            let secret = try WipedMemory.random(byteCount: byteCounts.lowerBound)
            let text = WipedMemory(byteCount: 2 * secret.count + 1)
            defer { withExtendedLifetime((secret, text)) {} }
            let key = try unsafe PeerKey(secret: secret.bytes)
            unsafe PeerKeyText.writeLine(of: secret.bytes, into: text.writable)
            try unsafe PeerKeyFile.create(path, text.bytes)
            return key
        } catch {
            throw PeerKeyError(error.reason, path: path)
        }
    }

    /// Reads a key from its file.
    package static func read(path: String) throws(PeerKeyError) -> PeerKey {
        do throws(PeerKeyError) {
            let text = try PeerKeyFile.read(path)
            let secret = WipedMemory(byteCount: text.count)
            defer { withExtendedLifetime((secret, text)) {} }
            let count = try unsafe PeerKeyText.decode(text.bytes, into: secret.writable)
            return try unsafe PeerKey(secret: UnsafeRawBufferPointer(rebasing: secret.bytes[..<count]))
        } catch {
            throw PeerKeyError(error.reason, path: path)
        }
    }
}

extension PeerKey: CustomStringConvertible {
    package var description: String { "peer key \(identity)" }
}

extension PeerKey.Identity {
    /// Of the 16 bytes of a name.
    init(bytes: UnsafeRawBufferPointer) {
        high = UInt64(bigEndian: unsafe bytes.loadUnaligned(fromByteOffset: 0, as: UInt64.self))
        low = UInt64(bigEndian: unsafe bytes.loadUnaligned(fromByteOffset: 8, as: UInt64.self))
    }
}

/// Why there is no key.
package struct PeerKeyError: Error, Sendable, Hashable, CustomStringConvertible {
    package enum Reason: Sendable, Hashable {
        case system(step: String, errorNumber: Int32)
        /// A directory, a device, a pipe.
        case notAFile
        /// Its group or everybody may read, write or execute it.
        case open(mode: UInt32)
        case owner(userID: UInt32)
        /// No line, more than one, or one without an end of its own kind.
        case notOneLine
        case notHexOrBase64
        case size(byteCount: Int)
        case notRandom
        case exists
        /// OpenSSL could not derive anything.
        case library
    }

    /// The file; `nil` where none is meant.
    package let path: String?
    package let reason: Reason

    init(_ reason: Reason, path: String? = nil) {
        self.reason = reason
        self.path = path
    }

    package var description: String {
        let place = path ?? "the peer key"
        let limits = "\(PeerKey.byteCounts.lowerBound) to \(PeerKey.byteCounts.upperBound)"
        return switch reason {
        case .system(let step, let number): "\(place): \(step) failed: \(errorText(number))"
        case .notAFile: "\(place) is not a regular file; a key is kept in a file"
        case .open(let mode):
            "\(place) has mode 0\(String(mode, radix: 8)): others may read the key; make it 0600, "
                + "and make a new key if somebody did"
        case .owner(let user): "\(place) belongs to user \(user); it has to belong to root or to this daemon's user"
        case .notOneLine: "\(place) is not one line of text; give the key in hexadecimal or base64 on a single line"
        case .notHexOrBase64:
            "\(place) is neither hexadecimal nor base64 with its padding; write nothing else on the line"
        case .size(let count): "\(place) holds \(count) bytes; a key has \(limits) random bytes"
        case .notRandom: "\(place) is not random; make the key with a random generator"
        case .exists: "\(place) exists; a key is never overwritten"
        case .library: "\(place): OpenSSL could not derive a key"
        }
    }
}
