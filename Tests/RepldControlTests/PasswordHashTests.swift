import Foundation
import RepldControl
import RepldControlAPI
import Synchronization
import Testing

@Suite struct PasswordHashTests {
    @Test(arguments: ["12345678", "pässwörd ünïcode", String(repeating: "x", count: PasswordRule.maximumByteCount)])
    func matchesItsPasswordAndNoOther(password: String) throws {
        let hash = try PasswordHash(of: password, cost: cheapCost)
        #expect(try hash.matches(password))
        for other in [password + "x", String(password.dropLast()), password.uppercased() + "!", ""] {
            #expect(try !hash.matches(other), "\(other)")
        }
        #expect(try PasswordHash(text: hash.text)?.matches(password) == true)
        #expect(!hash.text.contains(password))
    }

    @Test func theSameTwiceIsSaltedTwice() throws {
        let first = try PasswordHash(of: "the same one", cost: cheapCost)
        let second = try PasswordHash(of: "the same one", cost: cheapCost)
        #expect(first.text != second.text)
    }

    /// libxcrypt's own answer, so that what is kept now can be checked by any later version.
    @Test func knowsAHashThatWasKept() throws {
        let kept = "$y$j75$goVp.5A8Fiw24z5tR8SP10$K6vrqvjlZymKpk5B0Qm2gOeF3qIN9JuBV6IOi2lx118"
        let hash = try #require(PasswordHash(text: kept))
        #expect(try hash.matches("hello world"))
        #expect(try !hash.matches("hello worle"))
    }

    @Test(
        arguments: [
            "", "$y$", "x", "$6$salt$hash", "*0",
            "$y$j75$goVp.5A8Fiw24z5tR8SP10$K6vrqvjlZymKpk5B0Qm2gOeF3qIN9JuBV6IOi2lx11",
            "$y$j75$goVp.5A8Fiw24z5tR8SP10$K6vrqvjlZymKpk5B0Qm2gOeF3qIN9JuBV6IOi2lx118x",
            "$y$j75$goVp.5A8Fiw24z5tR8SP1$K6vrqvjlZymKpk5B0Qm2gOeF3qIN9JuBV6IOi2lx118",
            "$y$j75$goVp.5A8Fiw24z5tR8SP1:$K6vrqvjlZymKpk5B0Qm2gOeF3qIN9JuBV6IOi2lx118",
            // A cost that would take hours.
            "$y$jZT$goVp.5A8Fiw24z5tR8SP10$K6vrqvjlZymKpk5B0Qm2gOeF3qIN9JuBV6IOi2lx118",
            "$y$j75$goVp.5A8Fiw24z5tR8SP10$K6vrqvjlZymKpk5B0Qm2gOeF3qIN9JuBV6IOi2lx118$",
            "$7$j75$goVp.5A8Fiw24z5tR8SP10$K6vrqvjlZymKpk5B0Qm2gOeF3qIN9JuBV6IOi2lx118",
        ]
    )
    func aDamagedHashIsNone(text: String) { #expect(PasswordHash(text: text) == nil) }

    @Test(
        arguments: [
            ("1234567", "7 bytes"), ("", "0 bytes"), (String(repeating: "x", count: 512), "512 bytes"),
            ("with\0zero byte", "control character"), ("two\nlines here", "control character"),
        ]
    )
    func refusesThePassword(password: String, words: String) {
        let error = #expect(throws: ControlError.self) { try PasswordHash(of: password, cost: cheapCost) }
        #expect(error?.code == .invalidRequest)
        #expect(error?.message.contains(words) == true, "\(String(describing: error))")
        #expect(password.isEmpty || error?.message.contains(password) == false)
    }

    @Test func nobodysHashTakesTheSameWorkAndMatchesNothing() throws {
        let nobody = try PasswordHash.ofNobody(cost: cheapCost)
        let somebody = try PasswordHash(of: "12345678", cost: cheapCost)
        // The cost is what stands before the salt.
        #expect(nobody.text.split(separator: "$").prefix(2) == somebody.text.split(separator: "$").prefix(2))
        #expect(PasswordHash(text: nobody.text) == nobody)
        #expect(try !nobody.matches("12345678"))
    }
}

@Suite struct PasswordWorkersTests {
    /// Holds up whoever passes until it is opened.
    private final class Gate: Sendable {
        private let semaphore = DispatchSemaphore(value: 0)
        private let inside = Mutex((now: 0, most: 0))

        var mostInside: Int { inside.withLock { $0.most } }

        func pass() {
            inside.withLock { count in
                count.now += 1
                count.most = max(count.most, count.now)
            }
            semaphore.wait()
            inside.withLock { $0.now -= 1 }
        }

        func open(_ count: Int) { for _ in 0..<count { semaphore.signal() } }
    }

    @Test func runsFewAtATimeAndRefusesWhatIsTooMuch() async throws {
        let workers = PasswordWorkers()
        let gate = Gate()
        let most = PasswordWorkers.runningMax + PasswordWorkers.waitingMax
        try await withThrowingTaskGroup(of: Void.self) { group in
            for _ in 0..<most {
                group.addTask { try await workers.run { () throws(ControlError) in gate.pass() } }
            }
            // The last one to be taken in is the last that waits.
            while await workers.waitingCount < PasswordWorkers.waitingMax { await Task.yield() }
            let error = await refusal { try await workers.run { () throws(ControlError) in gate.pass() } }
            #expect(error?.code == .notEnoughResources)
            gate.open(most)
            try await group.waitForAll()
        }
        #expect(gate.mostInside <= PasswordWorkers.runningMax)
        #expect(await workers.runningCount == 0)
        #expect(try await workers.run { () throws(ControlError) in 7 } == 7)
    }

    @Test func aFailureGivesItsPlaceBack() async throws {
        let workers = PasswordWorkers()
        for _ in 0..<PasswordWorkers.runningMax * 3 {
            let error = await refusal {
                try await workers.run { () throws(ControlError) -> Int in throw ControlError(.refused, "no") }
            }
            #expect(error?.code == .refused)
        }
        #expect(await workers.runningCount == 0)
    }
}
