import RepldCore
import RepldEngine
import Testing

@Suite("A token")
struct TokenTests {
    @Test("gives back each of its four parts, at the ends of their ranges")
    func roundTrip() {
        for kind in [UInt8(0), 1, .max] {
            for leg in [UInt8(0), 1, .max] {
                for generation in [UInt16(0), 1, .max] {
                    for index in [UInt32(0), 1, .max] {
                        let slot = SlotID(index: index, generation: generation)
                        let token = Token(kind: kind, leg: leg, slot: slot)
                        #expect(token.kind == kind && token.leg == leg && token.slot == slot)
                    }
                }
            }
        }
    }

    @Test("that wakes the loop is no slot's")
    func wake() {
        #expect(Token.wake.rawValue == .max)
        let ordinary = Token(kind: 254, leg: .max, slot: SlotID(index: .max, generation: .max))
        #expect(ordinary != Token.wake)
    }
}
