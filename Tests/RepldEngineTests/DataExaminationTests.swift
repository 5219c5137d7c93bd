import RepldEngine
import Testing

@Suite("The examination of data")
struct DataExaminationTests {
    private static let limit = DataExamination.glanceByteCount

    /// Asks about two buffers of this size that differ (or are not zero) in these places.
    private func ask(_ kind: DataExamination.Kind, _ byteCount: Int, _ places: [Int]) -> (glance: Bool?, all: Bool) {
        var first = [UInt8](repeating: kind == .isZero ? 0 : 7, count: byteCount)
        let second = first
        for place in places { first[place] ^= 0x80 }
        return first.withUnsafeBytes { left in
            second.withUnsafeBytes { right in
                let examination = DataExamination(kind, left, right)
                return (examination.answerAtAGlance, examination.isMatch)
            }
        }
    }

    @Test("What is no larger than a glance is answered by it", arguments: DataExamination.Kind.allCases)
    func small(kind: DataExamination.Kind) {
        for size in [512, Self.limit - 512, Self.limit] {
            for places in [[], [0], [size - 1]] {
                let answer = ask(kind, size, places)
                #expect(answer.glance == places.isEmpty && answer.all == places.isEmpty)
            }
        }
    }

    @Test("A glance at more never says that it matches", arguments: DataExamination.Kind.allCases)
    func large(kind: DataExamination.Kind) {
        let size = Self.limit + 512
        #expect(ask(kind, size, []) == (nil, true))
        #expect(ask(kind, size, [Self.limit]) == (nil, false))
        #expect(ask(kind, size, [size - 1]) == (nil, false))
        let early: Bool? = kind == .haveEqualDigests ? nil : false
        for places in [[0], [Self.limit - 1], [0, size - 1]] {
            #expect(ask(kind, size, places) == (early, false))
        }
    }
}
