import Glibc
import Testing

@testable import RepldUring

/// What the kernel is told about connections between peers.
@Suite struct PeerOptionTests {
    @Test("The kernel takes little ahead of the link, so that what waits for it waits where it is compressed")
    func littleAhead() throws {
        let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        try #require(descriptor >= 0)
        defer { close(descriptor) }
        setPeerOptions(descriptor)
        var value: Int32 = 0
        var length = socklen_t(MemoryLayout<Int32>.size)
        try #require(getsockopt(descriptor, Int32(IPPROTO_TCP), TCP_NOTSENT_LOWAT, &value, &length) == 0)
        // A piece of a copy, and no more.
        #expect(value == 128 << 10)
    }
}
