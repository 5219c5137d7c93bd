import RepldCore
import Testing

@Suite("An invariant")
struct InvariantTests {
    @Test("stops the process and says which words were broken, and where")
    func words() async throws {
        let result = await #expect(processExitsWith: .failure, observing: [\.standardErrorContent]) {
            invariant(1 + 1 == 3, "sums come out as they should")
        }
        let said = String(decoding: result?.standardErrorContent ?? [], as: UTF8.self)
        #expect(said.contains("sums come out as they should"))
        #expect(said.contains("InvariantTests.swift"))
    }

    @Test("lets the process go on when it holds")
    func holds() async {
        await #expect(processExitsWith: .exitCode(0)) {
            invariant(1 + 1 == 2, "sums come out as they should")
        }
    }
}

@Suite("A failure of an element")
struct IOFailureTests {
    @Test("has words of its own")
    func words() {
        let words = IOFailure.allCases.map(\.words)
        #expect(Set(words).count == IOFailure.allCases.count)
        #expect(!words.contains(""))
    }
}
