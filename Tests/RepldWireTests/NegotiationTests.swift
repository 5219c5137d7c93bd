import RepldCore
import Testing

@testable import RepldWire

@Suite struct NegotiationTests {
    static let session = PairID(high: 1, low: 2)

    static func hello(
        host: UInt64,
        _ versions: ClosedRange<UInt16> = 1...1,
        _ features: UInt64 = 0,
        required: UInt64 = 0
    ) -> Hello {
        Hello(
            lowestVersion: versions.lowerBound,
            highestVersion: versions.upperBound,
            lane: .data,
            features: WireFeatures(rawValue: features),
            requiredFeatures: WireFeatures(rawValue: required),
            session: session,
            host: PairID(high: host, low: 0)
        )
    }

    static func negotiate(_ ours: Hello, _ theirs: Hello) -> Result<WireTerms, NegotiationFailure> {
        do throws(NegotiationFailure) {
            return .success(try WireTerms.negotiate(ours: ours, theirs: theirs))
        } catch {
            return .failure(error)
        }
    }

    /// All pairs of ranges of versions up to 5, against a count of the versions that both speak.
    @Test func versions() {
        let ranges = (UInt16(1)...5).flatMap { low in (low...5).map { low...$0 } }
        for ours in ranges {
            for theirs in ranges {
                let terms = Self.negotiate(Self.hello(host: 1, ours), Self.hello(host: 2, theirs))
                let common = Set(ours).intersection(theirs).max()
                if let common {
                    #expect((try? terms.get())?.version == UInt8(common))
                } else {
                    #expect(terms == .failure(.version(ours: ours, theirs: theirs)))
                }
            }
        }
    }

    /// All sets of three features, had and needed, on both sides; features that only one side knows do no harm.
    @Test func features() {
        for bits in 0..<UInt64(1 << 12) {
            let (ourSet, theirSet) = (bits & 7, bits >> 3 & 7)
            let (ourNeed, theirNeed) = (bits >> 6 & 7 & ourSet, bits >> 9 & 7 & theirSet)
            let ours = Self.hello(host: 1, 1...1, ourSet | 1 << 60, required: ourNeed)
            let theirs = Self.hello(host: 2, 1...1, theirSet | 1 << 61, required: theirNeed)
            let found = Self.negotiate(ours, theirs)
            if ourNeed & ~theirSet != 0 {
                #expect(found == .failure(.missing(WireFeatures(rawValue: ourNeed & ~theirSet), isOurs: false)))
            } else if theirNeed & ~ourSet != 0 {
                #expect(found == .failure(.missing(WireFeatures(rawValue: theirNeed & ~ourSet), isOurs: true)))
            } else {
                #expect((try? found.get())?.features.rawValue == ourSet & theirSet)
                #expect(found == Self.negotiate(theirs, ours))
            }
        }
    }

    @Test func limits() throws {
        var ours = Self.hello(host: 1)
        var theirs = Self.hello(host: 2)
        ours.limits = WireLimits(
            pieceByteCount: 8192,
            windowByteCount: 1 << 30,
            requestCount: 7,
            keepAliveMilliseconds: 50
        )
        theirs.limits = WireLimits(pieceByteCount: 1 << 24, windowByteCount: 65536, requestCount: 9)
        let smaller = WireLimits(
            pieceByteCount: 8192,
            windowByteCount: 65536,
            requestCount: 7,
            keepAliveMilliseconds: 50
        )
        #expect(try WireTerms.negotiate(ours: ours, theirs: theirs).limits == smaller)
        #expect(try WireTerms.negotiate(ours: theirs, theirs: ours).limits == smaller)
        let unusable: [(WireLimits, StaticName)] = [
            (WireLimits(pieceByteCount: 0), "piece"), (WireLimits(pieceByteCount: 4095), "piece"),
            (WireLimits(pieceByteCount: 5000), "piece"), (WireLimits(windowByteCount: 4096), "window"),
            (WireLimits(requestCount: 0), "number of requests"), (WireLimits(keepAliveMilliseconds: 9), "keep-alive"),
        ]
        for (limits, name) in unusable {
            theirs.limits = limits
            #expect(Self.negotiate(Self.hello(host: 1), theirs) == .failure(.limit(name)))
        }
        // Both beyond what a receive buffer holds.
        ours.limits.pieceByteCount = 1 << 20
        theirs.limits = ours.limits
        #expect(Self.negotiate(ours, theirs) == .failure(.limit("piece")))
    }

    @Test func connectionsThatDoNotBelongTogether() {
        let ours = Self.hello(host: 1)
        var theirs = Self.hello(host: 2)
        theirs.lane = .control
        #expect(Self.negotiate(ours, theirs) == .failure(.lane(ours: .data, theirs: .control)))
        theirs.lane = .data
        theirs.session = PairID(high: 1, low: 3)
        #expect(Self.negotiate(ours, theirs) == .failure(.session))
        #expect(Self.negotiate(ours, ours) == .failure(.sameHost))
        let failures: [NegotiationFailure] = [
            .sameHost, .session, .lane(ours: .data, theirs: .control), .version(ours: 1...2, theirs: 3...4),
            .missing(.lz4, isOurs: true), .missing(.lz4, isOurs: false), .limit("piece"),
        ]
        #expect(Set(failures.map(\.words)).count == failures.count)
    }

    /// Whatever was received as a hello can be negotiated with, and gives an answer.
    @Test func anyHelloGivesAnAnswer() {
        var random = RandomSource(seed: 5)
        var decoded = 0
        for _ in 0..<20_000 {
            var bytes = bytes(of: Self.hello(host: random.next(), 1...UInt16(1 + random.below(255)), random.next()))
            for _ in 0..<random.below(3) { bytes[Int(random.below(80))] = UInt8(random.below(256)) }
            guard let hello = try? Hello.decode(bytes.span.bytes) else { continue }
            decoded += 1
            guard case .success(let terms) = Self.negotiate(Self.hello(host: 1, 1...9, 3), hello) else { continue }
            #expect((1...9).contains(terms.version) && terms.features.rawValue & ~3 == 0)
            #expect(terms.limits.pieceByteCount <= WireLimits.pieceByteCountCeiling)
        }
        #expect(decoded > 1000)
    }
}
