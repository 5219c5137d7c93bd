import Foundation
import RepldTestSupport
import Testing

extension SystemTests {
    /// `replctl metadata dump` beside a daemon and after it.
    @Suite(
        "A metadata dump",
        .requires(.root, .loopDevices, .product("repld"), .product("replctl"), .tool("qemu-io"))
    )
    struct MetadataDumpTests {
        private struct Dump: Decodable {
            struct Block: Decodable {
                struct Record: Decodable {
                    var copyState: String
                    var volumeBytes: UInt64
                }
                var counts: Bool
                var record: Record?
            }
            var blocks: [Block]
        }

        private func dump(_ path: String, _ mirror: Mirror) throws -> Outcome {
            try mirror.bed.run(try Product.path("replctl"), ["metadata", "dump", path, "--json"])
        }

        /// The one file of the state directory that begins as a pair's record does, in its first block or its second.
        private func metadataPath(_ mirror: Mirror) throws -> String {
            let directory = mirror.daemon.stateDirectory
            let names = FileManager.default.enumerator(atPath: directory)?.compactMap { $0 as? String } ?? []
            let path = names.map { "\(directory)/\($0)" }.first { path in
                guard let bytes = FileManager.default.contents(atPath: path), bytes.count >= 8192 else { return false }
                return [0, 4096].contains { bytes.dropFirst($0).starts(with: Array("REPLPAIR".utf8)) }
            }
            return try #require(path, "the pair has a metadata file")
        }

        @Test("is refused while the daemon holds the file, and says what the daemon left behind")
        func besideAndAfterTheDaemon() throws {
            try withTestBed { bed in
                let mirror = try bed.mirror(byteCount: 64 * mebibyte)
                try mirror.create()
                try mirror.set("Suspend", "Suspended")
                try mirror.write(7, mirror.uri, at: 3)
                let path = try metadataPath(mirror)
                let refused = try dump(path, mirror)
                #expect(!refused.isSuccess && refused.errors.contains("\(path) is in use"))
                #expect(try mirror.daemon.stop() == .exited(0))
                let reply = try dump(path, mirror).successfulOutput()
                let dump = try JSONDecoder().decode(Dump.self, from: Data(reply.utf8))
                let record = dump.blocks.first(where: \.counts)?.record
                #expect(record?.copyState == "Suspended" && record?.volumeBytes == 64 * mebibyte)
            }
        }
    }
}
