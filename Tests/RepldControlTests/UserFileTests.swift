import Foundation
import RepldControl
import RepldControlAPI
import SystemPackage
import Testing

@Suite struct UserFileTests {
    private struct Crash: Error {}

    private func path(in directory: TemporaryDirectory) -> FilePath { FilePath(directory.file("users.json")) }

    private func users(in directory: TemporaryDirectory) throws -> UserDirectory {
        try UserDirectory(path: path(in: directory), cost: cheapCost)
    }

    private func request(_ name: String, role: String = "operator") -> UserAddRequest {
        UserAddRequest(name: name, role: role, password: "a good password")
    }

    @Test func keepsUsersOverARestart() async throws {
        let directory = try TemporaryDirectory()
        let users = try users(in: directory)
        #expect(await users.list().users.isEmpty)
        _ = try await users.add(request("olga"))
        _ = try await users.add(request("anna", role: "read-only"))
        let after = try self.users(in: directory)
        #expect(await after.list().users.map(\.name) == ["anna", "olga"])
        #expect(await after.list().users.map(\.role) == ["read-only", "operator"])
        #expect(try await after.entry(named: "olga")?.hash.matches("a good password") == true)
        _ = try await after.setPassword(UserPasswordRequest(password: "a better password"), of: "olga")
        _ = try await after.setRole(UserRoleRequest(role: "operator"), of: "anna")
        try await after.remove(named: "olga")
        let last = try self.users(in: directory)
        #expect(await last.list().users.map(\.name) == ["anna"])
        #expect(await last.entry(named: "anna")?.role == .operator)
    }

    @Test func onlyItsOwnerMayReadTheFile() async throws {
        let directory = try TemporaryDirectory()
        func mode() throws -> Int? {
            let attributes = try FileManager.default.attributesOfItem(atPath: directory.file("users.json"))
            return attributes[.posixPermissions] as? Int
        }
        _ = try await users(in: directory).add(request("olga"))
        #expect(try mode() == 0o600)
        try FileManager.default.setAttributes(
            [.posixPermissions: 0o644],
            ofItemAtPath: directory.file("users.json")
        )
        #expect(try await users(in: directory).list().users.count == 1)
        #expect(try mode() == 0o600, "a copy from a backup may have been readable")
        let text = try String(contentsOfFile: directory.file("users.json"), encoding: .utf8)
        #expect(!text.contains("a good password"))
    }

    /// A write that fails at any step has changed nothing.
    @Test(arguments: DurableFile.Step.allCases)
    func aWriteThatFailsChangesNothing(step: DurableFile.Step) async throws {
        let directory = try TemporaryDirectory()
        let users = try users(in: directory)
        _ = try await users.add(request("a"))
        await users.observeWrites { if $0 == step { throw Crash() } }
        let error = await refusal { try await users.add(request("b")) }
        #expect(error?.code == .stateDirectory)
        #expect(await users.list().users.map(\.name) == ["a"])
        let after = try self.users(in: directory)
        #expect(await after.list().users.map(\.name) == ["a"])
        _ = try await after.add(request("c"))
    }

    private static let hash = "$y$j75$goVp.5A8Fiw24z5tR8SP10$K6vrqvjlZymKpk5B0Qm2gOeF3qIN9JuBV6IOi2lx118"

    private static func text(_ users: String...) -> String {
        #"{"format":"repld users","version":1,"users":[\#(users.joined(separator: ","))]}"#
    }

    private static func user(_ name: String, role: String = "operator", hash: String = Self.hash) -> String {
        #"{"name":"\#(name)","role":"\#(role)","hash":"\#(hash)","createdAt":"2026-01-01T00:00:00.000Z"}"#
    }

