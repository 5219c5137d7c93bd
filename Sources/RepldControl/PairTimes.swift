package import Foundation
package import RepldPair

/// When a pair came to be as it is: the When properties of `CIM_Synchronized`; absent where it never was.
package struct PairTimes: Codable, Hashable, Sendable {
    /// The point in time that the target holds: it is kept equal since, or it was equal until.
    package var synced: Date?
    /// When the copy state became Synchronized last.
    package var synchronized: Date?
    package var activated: Date?
    package var deactivated: Date?
    package var suspended: Date?

    package init() {}

    /// Takes note of a change of the copy state; false where no time changes.
    package mutating func note(from old: CopyState, to new: CopyState, at time: Date) -> Bool {
        let before = self
        if old == .synchronized { synced = time }
        switch new {
        case .synchronized: (synchronized, synced) = (time, time)
        case .restored: synced = time
        case .suspended: suspended = time
        case .inactive: deactivated = time
        case .unsynchronized where old == .initialized || old == .prepared || old == .inactive: activated = time
        default: break
        }
        return self != before
    }
}
