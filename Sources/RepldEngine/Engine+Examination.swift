internal import RepldCore
internal import RepldPair

/// Looking at what the movers and the verifies have read.
extension Engine where P: ~Copyable {
    /// What is to be known about data that was read for a slot; `nil` while another thread looks at it.
    ///
    /// To the machine the read is in flight until then. So the slot keeps its buffers, whatever becomes of its pair or its
    /// volume meanwhile, as it does for a read that a target does not give back.
    mutating func examine(_ slot: SlotID, place: UInt8, volume: Int) -> Bool? {
        let operands = volumes[volume].machine.operands(of: slot)
        let kind: DataExamination.Kind
        switch operands.examination {
        case .none: return false
        case .isZero: kind = .isZero
        case .isEqual: kind = .isEqual
        case .haveEqualDigests: kind = .haveEqualDigests
        }
        let length = Int(operands.extent.length)
        let first = unsafe UnsafeRawBufferPointer(bytes(operands.buffer, length))
        let second =
            kind == .isZero
            ? unsafe UnsafeRawBufferPointer(start: nil, count: 0)
            : unsafe UnsafeRawBufferPointer(bytes(operands.secondBuffer, length))
        let examination = unsafe DataExamination(kind, first, second)
        if let answer = examination.answerAtAGlance { return answer }
        platform.examine(examination, token: token(.examination, volume: volume, leg: place, slot: slot))
        return nil
    }

    /// The next blocks in which what was read of the two elements differs.
    mutating func locateDifference(_ slot: SlotID, from offset: UInt64, volume: Int) {
        let operands = volumes[volume].machine.operands(of: slot)
        let length = Int(operands.extent.length)
        let found = unsafe DataExamination.nextDifference(
            UnsafeRawBufferPointer(bytes(operands.buffer, length)),
            UnsafeRawBufferPointer(bytes(operands.secondBuffer, length)),
            from: Int(offset - operands.extent.offset),
            blockByteCount: Int(volumes[volume].geometry.logicalBlockByteCount)
        )
        let extent = found.map { run in
            Extent(offset: operands.extent.offset + UInt64(run.lowerBound), length: UInt64(run.count))
        }
        volumes[volume].machine.differenceLocated(slot, extent)
    }
}