    @Test(
        arguments: [
            ("", "not valid JSON"), ("garbage", "not valid JSON"), ("null", "null"),
            (#"{"format":"repld users","version":1,"users":["#, "not valid JSON"),
            (#"{"format":"repld registry","version":1,"users":[]}"#, "its format is 'repld registry'"),
            (#"{"format":"repld users","version":2,"users":[]}"#, "its version is 2, this daemon knows 1"),
            (#"{"format":"repld users","version":1}"#, "the field 'users' is missing"),
            (text(user("a"), user("a")), "the user 'a' is listed twice"),
            (text(user("a b")), "allowed are letters"),
            (text(user("a", role: "root")), "role"),
            (text(user("a", hash: "")), "no yescrypt hash"),
            (text(user("a", hash: "$y$jZT$goVp.5A8Fiw24z5tR8SP10$x")), "no yescrypt hash"),
            (text(user("a", hash: "plain text")), "no yescrypt hash"),
        ]
    )
    func aDamagedFileIsRefused(text: String, words: String) throws {
        let directory = try TemporaryDirectory()
        try Data(text.utf8).write(to: URL(filePath: directory.file("users.json")))
        let error = #expect(throws: ControlError.self) { try users(in: directory) }
        #expect(error?.code == .usersDamaged)
        #expect(error?.message.contains(words) == true, "\(String(describing: error))")
        #expect(error?.message.contains(directory.file("users.json")) == true)
        #expect(ExitStatus.code(for: try #require(error)) == ExitStatus.dataError)
    }

    @Test func everyTruncationIsRefused() async throws {
        let directory = try TemporaryDirectory()
        _ = try await users(in: directory).add(request("a"))
        let path = URL(filePath: directory.file("users.json"))
        let whole = try Data(contentsOf: path)
        // The last two bytes are a brace and the end of its line.
        for length in 0..<whole.count - 1 {
            try whole.prefix(length).write(to: path)
            #expect(throws: ControlError.self, "\(length)") { try self.users(in: directory) }
        }
    }

    @Test func thereIsABoundOnTheirNumber() async throws {
        let directory = try TemporaryDirectory()
        let most = UserContent.userCountMax
        let entries = (0..<most).map { Self.user("u\($0)") }.joined(separator: ",")
        try Data(Self.text(entries).utf8).write(to: URL(filePath: directory.file("users.json")))
        let users = try users(in: directory)
        #expect(await refusal { try await users.add(request("one-more")) }?.code == .notEnoughResources)
        try await users.remove(named: "u0")
        _ = try await users.add(request("one-more"))
        try Data(Self.text(entries, Self.user("last")).utf8).write(to: URL(filePath: directory.file("users.json")))
        #expect(throws: ControlError.self) { try self.users(in: directory) }
    }

    @Test func refusesWhatIsWrong() async throws {
        let directory = try TemporaryDirectory()
        let users = try users(in: directory)
        _ = try await users.add(request("olga"))
        #expect(await refusal { try await users.add(request("olga")) }?.code == .nameInUse)
        #expect(await refusal { try await users.add(request("a:b")) }?.code == .invalidName)
        let role = await refusal { try await users.add(request("x", role: "operater")) }
        #expect(role?.message == "role: found 'operater', expected one of read-only, operator")
        #expect(role?.suggestion == "did you mean 'operator'?")
        let short = UserAddRequest(name: "x", role: "operator", password: "short")
        #expect(await refusal { try await users.add(short) }?.code == .invalidRequest)
        #expect(await refusal { try await users.remove(named: "x") }?.code == .userNotFound)
        let password = UserPasswordRequest(password: "a good password")
        #expect(await refusal { try await users.setPassword(password, of: "x") }?.code == .userNotFound)
        #expect(await refusal { try await users.setRole(.init(role: "operator"), of: "x") }?.code == .userNotFound)
    }

    @Test func oneNameIsGivenToOneOfManyAtOnce() async throws {
        let directory = try TemporaryDirectory()
        let users = try users(in: directory)
        let made = await withTaskGroup(of: Bool.self) { group in
            for _ in 0..<8 { group.addTask { (try? await users.add(request("olga"))) != nil } }
            return await group.reduce(0) { $0 + ($1 ? 1 : 0) }
        }
        #expect(made == 1)
        #expect(try await self.users(in: directory).list().users.map(\.name) == ["olga"])
    }
}
