import Foundation
import RepldControl
import RepldControlAPI
import RepldControlClient
import SystemPackage
import Testing

@Suite struct FailureDelaysTests {
    private static let peer = ControlPeer.tcp(address: "127.0.0.1")

    @Test func growAndAreBounded() {
        var delays = FailureDelays()
        let found = (0..<12).map { _ in delays.delay(afterFailureOf: "olga", from: Self.peer, at: .zero) }
        let milliseconds = [250, 500, 1000, 2000] + Array(repeating: 4000, count: 8)
        #expect(found == milliseconds.map { .milliseconds($0) })
    }

    @Test func countNamesAndPeersApart() {
        var delays = FailureDelays()
        func fail(_ user: String, _ address: String) -> Duration {
            delays.delay(afterFailureOf: user, from: .tcp(address: address), at: .zero)
        }
        #expect(fail("olga", "127.0.0.1") == .milliseconds(250))
        #expect(fail("anna", "127.0.0.1") == .milliseconds(500), "the peer's second")
        #expect(fail("olga", "127.0.0.2") == .milliseconds(500), "the name's second")
        #expect(fail("rita", "127.0.0.3") == .milliseconds(250))
    }

    @Test func areForgottenWithTimeAndByTheUser() {
        var delays = FailureDelays()
        func fail(_ user: String, _ address: String, at seconds: Int) -> Duration {
            delays.delay(afterFailureOf: user, from: .tcp(address: address), at: .seconds(seconds))
        }
        let forgotten = Int(FailureDelays.forgottenAfter / .seconds(1))
        for _ in 0..<5 { _ = fail("olga", "127.0.0.1", at: 0) }
        #expect(fail("olga", "127.0.0.1", at: forgotten - 1) == FailureDelays.longest)
        #expect(fail("olga", "127.0.0.1", at: 2 * forgotten - 1) == .milliseconds(250))
        for _ in 0..<5 { _ = fail("rita", "127.0.0.2", at: 0) }
        delays.succeeded("rita")
        #expect(fail("rita", "127.0.0.3", at: 0) == .milliseconds(250))
        #expect(fail("olga", "127.0.0.2", at: 0) == .seconds(4), "the peer is not forgotten for one right password")
    }

    @Test func rememberABoundedNumber() {
        var delays = FailureDelays()
        for number in 0..<5000 {
            _ = delays.delay(afterFailureOf: "user\(number)", from: Self.peer, at: .milliseconds(number))
            #expect(delays.trackedCount <= FailureDelays.trackedMax)
        }
        #expect(delays.trackedCount == FailureDelays.trackedMax)
        let newest = delays.delay(afterFailureOf: "user4999", from: .unknown, at: .seconds(5))
        #expect(newest == .milliseconds(500), "the oldest were forgotten, not the newest")
    }
}

@Suite struct AccessTests {
    private let ownUserID: UInt32 = 1000
    private let clock = TurnedClock()
    private let log = LogLines()
    private let directory: TemporaryDirectory

    init() throws { directory = try TemporaryDirectory() }

    private func access() async throws -> (Access, UserDirectory) {
        let path = FilePath(directory.file("users-\(UUID().uuidString).json"))
        let users = try UserDirectory(path: path, cost: cheapCost)
        _ = try await users.add(UserAddRequest(name: "olga", role: "operator", password: "olga's password"))
        let access = Access(users: users, ownUserID: ownUserID, time: clock.timekeeper, logger: log.logger)
        return (access, users)
    }

    private let olga = LoginCredentials(name: "olga", password: "olga's password")

    @Test func ownerAndRootNeedNoPasswordOnTheSocketAndOthersDo() async throws {
        let (access, _) = try await access()
        for userID in [0, ownUserID] {
            let principal = try await access.principal(of: .unix(userID: userID), presenting: nil)
            #expect(principal == Principal(.socketOwner(userID: userID), role: .operator))
        }
        for peer in [.unix(userID: 1001), .unix(userID: nil), .tcp(address: "127.0.0.1"), .unknown] as [ControlPeer] {
            let error = await refusal { try await access.principal(of: peer, presenting: nil) }
            #expect(error?.code == .notAuthenticated, "\(peer)")
            #expect(error?.reply.returnCode == Enumerated(ReturnCode.accessDenied))
            let principal = try await access.principal(of: peer, presenting: olga)
            #expect(principal == Principal(.user("olga"), role: .operator))
        }
        #expect(clock.waits.isEmpty, "nothing was guessed")
    }

