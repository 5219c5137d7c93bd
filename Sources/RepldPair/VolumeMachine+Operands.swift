package import RepldCore

/// What the engine asks of a slot whose operation ends.
extension VolumeMachine {
    /// What the engine needs to know of a slot when an operation of it ends.
    package struct Operands: BitwiseCopyable {
        package enum Examination: UInt8, BitwiseCopyable { case none, isZero, isEqual, haveEqualDigests }

        package var extent: Extent
        package var buffer: BufferID
        package var secondBuffer: BufferID
        package var isDurable: Bool
        /// What the mover wants to know about the data that was read.
        package var examination: Examination
    }

    /// The operands of a slot with an operation in flight.
    package func operands(of id: SlotID) -> Operands {
        let request = slots[id]
        return Operands(
            extent: request.host.extent,
            buffer: request.host.buffer,
            secondBuffer: request.secondBuffer,
            isDurable: request.host.isDurable,
            examination: Self.examination(in: request.stage)
        )
    }

    private static func examination(in stage: Stage) -> Operands.Examination {
        switch stage {
        case .copyReading: .isZero
        case .copyComparing: .isEqual
        case .verifyComparing: .haveEqualDigests
        default: .none
        }
    }

    /// Whether the mover or a verify wants to know something about the data that was read for a slot.
    ///
    /// Asked with each operation that ends, and mutating for that alone: it is called where it lies, and not on a copy.
    package mutating func wantsExamination(_ id: SlotID) -> Bool { Self.examination(in: slots[id].stage) != .none }
}
