package import RepldCore

/// What a host asks of a volume.
///
/// Discard and write-zeroes stay distinct all the way down.
package enum HostOperation: UInt8, Sendable, BitwiseCopyable, CaseIterable {
    case read, write, flush, discard, writeZeroes
}

/// The number of a buffer of the engine's pool.
///
/// The machines carry it about and never look inside.
package struct BufferID: Hashable, Sendable, BitwiseCopyable {
    package let rawValue: UInt32

    package init(rawValue: UInt32) { self.rawValue = rawValue }

    /// Stands for "no buffer": flush, discard and write-zeroes carry no data.
    package static var none: BufferID { BufferID(rawValue: .max) }
}

/// Who gets the answer: a client of the engine, and that client's own number for the request.
package struct RequestOrigin: Hashable, Sendable, BitwiseCopyable {
    package var client: UInt32
    package var request: UInt32

    package init(client: UInt32, request: UInt32) {
        self.client = client
        self.request = request
    }

    /// The client number of whoever embeds the engine (the simulator's workload, the library's user).
    package static var embedder: UInt32 { .max }
}

/// One host request, at most one buffer long where it carries data, as a front end hands it to a volume.
///
/// The front end has checked it already: the extent lies inside the volume, is aligned to the volume's block size and
/// is not empty (a flush has an empty extent). The machine asserts the same.
package struct HostRequest: Sendable, BitwiseCopyable {
    package var operation: HostOperation
    /// FUA: the answer comes only when this very write is on stable storage of every in-sync copy.
    package var isDurable: Bool
    /// Write-zeroes only: the space must stay allocated (NBD's NO_HOLE).
    package var keepsAllocation: Bool
    /// Write-zeroes only: fail with `notSupported` rather than write zeroes out (NBD's FAST_ZERO).
    package var mustBeFast: Bool
    package var buffer: BufferID
    package var extent: Extent
    package var origin: RequestOrigin
    /// 0 for the volume; n for the own export of the target of pair n-1, where that is open.
    package var side: UInt8

    package init(
        operation: HostOperation,
        extent: Extent,
        buffer: BufferID,
        origin: RequestOrigin,
        isDurable: Bool = false,
        keepsAllocation: Bool = false,
        mustBeFast: Bool = false,
        side: UInt8 = 0
    ) {
        self.operation = operation
        self.extent = extent
        self.buffer = buffer
        self.origin = origin
        self.isDurable = isDurable
        self.keepsAllocation = keepsAllocation
        self.mustBeFast = mustBeFast
        self.side = side
    }

    /// A flush of the machine's own, which nobody is told of.
    static var ownFlush: HostRequest {
        HostRequest(
            operation: .flush,
            extent: Extent(offset: 0, length: 0),
            buffer: .none,
            origin: RequestOrigin(client: 0, request: 0)
        )
    }
}