    @Test func credentialsOfTheOwnerAreCheckedToo() async throws {
        let (access, users) = try await access()
        _ = try await users.add(UserAddRequest(name: "rita", role: "read-only", password: "rita's password"))
        let rita = LoginCredentials(name: "rita", password: "rita's password")
        #expect(try await access.principal(of: .unix(userID: 0), presenting: rita).role == .readOnly)
        let wrong = LoginCredentials(name: "rita", password: "another password")
        let error = await refusal { try await access.principal(of: .unix(userID: 0), presenting: wrong) }
        #expect(error?.code == .notAuthenticated)
    }

    /// A wrong password, an unknown user and a name that cannot be: one answer, one delay; only the log tells them apart.
    @Test func allWrongCredentialsAreRefusedAlike() async throws {
        var messages: Set<String> = []
        for (name, password, reason) in [
            ("olga", "wrong password", "reason=\"wrong password\""),
            ("nobody", "olga's password", "reason=\"unknown user\""),
            ("a\nforged=line", "olga's password", "reason=\"unknown user\""), ("olga", "", "reason=\"wrong password\""),
            ("olga", String(repeating: "x", count: 600), "reason=\"wrong password\""),
        ] {
            let (access, _) = try await access()
            let credentials = LoginCredentials(name: name, password: password)
            let peer = ControlPeer.tcp(address: "127.0.0.9")
            let error = await refusal { try await access.principal(of: peer, presenting: credentials) }
            messages.insert("\(String(describing: error))")
            let line = try #require(log.all.last)
            #expect(line.contains(reason) && line.contains("peer=127.0.0.9"), "\(line)")
            #expect(!line.contains("forged"), "\(line)")
            #expect(password.isEmpty || reason.contains(password) || !line.contains(password), "\(line)")
        }
        #expect(messages.count == 1)
        #expect(clock.waits == Array(repeating: FailureDelays.first, count: 5))
        #expect(log.all.count == 5)
    }

    @Test func answersMoreSlowlyEachTime() async throws {
        let (access, _) = try await access()
        let wrong = LoginCredentials(name: "olga", password: "wrong password")
        let peer = ControlPeer.tcp(address: "127.0.0.1")
        for _ in 0..<6 {
            _ = await refusal { try await access.principal(of: peer, presenting: wrong) }
            clock.advance(by: .seconds(1))
        }
        #expect(clock.waits == [250, 500, 1000, 2000, 4000, 4000].map { .milliseconds($0) })
        _ = try await access.principal(of: peer, presenting: olga)
        #expect(clock.waits.count == 6, "a right password is not held back")
    }

    @Test func aRemovedUserAndAnOldPasswordAreRefusedAtOnce() async throws {
        let (access, users) = try await access()
        _ = try await users.setPassword(UserPasswordRequest(password: "another one"), of: "olga")
        #expect(await refusal { try await access.principal(of: .unknown, presenting: olga) }?.code == .notAuthenticated)
        let new = LoginCredentials(name: "olga", password: "another one")
        _ = try await access.principal(of: .unknown, presenting: new)
        try await users.remove(named: "olga")
        #expect(await refusal { try await access.principal(of: .unknown, presenting: new) }?.code == .notAuthenticated)
    }

    @Test func thePasswordIsNeverPrinted() {
        for text in ["\(olga)", String(reflecting: olga), String(describing: Optional(olga))] {
            #expect(!text.contains("password"), "\(text)")
        }
    }
}

@Suite struct LoginCredentialsTests {
    private func header(_ text: String) -> String { "Basic " + Data(text.utf8).base64EncodedString() }

    @Test(
        arguments: [
            ("olga:secret one", "olga", "secret one"), ("olga:", "olga", ""), ("olga::a:b:", "olga", ":a:b:"),
            ("ölgä:пароль 密码", "ölgä", "пароль 密码"),
        ]
    )
    func readsTheHeader(text: String, name: String, password: String) throws {
        let found = try LoginCredentials(authorization: header(text))
        #expect(found == LoginCredentials(name: name, password: password))
        let shouted = header(text).replacing("Basic", with: "bAsIc")
        #expect(try LoginCredentials(authorization: shouted) == found)
        let client = ClientCredentials(user: name, password: password).authorization
        #expect(try LoginCredentials(authorization: client) == found)
    }

