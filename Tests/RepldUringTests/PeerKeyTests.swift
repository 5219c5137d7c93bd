import Glibc
import RepldUring
import Testing

/// Peers' keys: read, made, refused, and never shown.
@Suite struct PeerKeyTests {
    static let hex = "00112233445566778899aabbccddeeff0f1e2d3c4b5a69788796a5b4c3d2e1f0"
    /// The same 32 bytes.
    static let base64 = "ABEiM0RVZneImaq7zN3u/w8eLTxLWml4h5altMPS4fA="

    private func write(_ text: String, mode: mode_t = 0o600, in place: TemporaryDirectory) -> String {
        let path = place.file("key")
        let descriptor = Glibc.open(path, O_WRONLY | O_CREAT, 0o600)
        _ = Glibc.write(descriptor, text, text.utf8.count)
        fchmod(descriptor, mode)
        close(descriptor)
        return path
    }

    private func reason(_ path: String) -> PeerKeyError.Reason? {
        do throws(PeerKeyError) {
            _ = try PeerKey.read(path: path)
            return nil
        } catch {
            #expect(error.path == path && error.description.hasPrefix(path))
            return error.reason
        }
    }

    @Test("The same bytes are the same key, in hexadecimal or base64, with or without an end of line")
    func forms() throws {
        let place = try TemporaryDirectory()
        let lines = [Self.hex, Self.hex + "\n", Self.hex.uppercased(), Self.base64, Self.base64 + "\n"]
        var names: Set<PeerKey.Identity> = []
        for line in lines {
            let path = write(line, in: place)
            names.insert(try PeerKey.read(path: path).identity)
            try run("rm", path)
        }
        #expect(names.count == 1)
        // HMAC-SHA-256 of the label "repld peer key 1: identity", by another implementation.
        #expect(names.first?.description == "f5a5cfdf160cbf3a4c1e80ea9ccc1664")
    }

    @Test("A key that was made is one that is read, and no file is written over")
    func created() throws {
        let place = try TemporaryDirectory()
        let path = place.file("new")
        let made = try PeerKey.createFile(path: path)
        var status = stat()
        stat(path, &status)
        #expect(status.st_mode & 0o777 == 0o600 && status.st_size == 65)
        #expect(try PeerKey.read(path: path).identity == made.identity)
        #expect(throws: PeerKeyError.self) { try PeerKey.createFile(path: path) }
        #expect(try PeerKey.read(path: path).identity == made.identity)
        let other = try PeerKey.createFile(path: place.file("other"))
        #expect(other.identity != made.identity)
        #expect(try PeerKey.fresh().identity != PeerKey.fresh().identity)
    }

    @Test(
        "What is no line of a key is refused, and why",
        arguments: [
            ("", .notOneLine), ("\n", .notOneLine), (hex + "\n\n", .notOneLine), (hex + "\r\n", .notOneLine),
            (hex + "\n" + hex, .notOneLine), (String(repeating: "x", count: 5000), .notOneLine),
            (" " + hex, .notHexOrBase64), (hex + "0", .notHexOrBase64), (hex + " ", .notHexOrBase64),
            (String(base64.dropLast()), .notHexOrBase64), (base64 + "=", .notHexOrBase64),
            (String(base64.dropLast(2)) + "B=", .notHexOrBase64), ("0x" + hex, .notHexOrBase64),
            (String(hex.dropLast(2)) + "\u{0}\u{0}", .notHexOrBase64), (String(hex.dropLast(4)), .size(byteCount: 30)),
            ("QUJDREVGR0g=", .size(byteCount: 8)), (String(repeating: hex, count: 5), .size(byteCount: 160)),
            (String(repeating: "0", count: 64), .notRandom),
            (String(repeating: "0123456789abcdef", count: 4), .notRandom),
        ] as [(String, PeerKeyError.Reason)]
    )
    func refused(text: String, expected: PeerKeyError.Reason) throws {
        let place = try TemporaryDirectory()
        #expect(reason(write(text, in: place)) == expected)
    }

    @Test(
        "A file that others may read, or somebody else's, or none, is refused",
        arguments: [0o640, 0o604, 0o620, 0o700]
    )
    func readable(mode: UInt32) throws {
        let place = try TemporaryDirectory()
        let path = write(Self.hex, mode: mode_t(mode), in: place)
        #expect(reason(path) == (mode == 0o700 ? nil : .open(mode: mode)))
        chmod(path, 0o600)
        if isRoot {
            chown(path, 65534, 65534)
            #expect(reason(path) == .owner(userID: 65534))
        }
        #expect(reason(place.path) == .notAFile)
        #expect(reason(place.file("none")) == .system(step: "opening it", errorNumber: ENOENT))
        mkfifo(place.file("pipe"), 0o600)
        #expect(reason(place.file("pipe")) == .notAFile)
    }

    @Test("Neither a key nor an error shows the secret")
    func words() throws {
        let place = try TemporaryDirectory()
        let key = try PeerKey.read(path: write(Self.hex, in: place))
        var text = "\(key) \(PeerAddress(host: "host", port: 1, security: .key(key)))"
        dump(key, to: &text)
        #expect(!text.contains(Self.hex.prefix(8)) && text.contains(key.identity.description))
    }

    @Test("A set of keys is replaced as a whole, and bounded")
    func set() throws {
        let (first, second) = (try PeerKey.fresh(), try PeerKey.fresh())
        let keys = PeerKeySet([first])
        #expect(keys.replace(with: [second, first]))
        #expect(keys.current.map(\.identity) == [second.identity, first.identity])
        #expect(!keys.replace(with: Array(repeating: first, count: PeerKeySet.countMax + 1)))
        #expect(keys.current.count == 2)
    }
}
