import Foundation
import RepldInspection
import Testing

@Suite struct PeerKeyFileTests {
    @Test func aKeyFileIsItsOwnersAlone() throws {
        let directory = NSTemporaryDirectory() + "repld-test-" + UUID().uuidString.prefix(8)
        try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(atPath: directory) }
        let path = directory + "/key"
        try PeerKeyFile.make(at: path)
        let text = try String(contentsOfFile: path, encoding: .utf8)
        #expect(text.count == 65 && text.hasSuffix("\n"))
        #expect(text.dropLast().allSatisfy { "0123456789abcdef".contains($0) })
        let mode = try FileManager.default.attributesOfItem(atPath: path)[.posixPermissions] as? Int
        #expect(mode == 0o600)
        let error = #expect(throws: PeerKeyFile.MakeError.self) { try PeerKeyFile.make(at: path) }
        #expect(error?.description.contains("exists already") == true)
        #expect(try String(contentsOfFile: path, encoding: .utf8) == text)
        try PeerKeyFile.make(at: directory + "/other")
        #expect(try String(contentsOfFile: directory + "/other", encoding: .utf8) != text)
        let nowhere = #expect(throws: PeerKeyFile.MakeError.self) { try PeerKeyFile.make(at: directory + "/no/key") }
        #expect(nowhere?.description.contains("No such file") == true)
    }
}
