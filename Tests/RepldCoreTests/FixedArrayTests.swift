import RepldCore
import Testing

@Suite("The fixed array")
struct FixedArrayTests {
    @Test("keeps what is put in each place", arguments: [0, 1, 2, 1000])
    func keepsElements(count: Int) {
        var array = FixedArray(count: count) { $0 * 3 }
        for index in 0..<count { array[index] += 1 }
        var sum = 0
        for index in 0..<count { sum += array[index] }
        #expect(sum == 3 * count * max(count - 1, 0) / 2 + count)
        let kept = array.count
        #expect(kept == count)
    }

    @Test("repeats one value")
    func repeats() {
        let array = FixedArray<UInt16>(repeating: 7, count: 5)
        var elements: [UInt16] = []
        for index in 0..<array.count { elements.append(array[index]) }
        #expect(elements == [7, 7, 7, 7, 7])
    }

    /// Counts how many of its kind were let go.
    private final class Counter {
        var releaseCount = 0
    }

    private struct Owned: ~Copyable {
        let counter: Counter
        deinit { counter.releaseCount += 1 }
    }

    @Test("lets go of every element once, also of those that cannot be copied")
    func releasesElements() {
        let counter = Counter()
        do {
            let array = FixedArray(count: 4) { _ in Owned(counter: counter) }
            let count = array.count
            #expect(count == 4)
            #expect(counter.releaseCount == 0)
        }
        #expect(counter.releaseCount == 4)
    }

    @Test("the place behind the last one stops the process")
    func behindTheLast() async {
        await #expect(processExitsWith: .failure) {
            let array = FixedArray(repeating: 0, count: 3)
            _ = array[3]
        }
        await #expect(processExitsWith: .failure) {
            var array = FixedArray(repeating: 0, count: 3)
            array[3] = 1
        }
    }

    @Test("the place before the first one, and any place of an empty table, stop the process")
    func beforeTheFirst() async {
        await #expect(processExitsWith: .failure) {
            let array = FixedArray(repeating: 0, count: 3)
            _ = array[-1]
        }
        await #expect(processExitsWith: .failure) {
            let array = FixedArray(repeating: 0, count: 0)
            _ = array[0]
        }
    }
}
