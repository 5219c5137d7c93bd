import RepldCore
import Testing

@Suite("The repeatable random source")
struct RandomSourceTests {
    /// The first numbers of SplitMix64 from seed 1234567, as its authors' C program prints them.
    @Test("gives the published numbers for a seed")
    func publishedNumbers() {
        var random = RandomSource(seed: 1_234_567)
        let numbers = (0..<5).map { _ in random.next() }
        #expect(
            numbers == [
                6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423,
                4_593_380_528_125_082_431, 16_408_922_859_458_223_821,
            ]
        )
    }

    @Test("stays below its bound and reaches both ends", arguments: [UInt64(1), 2, 3, 10])
    func bounds(bound: UInt64) {
        var random = RandomSource(seed: bound)
        var seen: Set<UInt64> = []
        for _ in 0..<1000 { seen.insert(random.below(bound)) }
        #expect(seen == Set(0..<bound))
    }

    @Test("a chance of one in none never comes, of one in one always")
    func chances() {
        var random = RandomSource(seed: 1)
        var hits = [UInt64: Int]()
        for oneIn in [UInt64(0), 1, 4] {
            hits[oneIn] = (0..<4000).count { _ in random.chance(oneIn: oneIn) }
        }
        #expect(hits[0] == 0)
        #expect(hits[1] == 4000)
        #expect((800...1200).contains(hits[4] ?? 0))
    }

    @Test("no range at all stops the process")
    func emptyRange() async {
        await #expect(processExitsWith: .failure) {
            var random = RandomSource(seed: 1)
            _ = random.below(0)
        }
    }
}
