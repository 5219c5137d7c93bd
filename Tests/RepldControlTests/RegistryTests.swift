import Foundation
import RepldControl
import RepldControlAPI
import RepldCore
import RepldPair
import SystemPackage
import Testing

@Suite struct RegistryTests {
    private struct Crash: Error {}

    private func volume(_ number: UInt64, _ name: String) -> VolumeEntry {
        VolumeEntry(
            number: number,
            name: name,
            elementPath: "/dev/\(name)",
            isReadOnly: false,
            createdAt: Date(timeIntervalSince1970: 0)
        )
    }

    private func registry(in directory: TemporaryDirectory) throws -> Registry {
        try Registry(path: FilePath(directory.file("registry.json")))
    }

    private func add(_ entry: VolumeEntry, to registry: inout Registry) throws {
        try registry.commit { content in
            content.volumes.append(entry)
            content.nextVolumeNumber = entry.number + 1
        }
    }

    /// Each time that it was written it went back by a millisecond, in some of all cases.
    @Test func aTimeThatWasReadIsWrittenAsItWasRead() throws {
        for milliseconds in 0..<1000 {
            let digits = String(milliseconds)
            let text = "\"2026-11-23T12:00:00.\(String(repeating: "0", count: 3 - digits.count))\(digits)Z\""
            let date = try ControlJSON.decode(Date.self, from: Data(text.utf8))
            #expect(String(decoding: try ControlJSON.encode(date), as: UTF8.self) == text)
        }
    }

    /// The end of the second area was computed while the first was checked.
    @Test func anAreaWithoutAnEndIsRefused() throws {
        var content = RegistryContent()
        content.volumes = [volume(1, "a")]
        content.nextVolumeNumber = 2
        for (name, number, byteCount) in [("p", 1, 8192), ("q", 2, UInt64.max)] as [(String, UInt64, UInt64)] {
            var pair = PairEntry(
                id: PairID(high: 1, low: number),
                name: name,
                volumeNumber: 1,
                targetPath: "/dev/\(name)",
                settings: PairSettings(),
                createdAt: Date(timeIntervalSince1970: 0),
                revisionLimit: 1
            )
            pair.internalMetadata = InternalMetadata(elementPath: "/dev/m", offset: 4096, byteCount: byteCount)
            content.pairs.append(pair)
        }
        let bytes = try ControlJSON.encode(content)
        let error = #expect(throws: ControlError.self) { try Registry.decode(bytes, of: "/registry.json") }
        #expect(error?.message.contains("pair 'p': its metadata lies over that of pair 'q'") == true)
    }

    /// A write that fails at any step has changed nothing, in memory or in the file, and the next one succeeds.
    @Test(arguments: DurableFile.Step.allCases)
    func aWriteThatFailsChangesNothing(step: DurableFile.Step) throws {
        let directory = try TemporaryDirectory()
        var registry = try registry(in: directory)
        try add(volume(1, "a"), to: &registry)
        registry.atStep = { if $0 == step { throw Crash() } }
        #expect(throws: ControlError.self) { try add(volume(2, "b"), to: &registry) }
        #expect(registry.content.volumes.map(\.name) == ["a"])
        var after = try self.registry(in: directory)
        #expect(after.content.volumes.map(\.name) == ["a"])
        try add(volume(3, "c"), to: &after)
        #expect(try self.registry(in: directory).content == after.content)
        #expect(try FileManager.default.contentsOfDirectory(atPath: directory.path) == ["registry.json"])
    }

