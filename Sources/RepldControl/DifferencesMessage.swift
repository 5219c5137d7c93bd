internal import Foundation
internal import RepldControlAPI
package import RepldCore
internal import RepldEngine

/// Tells the host that has taken a pair over a piece of the former source's dirty map, before the `MeetMessage` that refers to it.
///
/// The pieces of one telling come in disk order, without overlap; what no piece names does not differ. Nothing is believed
/// before the meeting counts all of it: a telling that was not heard to its end is begun anew, under another number.
package struct DifferencesMessage: StrictRequest, Hashable {
    package var version = PeerMessages.version
    package var kind = PeerMessages.Kind.differences.rawValue
    package var pair: String
    /// Of all pieces of one telling the same.
    package var telling: UInt64
    /// Bytes of the volume that one bit stands for.
    package var unitByteCount: UInt64
    package var firstUnit: UInt64
    package var unitCount: UInt64
    /// The bits are one LZ4 block.
    package var isCompressed: Bool
    /// One bit for each unit, the first in the least of the first byte, in Base64; those of the last byte that stand for none are zero.
    package var bits: String

    package enum CodingKeys: String, CodingKey, CaseIterable {
        case version, kind, pair, telling, unitByteCount, firstUnit, unitCount, isCompressed, bits
    }

    /// Units of one piece: what the bits take uncompressed is one payload of the wire.
    package static var unitCountLimit: UInt64 { 1 << 20 }
    /// Bytes of the bits as they travel: in Base64, with the rest of the message, they fit into one.
    static var bitsByteCountLimit: Int { 40 << 10 }

    init(pair: PairID, telling: UInt64, _ piece: DifferencesPiece) {
        self.pair = pair.description
        self.telling = telling
        unitByteCount = piece.unitByteCount
        firstUnit = piece.firstUnit
        unitCount = piece.unitCount
        isCompressed = piece.isCompressed
        bits = Data(piece.bytes).base64EncodedString()
    }

    /// What differs, in disk order; `nil` where the bits are not what the rest says.
    package var extents: [Extent]? {
        guard let bytes = Data(base64Encoded: bits), bytes.count <= Self.bitsByteCountLimit else { return nil }
        let piece = DifferencesPiece(
            unitByteCount: unitByteCount,
            firstUnit: firstUnit,
            unitCount: unitCount,
            isCompressed: isCompressed,
            bytes: [UInt8](bytes)
        )
        return piece.extents
    }

    var fault: String? {
        if let fault = PeerMessages.fault(of: pair) ?? PeerMessages.fault(ofUnit: unitByteCount) { return fault }
        let unitLimit = UInt64(Int64.max) / unitByteCount
        guard (1...Self.unitCountLimit).contains(unitCount), firstUnit <= unitLimit - unitCount else {
            return "unitCount: found \(unitCount) from \(firstUnit) on, expected at most \(Self.unitCountLimit)"
        }
        return extents == nil ? "bits: expected \(unitCount) bits in Base64, at least one of them set" : nil
    }
}

extension PeerMessages {
    static func fault(ofUnit byteCount: UInt64) -> String? {
        let isPossible = (4096...(1 << 20)).contains(byteCount) && byteCount.nonzeroBitCount == 1
        return isPossible ? nil : "unitByteCount: found \(byteCount), expected a power of two from 4KiB to 1MiB"
    }
}

/// A range of a dirty map as bits, compressed where that is worth it.
struct DifferencesPiece: Hashable {
    var unitByteCount: UInt64
    var firstUnit: UInt64
    var unitCount: UInt64
    var isCompressed: Bool
    var bytes: [UInt8]

    /// What differs; `nil` where the bytes do not stand for so many bits, or none is set.
    var extents: [Extent]? {
        let byteCount = (Int(unitCount) + 7) / 8
        let expanded = isCompressed ? MapBits.expanded(bytes, byteCount: byteCount) : bytes
        guard let plain = expanded, plain.count == byteCount else { return nil }
        if unitCount % 8 != 0, let last = plain.last, last >> (unitCount % 8) != 0 { return nil }
        var found: [Extent] = []
        for (index, byte) in plain.enumerated() where byte != 0 {
            for bit in 0..<8 where byte >> bit & 1 != 0 {
                let extent = Extent(
                    offset: (firstUnit + UInt64(8 * index + bit)) * unitByteCount,
                    length: unitByteCount
                )
                found.appendJoined(extent)
            }
        }
        return found.isEmpty ? nil : found
    }
}