    @Test(
        arguments: [
            ("", "expected 'Basic' and one value"), ("Basic", "expected 'Basic' and one value"),
            ("Bearer b2xnYTp4", "expected 'Basic' and one value"), ("Basic b2xnYTp", "not Base64"),
            ("Basic b2xn YTp4", "not Base64"), ("Basic b2xnYTp4, Basic b2xnYTp4", "not Base64"),
            ("Basic ????", "not Base64"), ("Basic b2xnYQ==", "no ':'"), ("Basic OnNlY3JldA==", "no name"),
            ("Basic //8=", "not UTF-8"), ("Basic " + String(repeating: "A", count: 2000), "2006 bytes"),
        ]
    )
    func refusesTheHeader(value: String, words: String) {
        let error = #expect(throws: ControlError.self) { try LoginCredentials(authorization: value) }
        #expect(error?.code == .notAuthenticated)
        #expect(error?.message.contains(words) == true, "\(String(describing: error))")
        #expect(value.count < 10 || error?.message.contains(value) == false)
    }

    @Test func everyPasswordFitsIntoTheHeader() throws {
        let name = String(repeating: "n", count: ObjectName.maximumLength)
        let password = String(repeating: "p", count: PasswordRule.maximumByteCount)
        let found = try LoginCredentials(authorization: header("\(name):\(password)"))
        #expect(found == LoginCredentials(name: name, password: password))
    }

    @Test func headerAndBodyHaveToAgree() throws {
        let olga = LoginCredentials(name: "olga", password: "one")
        let other = LoginCredentials(name: "olga", password: "two")
        #expect(try LoginCredentials.agreed(header: nil, body: nil) == nil)
        #expect(try LoginCredentials.agreed(header: olga, body: nil) == olga)
        #expect(try LoginCredentials.agreed(header: nil, body: olga) == olga)
        #expect(try LoginCredentials.agreed(header: olga, body: olga) == olga)
        let error = #expect(throws: ControlError.self) { try LoginCredentials.agreed(header: olga, body: other) }
        #expect(error?.code == .notAuthenticated)
    }

    private func examine(_ text: String) throws -> SetRelationshipAccess? {
        try SetRelationshipAccess(Data(text.utf8))
    }

    @Test func takesCredentialsOutOfTheBody() throws {
        let text =
            #"{"operation":16,"username":"olga","password":"s:ö","timeoutSeconds":1.5,"force":true,"x":[{}, null]}"#
        let found = try #require(try examine(text))
        #expect(found.credentials == LoginCredentials(name: "olga", password: "s:ö"))
        #expect(!found.isPlan)
        let rest = try JSONSerialization.jsonObject(with: found.body) as? NSDictionary
        let expected = #"{"operation":16,"timeoutSeconds":1.5,"force":true,"x":[{}, null]}"#
        #expect(rest == (try JSONSerialization.jsonObject(with: Data(expected.utf8)) as? NSDictionary))
    }

    @Test func keepsLargeNumbers() throws {
        let text = #"{"expectedRevision":18446744073709551615,"a":-9223372036854775808}"#
        let found = try #require(try examine(text))
        struct Numbers: Decodable { var expectedRevision: UInt64, a: Int64 }
        let numbers = try JSONDecoder().decode(Numbers.self, from: found.body)
        #expect(numbers.expectedRevision == .max && numbers.a == .min)
    }

    /// Only what is carried out as a plan counts as one, however the body is written.
    @Test(
        arguments: [
            (#"{"plan":true}"#, true), (#"{"plan":false}"#, false), (#"{"plan":1}"#, false),
            (#"{"plan":"true"}"#, false),
            (#"{"plan":null}"#, false), ("{}", false), (#"{"Plan":true}"#, false),
        ]
    )
    func knowsAPlan(text: String, isPlan: Bool) throws { #expect(try examine(text)?.isPlan == isPlan) }

    @Test(arguments: [#"{"plan":true,"plan":false}"#, #"{"plan":false,"plan":true}"#])
    func aFieldGivenTwiceIsCarriedOutAsItWasAllowed(text: String) throws {
        struct Plan: Decodable { var plan: Bool }
        let found = try #require(try examine(text))
        #expect(try JSONDecoder().decode(Plan.self, from: found.body).plan == found.isPlan)
        #expect(String(decoding: found.body, as: UTF8.self).components(separatedBy: "plan").count == 2)
    }

    @Test(arguments: ["", "[]", "7", "{", "\"text\"", "null"])
    func leavesWhatIsNoObjectToTheMethod(text: String) throws { #expect(try examine(text) == nil) }

    @Test(
        arguments: [
            #"{"username":"olga"}"#, #"{"password":"x"}"#, #"{"username":7,"password":"x"}"#,
            #"{"username":"olga","password":["x"]}"#,
        ]
    )
    func refusesHalfOfThem(text: String) {
        let error = #expect(throws: ControlError.self) { try examine(text) }
        #expect(error?.code == .invalidRequest)
    }
}
