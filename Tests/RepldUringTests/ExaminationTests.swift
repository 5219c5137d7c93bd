import CRepldLinux
import Glibc
import RepldCore
import RepldEngine
import Testing

@testable import RepldUring

/// Examinations of bulk data, which a worker carries out beside the loop.
@Suite struct ExaminationTests {
    private static let byteCount = 256 << 10

    @Test(
        "A match is told from data that differs in one byte, wherever that is",
        arguments: DataExamination.Kind.allCases
    )
    func oneByte(kind: DataExamination.Kind) throws {
        var desk = try Desk()
        let first = kind == .isZero ? Memory(Self.byteCount) : Memory(Self.byteCount, seed: 1)
        let second = kind == .isZero ? Memory(Self.byteCount) : Memory(Self.byteCount, seed: 1)
        var answers: [UInt32?] = []
        let places = [0, 4095, 4096, 100_001, Self.byteCount - 1]
        for place in places {
            answers.append(desk.examine(kind, first, second))
            first.bytes[place] ^= 1
            answers.append(desk.examine(kind, first, second))
            first.bytes[place] ^= 1
        }
        #expect(answers == places.flatMap { _ in [1, 0] })
    }

    @Test("Many examinations and reads in flight: each ends once, with its own answer")
    func many() throws {
        let place = try TemporaryDirectory()
        var desk = try Desk(room: 64)
        let element = try desk.attach(place.sparseFile("element", 1 << 20), direct: false)
        let count = 2000
        let size = 8192
        let data = Memory(count * size)
        let read = Memory(4096)
        for index in stride(from: 0, to: count, by: 3) { data.bytes[index * size + size - 1] = 1 }
        for index in 0..<count {
            let bytes = UnsafeRawBufferPointer(data.slice(index * size, size))
            let examination = DataExamination(.isZero, bytes, UnsafeRawBufferPointer(start: nil, count: 0))
            desk.platform.examine(examination, token: Token(rawValue: UInt64(index)))
            if index % 10 == 0 {
                desk.platform.read(element, at: 0, into: read.bytes, token: Token(rawValue: UInt64(count + index)))
            }
        }
        var seen = Set<UInt64>()
        var wrong: [UInt64] = []
        while seen.count < count + count / 10, let completion = desk.next() {
            let name = completion.token.rawValue
            let expected: Int = name >= count ? 4096 : (name % 3 == 0 ? 0 : 1)
            if !completion.succeeded(expected) || !seen.insert(name).inserted { wrong.append(name) }
        }
        #expect(wrong == [])
        #expect(seen.count == count + count / 10)
        desk.platform.detach(element)
    }

    @Test("A loop that waits for nothing else is roused by the answer, before its time is over")
    func rousing() throws {
        var desk = try Desk()
        let memory = Memory(Self.byteCount, seed: 3)
        let bytes = UnsafeRawBufferPointer(memory.bytes)
        for _ in 0..<100 {
            let deadline = Instant.soon(20_000)
            desk.platform.examine(DataExamination(.haveEqualDigests, bytes, bytes), token: Token(rawValue: 9))
            desk.platform.wait(until: deadline, into: &desk.completions)
            let completion = desk.completions.popFirst()
            let isInTime = desk.platform.now < deadline
            #expect(completion?.token == Token(rawValue: 9) && completion?.succeeded(1) == true && isInTime)
        }
    }

    /// The memory is taken away behind the end: under a sanitizer, a look at it would be seen.
    @Test("A worker that ends finishes the job at hand, begins none that waits, and looks at no memory afterwards")
    func endWhileJobsWait() throws {
        let event = repld_eventfd()
        defer { close(event) }
        let count = 500
        for _ in 0..<20 {
            let worker = try Worker<DataJob>(name: "test", capacity: count, eventDescriptor: event)
            var memory: Memory? = Memory(Self.byteCount, seed: 5)
            for index in 0..<count {
                guard let memory else { continue }
                let bytes = UnsafeRawBufferPointer(memory.bytes)
                let id = SlotID(index: UInt32(index), generation: 1)
                worker.enqueue(DataJob(id: id, work: .examine(DataExamination(.haveEqualDigests, bytes, bytes))))
            }
            worker.end()
            memory = nil
            var answers: [UInt32] = []
            while let answer = worker.popAnswer() {
                #expect(answer.count == 1)
                answers.append(answer.id.index)
            }
            #expect(answers == Array(0..<UInt32(answers.count)), "jobs are done in the order of asking")
            worker.end()
            #expect(worker.popAnswer() == nil)
        }
    }
}

extension Desk {
    /// The count of the completion; `nil` when there is none, or it is another's, or a failure.
    mutating func examine(_ kind: DataExamination.Kind, _ first: Memory, _ second: Memory) -> UInt32? {
        let examination = DataExamination(
            kind,
            UnsafeRawBufferPointer(first.bytes),
            UnsafeRawBufferPointer(second.bytes)
        )
        platform.examine(examination, token: Token(rawValue: 7))
        guard let completion = next(), completion.token == Token(rawValue: 7) else { return nil }
        return completion.failure == nil ? completion.count : nil
    }
}
