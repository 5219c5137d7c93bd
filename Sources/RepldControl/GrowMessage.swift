internal import RepldControlAPI
package import RepldCore

/// Asks that the volume of a pair's replica be able to hold a size, or whether it would be.
///
/// The same again, after it was done, is answered as before: a replica that is larger than its source is a replica all the same.
package struct GrowMessage: StrictRequest, Hashable {
    package var version = PeerMessages.version
    package var kind = PeerMessages.Kind.grow.rawValue
    package var pair: String
    /// Nothing is done, and answered is whether it would be.
    package var isCheck: Bool
    /// What the volume has to hold; absent to be told how much its element could, which only a check may ask.
    package var byteCount: UInt64?

    package enum CodingKeys: String, CodingKey, CaseIterable { case version, kind, pair, isCheck, byteCount }

    package init(pair: PairID, isCheck: Bool, byteCount: UInt64?) {
        self.pair = pair.description
        self.isCheck = isCheck
        self.byteCount = byteCount
    }

    var fault: String? {
        if let fault = PeerMessages.fault(of: pair) { return fault }
        guard let byteCount else { return isCheck ? nil : "byteCount: expected the size that is to be held" }
        return byteCount > 0 && byteCount <= UInt64(Int64.max) ? nil : "byteCount: found \(byteCount)"
    }
}
