import Foundation
import Glibc
import RepldCore
import RepldEngine
import RepldUring
import Testing

/// The turn of the loop: queues that are too small, deadlines, and being roused.
@Suite struct LoopTurnTests {
    @Test("More operations in one turn than the ring has entries", arguments: [(8, 16), (8, 1024), (1024, 2048)])
    func fullSubmissionQueue(submission: UInt32, completion: UInt32) throws {
        var options = UringPlatform.Options()
        options.submissionEntries = submission
        options.completionEntries = completion
        try everyOperationEndsOnce(options, room: 1024)
    }

    @Test("Fewer places for completions than completions: the others come with the next waits", arguments: [1, 7])
    func fewPlaces(room: Int) throws {
        try everyOperationEndsOnce(UringPlatform.Options(), room: room)
    }

    private func everyOperationEndsOnce(_ options: UringPlatform.Options, room: Int) throws {
        let place = try TemporaryDirectory()
        let path = try place.sparseFile("element", 4 << 20)
        let count = 1000
        let data = Memory(count * 4096, seed: 11)
        let back = Memory(count * 4096)
        var desk = try Desk(options, room: room)
        let element = try desk.attach(path, direct: false)
        for isRead in [false, true] {
            for index in 0..<count {
                let token = Token(rawValue: UInt64(index))
                if isRead {
                    desk.platform.read(
                        element,
                        at: UInt64(index * 4096),
                        into: back.slice(index * 4096, 4096),
                        token: token
                    )
                } else {
                    let source = UnsafeRawBufferPointer(data.slice(index * 4096, 4096))
                    desk.platform.write(
                        element,
                        at: UInt64(index * 4096),
                        from: source,
                        isDurable: false,
                        token: token
                    )
                }
            }
            var seen = Set<UInt64>()
            while seen.count < count, let completion = desk.next() {
                #expect(completion.succeeded(4096))
                #expect(seen.insert(completion.token.rawValue).inserted)
            }
            #expect(seen.count == count)
        }
        #expect(data.equals(back))
        desk.platform.detach(element)
    }

    @Test("Nothing to wait for: the deadline ends the wait, and not before")
    func deadline() throws {
        var desk = try Desk()
        let deadline = Instant.soon(20)
        desk.platform.wait(until: deadline, into: &desk.completions)
        let isIdle = desk.completions.isEmpty
        #expect(isIdle)
        let before = desk.platform.now
        #expect(before >= deadline)
        desk.platform.wait(until: Instant(nanoseconds: 0), into: &desk.completions)
        let isStillIdle = desk.completions.isEmpty
        #expect(isStillIdle)
        let after = desk.platform.now
        #expect(after >= before)
    }

    @Test("Another thread rouses a loop that would wait for ever")
    func wake() throws {
        var desk = try Desk()
        for _ in 0..<100 {
            let waker = desk.platform.waker
            let thread = try LoopThread(name: "rouser") { waker.wake() }
            desk.platform.wait(until: Instant(nanoseconds: .max), into: &desk.completions)
            let completion = desk.completions.popFirst()
            #expect(completion?.token == .wake)
            thread.join()
        }
    }

    @Test("Many calls of one turn are one completion, and none is lost after it")
    func coalesced() throws {
        var desk = try Desk()
        for _ in 0..<3 {
            for _ in 0..<1000 { desk.platform.waker.wake() }
            let first = desk.next()
            #expect(first?.token == .wake)
            desk.platform.wait(until: .soon(0), into: &desk.completions)
            let isIdle = desk.completions.isEmpty
            #expect(isIdle)
        }
    }

    @Test("A waker may outlive its platform")
    func wakerOutlives() throws {
        let waker: UringWaker
        do {
            let desk = try Desk()
            waker = desk.platform.waker
        }
        waker.wake()
    }

    @Test("A platform that goes with an operation in flight stops the process")
    func gate() async throws {
        // The directory is this process's: the other one does not come to cleaning up.
        let place = try TemporaryDirectory()
        let path = try place.sparseFile("element", 4 << 20)
        await #expect(processExitsWith: .signal(SIGILL)) { [path = path as String] in
            let memory = Memory(4096)
            var desk = try Desk()
            let element = try desk.attach(path)
            desk.platform.read(element, at: 0, into: memory.bytes, token: Token(rawValue: 1))
        }
    }

    @Test("A thread has its name, runs once, and can be joined twice")
    func namedThread() throws {
        let place = try TemporaryDirectory()
        let note = place.file("name")
        let thread = try LoopThread(name: "repld-shard-001") {
            let text = try? run("cat", "/proc/\(getpid())/task/\(gettidText())/comm")
            try? text?.write(toFile: note, atomically: true, encoding: .utf8)
        }
        thread.join()
        thread.join()
        #expect(try String(contentsOfFile: note, encoding: .utf8) == "repld-shard-001")
    }
}

/// The calling thread's number, which Glibc's module cannot ask for.
private func gettidText() -> String {
    var bytes = [CChar](repeating: 0, count: 64)
    let count = readlink("/proc/thread-self", &bytes, 63)
    let text = String(decoding: bytes[..<count].map { UInt8(bitPattern: $0) }, as: UTF8.self)
    return text.split(separator: "/").last.map(String.init) ?? ""
}
