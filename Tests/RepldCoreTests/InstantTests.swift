import RepldCore
import Testing

@Suite("A moment of the clock")
struct InstantTests {
    @Test("is later by what was added, and the end of time stays the end of time")
    func advances() {
        let start = Instant(nanoseconds: 100)
        #expect(start.advanced(byNanoseconds: 0) == start)
        #expect(start.advanced(byNanoseconds: 1) == Instant(nanoseconds: 101))
        #expect(start.advanced(byNanoseconds: .max - 100) == Instant(nanoseconds: .max))
        #expect(start.advanced(byNanoseconds: .max - 99) == Instant(nanoseconds: .max))
        #expect(Instant(nanoseconds: .max).advanced(byNanoseconds: .max) == Instant(nanoseconds: .max))
    }

    @Test("counts from an earlier moment, and never below zero")
    func measures() {
        let moments = [UInt64(0), 1, 2, .max - 1, .max].map(Instant.init(nanoseconds:))
        for earlier in moments {
            for later in moments {
                let expected = later < earlier ? 0 : later.nanoseconds - earlier.nanoseconds
                #expect(later.nanoseconds(since: earlier) == expected)
            }
        }
    }

    @Test("is ordered as its nanoseconds are")
    func order() {
        #expect(Instant(nanoseconds: 1) < Instant(nanoseconds: 2))
        #expect(!(Instant(nanoseconds: 2) < Instant(nanoseconds: 2)))
        #expect(Instant(nanoseconds: .max) > Instant(nanoseconds: 0))
    }
}
