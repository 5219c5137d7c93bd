package import RepldCore
package import RepldFormat
package import RepldPair

/// The record that a pair begins with on the host that takes it over: a pure function of the one that both hosts have.
package enum TakeOverRecord {
    /// What of it only the taking over knows.
    package struct Terms: Hashable, Sendable {
        package var operation: ReplicationOperation
        /// The element that is here, and serves hosts from now on, is the pair's second.
        package var isSecondHere: Bool
        /// Nothing differs between the two elements.
        package var isEqual: Bool
        /// Hosts were told of writes that are on the other element alone.
        package var isPeerAhead: Bool
        package var granuleByteCount: UInt32
        /// Drawn for the run that begins with it.
        package var generation: Generation
        /// That of the volume here, whose other pairs have heard of all that was written to it.
        package var servingEpoch: UInt32

        package init(
            operation: ReplicationOperation,
            isSecondHere: Bool,
            isEqual: Bool,
            isPeerAhead: Bool,
            granuleByteCount: UInt32,
            generation: Generation,
            servingEpoch: UInt32
        ) {
            self.operation = operation
            self.isSecondHere = isSecondHere
            self.isEqual = isEqual
            self.isPeerAhead = isPeerAhead
            self.granuleByteCount = granuleByteCount
            self.generation = generation
            self.servingEpoch = servingEpoch
        }
    }

    /// The next record, and the first of the pair's next term; `nil` where the operation does not lead to this host from there.
    package static func make(after record: PairRecord, _ terms: Terms) -> PairRecord? {
        let isTargetHere = record.isSecondSource != terms.isSecondHere
        var next = record
        switch terms.operation {
        case .failover:
            guard isTargetHere, record.isSecondPrimary != terms.isSecondHere else { return nil }
            next.copyState = CopyState.failedover.rawValue
        case .failback:
            guard !isTargetHere, record.isSecondPrimary != terms.isSecondHere, terms.isEqual else { return nil }
            next.copyState = CopyState.synchronized.rawValue
        case .reverseRoles:
            guard isTargetHere, record.isSecondPrimary != terms.isSecondHere else { return nil }
            if !terms.isEqual, record.copyState != CopyState.split.rawValue {
                next.copyState = CopyState.suspended.rawValue
            }
            next.isSecondSource = terms.isSecondHere
        default: return nil
        }
        // Who takes the pair over may have had less than all of it: this is what he had, and was told.
        next.lineage.takenOverAt = HistoryPoint(record.lineage.generation, record.sequence)
        next.lineage.confirmedSequence = record.sequence
        next.lineage.isTold = true
        next.lineage.begin(terms.generation, after: record.sequence)
        // The former source is answered with it, and keeps it.
        next.lineage.isTold = true
        next.sequence += 1
        next.isClosedCleanly = terms.isEqual
        next.operation = 0
        next.isSecondPrimary = terms.isSecondHere
        // Of the element that serves, and that nobody copies to.
        next.isTargetConsistent = true
        // A source that is half restored is no usable image as a target.
        if terms.operation == .reverseRoles, record.isSourceInconsistent { next.isTargetConsistent = false }
        next.isSourceAhead = terms.operation == .failover && terms.isPeerAhead
        // It stays the source by its role, and half restored.
        next.isSourceInconsistent = terms.operation == .failover && record.isSourceInconsistent
        next.mapTrust = terms.isEqual ? .exact : .none
        next.granuleShift = UInt8(terms.granuleByteCount.trailingZeroBitCount)
        next.extentShift = UInt8(PairSettings().logExtentByteCount.trailingZeroBitCount)
        next.servingEpoch = terms.servingEpoch
        next.hasUndo = false
        next.isTakenBack = false
        next.term += 1
        return next
    }
}