    @Test(arguments: DurableFile.Step.allCases)
    func aFirstWriteThatFailsLeavesNoFile(step: DurableFile.Step) throws {
        let directory = try TemporaryDirectory()
        let path = directory.file("registry.json")
        #expect(throws: Crash.self) {
            try DurableFile.replace(FilePath(path), with: Data("new".utf8)) { if $0 == step { throw Crash() } }
        }
        #expect(!FileManager.default.fileExists(atPath: path))
    }

    /// A crash at each step of a change: afterwards the old content is there or the new one, and it can be changed.
    @Test(arguments: DurableFile.Step.allCases)
    func aCrashLeavesTheOldOrTheNew(step: DurableFile.Step) throws {
        let directory = try TemporaryDirectory()
        var registry = try registry(in: directory)
        try add(volume(1, "a"), to: &registry)
        let killed = Killed()
        registry.atStep = { if $0 == step { killed.snapshot(directory.path, "\($0)") } }
        try add(volume(2, "b"), to: &registry)
        let (copy, _) = try #require(killed.take().first)
        var after = try Registry(path: FilePath(copy.file("state/registry.json")))
        let isRenamed = step == .afterRename || step == .afterDirectorySync
        #expect(after.content.volumes.map(\.name) == (isRenamed ? ["a", "b"] : ["a"]))
        try add(volume(3, "c"), to: &after)
        #expect(try Registry(path: FilePath(copy.file("state/registry.json"))).content == after.content)
    }

    @Test(
        arguments: [
            ("", "not valid JSON"), ("garbage", "not valid JSON"),
            (#"{"format":"repld registry","version":1,"volumes":["#, "not valid JSON"),
            (#"{"format":"other","version":1}"#, "its format is 'other', expected 'repld registry'"),
            (#"{"format":"repld registry","version":7}"#, "its version is 7, this daemon knows 1 to 6"),
            (#"{"format":"repld registry","version":1}"#, "the field 'nextVolumeNumber' is missing"),
        ]
    )
    func aDamagedFileIsRefused(text: String, words: String) throws {
        let directory = try TemporaryDirectory()
        try Data(text.utf8).write(to: URL(filePath: directory.file("registry.json")))
        let error = #expect(throws: ControlError.self) { try registry(in: directory) }
        #expect(error?.code == .registryDamaged)
        #expect(error?.message.contains(words) == true, "\(String(describing: error))")
        #expect(error?.suggestion?.contains("backup") == true)
    }

    @Test func everyTruncationIsRefused() throws {
        let directory = try TemporaryDirectory()
        var registry = try registry(in: directory)
        try add(volume(1, "a"), to: &registry)
        let path = URL(filePath: directory.file("registry.json"))
        let whole = try Data(contentsOf: path)
        // The last two bytes are a brace and the end of its line.
        for length in 0..<whole.count - 1 {
            try whole.prefix(length).write(to: path)
            #expect(throws: ControlError.self, "\(length)") { try self.registry(in: directory) }
        }
    }

    @Test func contradictionsAreTold() {
        var content = RegistryContent()
        content.nextVolumeNumber = 3
        content.volumes = [volume(1, "a"), volume(2, "a")]
        #expect(content.fault == "the volume 'a' is listed twice")
        content.volumes = [volume(1, "a"), volume(3, "b")]
        #expect(content.fault == "volume 'b' has number 3, expected one below 3")
        content.volumes = [volume(1, "a")]
        let pair = PairEntry(
            id: PairID(high: 1, low: 2),
            name: "m",
            volumeNumber: 2,
            targetPath: "/dev/t",
            settings: PairSettings(),
            createdAt: Date(timeIntervalSince1970: 0),
            revisionLimit: 1
        )
        content.pairs = [pair]
        #expect(content.fault == "pair 'm' belongs to volume number 2, which is not listed")
    }

    @Test func oneDaemonAtATime() throws {
        let directory = try TemporaryDirectory()
        let first = try StateDirectory(path: FilePath(directory.file("state")))
        let error = #expect(throws: ControlError.self) {
            _ = try StateDirectory(path: FilePath(directory.file("state")))
        }
        let pid = ProcessInfo.processInfo.processIdentifier
        #expect(error?.message == "the state directory \(first.path) is in use by process \(pid)")
    }
}

@Suite struct JSONShapeTests {
    private let date = Date(timeIntervalSince1970: 1_700_000_000.25)

    private func json(_ value: some Encodable) throws -> String {
        String(decoding: try ControlJSON.encode(value), as: UTF8.self)
    }

    @Test func ofARefusal() throws {
        var status = ExtendedStatus(code: "not-in-this-state", message: "no")
        status.copyState = Enumerated(CopyState.suspended)
        status.acceptedFrom = [Enumerated(CopyState.inactive)]
        status.suggestedOperation = Enumerated(ReplicationOperation.resume)
        #expect(
            try json(MethodReply(returnCode: .failed, extendedStatus: status))
                == #"{"extendedStatus":{"acceptedFrom":[{"name":"Inactive","number":8}],"code":"not-in-this-state","#
                + #""copyState":{"name":"Suspended","number":9},"message":"no","#
                + #""suggestedOperation":{"name":"Resume","number":16}},"returnCode":{"name":"Failed","number":4}}"#
        )
    }

    @Test func ofAnEvent() throws {
        let event = EventReply(sequence: 7, time: date, kind: "pair-broken", pair: "m1", message: "gone")
        let text =
            #"{"kind":"pair-broken","message":"gone","pair":"m1","sequence":7,"time":"2023-11-14T22:13:20.250Z"}"#
        #expect(try json(event) == text)
        #expect(try ControlJSON.decode(EventReply.self, from: Data(text.utf8)) == event)
    }

    @Test func ofAVolume() throws {
        let volume = VolumeReply(
            name: "db1",
            elementPath: "/dev/sdb",
            isReadOnly: false,
            status: Enumerated(OperationalStatus.error),
            reason: "gone",
            createdAt: date
        )
        #expect(
            try json(volume)
                == #"{"createdAt":"2023-11-14T22:13:20.250Z","elementPath":"/dev/sdb","isReadOnly":false,"name":"db1","#
                + #""pairs":[],"reason":"gone","status":{"name":"Error","number":6}}"#
        )
    }

    @Test(arguments: [#"{"operation":14}"#, #"{"operation":"ResyncReplica"}"#])
    func ofARequestTakesNumberOrName(text: String) throws {
        let request = try ControlJSON.decodeRequest(
            SetReplicationRelationshipRequest.self,
            from: Data(text.utf8)
        )
        #expect(ReplicationOperation(text: request.operation.description) == .resyncReplica)
    }

    @Test func theStandardsNumbersAreKept() {
        #expect(ReplicationOperation.allCases.map(\.rawValue) == Array(2...27))
        #expect(
            ReturnCode.allCases.map(\.rawValue) == [0, 1, 2, 3, 4, 5, 8, 4096, 40001, 40002, 40003]
        )
    }
}
