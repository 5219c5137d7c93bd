import RepldCore
import Testing

@Suite("The bounded queue")
struct BoundedQueueTests {
    @Test("agrees with an array, round and round its ring", arguments: [1, 2, 3, 7, 64])
    func agreesWithNaiveModel(capacity: Int) {
        var random = RandomSource(seed: UInt64(capacity))
        var queue = BoundedQueue<UInt64>(capacity: capacity, blank: 0)
        var model: [UInt64] = []
        for _ in 0..<3000 {
            switch random.below(9) {
            case 0...3 where model.count < capacity:
                let element = random.next()
                queue.append(element)
                model.append(element)
            case 4...6:
                let first = queue.popFirst()
                #expect(first == (model.isEmpty ? nil : model.removeFirst()))
            case 7 where !model.isEmpty:
                let position = Int(random.below(UInt64(model.count)))
                let element = random.next()
                queue.replace(at: position, with: element)
                model[position] = element
            case 8 where random.chance(oneIn: 20):
                queue.removeAll()
                model.removeAll()
            default:
                break
            }
            Self.compare(queue, model)
        }
    }

    private static func compare(_ queue: borrowing BoundedQueue<UInt64>, _ model: [UInt64]) {
        let state = (queue.count, queue.isEmpty, queue.isFull)
        #expect(state == (model.count, model.isEmpty, model.count == queue.capacity))
        var elements: [UInt64] = []
        for position in 0..<queue.count { elements.append(queue[position]) }
        #expect(elements == model)
    }

    @Test("one element too many stops the process")
    func overflow() async {
        await #expect(processExitsWith: .failure) {
            var queue = BoundedQueue<Int>(capacity: 2, blank: 0)
            queue.append(1)
            queue.append(2)
            queue.append(3)
        }
    }

    @Test("a position behind the newest element stops the process")
    func positionOutside() async {
        await #expect(processExitsWith: .failure) {
            var queue = BoundedQueue<Int>(capacity: 2, blank: 0)
            queue.append(1)
            _ = queue[1]
        }
        await #expect(processExitsWith: .failure) {
            var queue = BoundedQueue<Int>(capacity: 2, blank: 0)
            queue.append(1)
            queue.replace(at: -1, with: 0)
        }
    }
}
