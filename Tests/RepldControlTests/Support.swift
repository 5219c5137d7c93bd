import Foundation
import Glibc
import Logging
import RepldControl
import RepldControlAPI
import RepldCore
import RepldDataPlane
import RepldEngine
import RepldFormat
import RepldPair
import Synchronization
import SystemPackage
import Testing

/// A directory that goes away with its owner.
final class TemporaryDirectory: Sendable {
    let path: String

    init() throws {
        path = NSTemporaryDirectory() + "repld-test-" + UUID().uuidString.prefix(8)
        try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
    }

    deinit { remove() }

    func remove() { try? FileManager.default.removeItem(atPath: path) }

    func file(_ name: String) -> String { path + "/" + name }

    /// A sparse file to be an element.
    func element(_ name: String, byteCount: UInt64 = 1 << 20) throws -> String {
        try DurableFile.createSparse(FilePath(file(name)), byteCount: byteCount)
        return file(name)
    }
}

/// A service on a fake data plane in a directory of its own.
struct ServiceFixture {
    let directory: TemporaryDirectory
    let plane: FakeDataPlane
    let service: ReplicationService

    init(in directory: TemporaryDirectory? = nil, plane: FakeDataPlane = FakeDataPlane()) throws {
        self.directory = try directory ?? TemporaryDirectory()
        self.plane = plane
        var settings = ReplicationService.Settings(version: "test")
        settings.claimPause = .zero
        service = try ReplicationService(
            plane: plane,
            state: StateDirectory(path: FilePath(self.directory.file("state"))),
            settings: settings,
            logger: .silent
        )
    }

    /// A fixture with volume `db1` and pair `m1`, whose copy has been started unless told otherwise.
    static func paired(activates: Bool = true) async throws -> ServiceFixture {
        let fixture = try ServiceFixture()
        try await fixture.service.start()
        let source = try fixture.directory.element("source")
        let target = try fixture.directory.element("target")
        _ = try await fixture.service.addVolume(VolumeAddRequest(name: "db1", elementPath: source))
        _ = try await fixture.service.createPair(
            PairCreateRequest(sourceVolume: "db1", targetPath: target, name: "m1", activates: activates)
        )
        return fixture
    }

    /// A service over a copy of the state directory as it is now: what a kill at this moment would leave.
    func afterKill() throws -> ServiceFixture {
        let copy = try TemporaryDirectory()
        try FileManager.default.copyItem(atPath: directory.file("state"), toPath: copy.file("state"))
        return try ServiceFixture(in: copy)
    }

    /// Runs `body` while the service takes note of what the plane tells, and returns when it has noted everything.
    ///
    /// The service is stopped afterwards, and still shows what it knows.
    func following(_ body: () async throws -> Void) async throws {
        let follower = Task { await service.followDataPlane() }
        try await body()
        await service.stop()
        await follower.value
    }

    func set(
        _ operation: NumberOrName,
        pair: String = "m1",
        force: Bool = false,
        wait: NumberOrName? = nil,
        timeout: Double? = nil,
        revision: UInt64? = nil
    ) async throws -> MethodReply {
        try await service.setReplicationRelationship(
            pair: pair,
            SetReplicationRelationshipRequest(
                operation: operation,
                force: force,
                waitForCopyState: wait,
                timeoutSeconds: timeout,
                expectedRevision: revision
            )
        )
    }

    /// Adds pair `m2` of `db1`, to an element named `other`.
    func addOtherPair() async throws {
        let other = try directory.element("other")
        _ = try await service.createPair(PairCreateRequest(sourceVolume: "db1", targetPath: other, name: "m2"))
    }

    func metadataPath(_ pair: String = "m1") throws -> String {
        let registry = try Registry(path: FilePath(directory.file("state/registry.json")))
        return directory.file("state/pairs/\(try #require(registry.content.pair(named: pair)).id).meta")
    }

    /// What the metadata of a pair says.
    func record(_ pair: String = "m1") throws -> PairRecord {
        try #require(try PairMetadata.read(MetadataPlace(file: metadataPath(pair))).record)
    }

    /// The pair, once the service has taken note of everything that the plane told.
    func pair(_ name: String = "m1") async throws -> PairReply { try await service.pair(named: name) }
}

/// Runs `body` and gives back the refusal that it ended with.
func refusal(
    _ location: SourceLocation = #_sourceLocation,
    _ body: () async throws -> some Any
) async -> ControlError? {
    let error = await #expect(throws: ControlError.self, sourceLocation: location) { _ = try await body() }
    return error
}

/// Leaves a socket at `path` that nobody listens on, as a killed daemon does.
func makeStaleSocket(at path: String) throws {
    let descriptor = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0)
    defer { close(descriptor) }
    var address = sockaddr_un()
    address.sun_family = sa_family_t(AF_UNIX)
    withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: path.utf8) }
    let result = withUnsafePointer(to: &address) { pointer in
        pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
            bind(descriptor, $0, socklen_t(MemoryLayout<sockaddr_un>.size))
        }
    }
    try #require(result == 0)
}

extension Logger {
    /// Says nothing.
    static var silent: Logger { Logger(label: "test") { _ in SwiftLogNoOpLogHandler() } }
}

/// A list that several tasks add to.
final class LockedList: Sendable {
    private let items = Mutex<[(TemporaryDirectory, String)]>([])

    func append(_ item: (TemporaryDirectory, String)) { items.withLock { $0.append(item) } }

    func takeAll() -> [(TemporaryDirectory, String)] {
        items.withLock { items in
            defer { items = [] }
            return items
        }
    }
}

/// State directories as a kill at one moment or another would leave them.
final class Killed: Sendable {
    private let moments = LockedList()

    func snapshot(_ path: String, _ moment: String) {
        guard let copy = try? TemporaryDirectory() else { return }
        try? FileManager.default.copyItem(atPath: path, toPath: copy.file("state"))
        moments.append((copy, moment))
    }

    func take() -> [(TemporaryDirectory, String)] { moments.takeAll() }
}
