import Dispatch
import RepldDataPlane
import Testing

/// Calls that hang.
@Suite struct BlockingCallsTests {
    @Test func aCallThatComesBackGivesItsValue() async {
        let calls = BlockingCalls(limit: .seconds(3600))
        #expect(await calls.call(on: "a") { 7 } == 7)
    }

    @Test func nobodyWaitsForOneThatHangs() async {
        let calls = BlockingCalls(limit: .milliseconds(1))
        let hung = DispatchSemaphore(value: 0)
        let first = await calls.call(on: "a") {
            hung.wait()
            return 1
        }
        #expect(first == nil)
        #expect(await calls.call(on: "a", { Issue.record("one thread that hangs is enough") }) == nil)
        hung.signal()
    }
}