/// Cuts what differs into pieces, one after the other, each with as many units as fit into a message.
struct DifferencesPacker {
    private let unitByteCount: UInt64
    private let extents: [Extent]
    private var place = 0
    /// The first unit that no piece has had.
    private var unit: UInt64 = 0
    /// Units in the pieces so far that differ.
    private(set) var differingUnitCount: UInt64 = 0

    /// The extents are in disk order and do not overlap.
    init(_ extents: [Extent], unitByteCount: UInt64) {
        self.extents = extents
        self.unitByteCount = unitByteCount
    }

    /// The next piece; `nil` after the last.
    mutating func next() -> DifferencesPiece? {
        while place < extents.count, endUnit(of: extents[place]) <= unit { place += 1 }
        guard place < extents.count else { return nil }
        let first = max(unit, extents[place].offset / unitByteCount)
        var limit = DifferencesMessage.unitCountLimit
        while true {
            let (bits, count) = bits(from: first, limit: limit)
            if let piece = packed(bits, from: first, count) {
                unit = first + piece.unitCount
                differingUnitCount += UInt64(bits.reduce(0) { $0 + $1.nonzeroBitCount })
                return piece
            }
            limit /= 2
        }
    }

    private func endUnit(of extent: Extent) -> UInt64 { (extent.end - 1) / unitByteCount + 1 }

    /// The bits from a unit on, up to the last one that is set, and how many units they stand for.
    private func bits(from first: UInt64, limit: UInt64) -> (bits: [UInt8], unitCount: UInt64) {
        var bits: [UInt8] = []
        var end = first
        for extent in extents[place...] {
            let start = max(extent.offset / unitByteCount, first)
            guard start < first + limit else { break }
            end = max(end, min(endUnit(of: extent), first + limit))
            bits.append(contentsOf: repeatElement(0, count: (Int(end - first) + 7) / 8 - bits.count))
            for unit in start..<max(start, end) { bits[Int(unit - first) / 8] |= 1 << UInt8((unit - first) % 8) }
        }
        return (bits, end - first)
    }

    /// `nil` where it is too much for a message.
    private func packed(_ bits: [UInt8], from first: UInt64, _ count: UInt64) -> DifferencesPiece? {
        let compressed = MapBits.compressed(bits)
        let piece = DifferencesPiece(
            unitByteCount: unitByteCount,
            firstUnit: first,
            unitCount: count,
            isCompressed: compressed != nil,
            bytes: compressed ?? bits
        )
        return piece.bytes.count <= DifferencesMessage.bitsByteCountLimit ? piece : nil
    }
}

/// What a peer has told of so far of where elements differ.
struct DifferencesTelling: Hashable {
    let number: UInt64
    let unitByteCount: UInt64
    private(set) var extents: [Extent] = []
    private(set) var differingUnitCount: UInt64 = 0

    /// Extents that one telling has at most; whoever has more joins the nearest.
    ///
    /// They take 16 MiB of memory.
    static var extentLimit: Int { 1 << 20 }

    init(number: UInt64, unitByteCount: UInt64) {
        self.number = number
        self.unitByteCount = unitByteCount
    }

    /// Takes the next piece; false where it is not the next, or too much.
    mutating func take(_ piece: [Extent]) -> Bool {
        guard let first = piece.first, first.offset >= extents.last?.end ?? 0 else { return false }
        guard extents.count + piece.count <= Self.extentLimit + 1 else { return false }
        for extent in piece {
            extents.appendJoined(extent)
            differingUnitCount += extent.length / unitByteCount
        }
        return extents.count <= Self.extentLimit
    }
}

extension [Extent] {
    /// Adds one that lies behind the last, to the last where they touch.
    fileprivate mutating func appendJoined(_ extent: Extent) {
        guard let last, last.end == extent.offset else { return append(extent) }
        self[count - 1] = Extent(offset: last.offset, length: last.length + extent.length)
    }
}
