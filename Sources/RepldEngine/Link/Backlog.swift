internal import RepldCore
internal import RepldPair

/// What an asynchronous pair has still to send, in the order of writing.
///
/// Data is copied here when a host writes, so that its request ends when the source has it. The memory is a ring: what is acknowledged
/// by the peer is given back in the order of coming. When there is no room the machine hears `noResources`, and the pair is
/// Skewed: nothing blocks a host, and nothing grows.
///
/// **Epochs** (DRBD's barriers, `P_BARRIER`; Ji, Veitch and Wilkes, "Seneca", USENIX 2003, calls them send barriers): writes of one epoch
/// began before any of them was acknowledged to its host, so that no host can have meant an order between them. With the first
/// acknowledgement the epoch is over, and what comes then belongs to the next. The peer applies an epoch when all of the one before is on
/// stable storage: what it holds is at every instant an image that a crash of the source could have left.
@safe
struct Backlog: ~Copyable {
    /// Writes on their way at most.
    static var entryLimit: Int { 8192 }
    /// Bytes of data on their way at most.
    static var byteLimit: Int { 32 << 20 }
    /// Numbers of requests from here on are entries of a backlog.
    static var firstNumber: Int { 1 << 20 }

    private let memory: UnsafeMutableRawBufferPointer
    private let byteCount: Int
    /// A ring: the oldest at `head`.
    private(set) var entries: FixedArray<RemoteRequest>
    private var head = 0
    private(set) var count = 0
    /// Where in the memory the next data goes, and how many bytes are taken, gaps at the end of the ring included.
    private var nextOffset = 0
    private(set) var takenByteCount = 0
    /// Of those, bytes of data.
    private var dataByteCount = 0
    private var generation: UInt16 = 0

    init(byteCount: Int) {
        unsafe memory = .allocate(byteCount: byteCount, alignment: 4096)
        self.byteCount = byteCount
        entries = FixedArray(repeating: RemoteRequest.blank, count: byteCount > 0 ? Self.entryLimit : 0)
    }

    deinit { unsafe memory.deallocate() }

    var isEmpty: Bool { count == 0 }

    /// More than half of the room is taken.
    var isLong: Bool { takenByteCount > byteCount / 2 || count > entries.count / 2 }
    /// Less than a quarter of it is.
    var isShort: Bool { takenByteCount < byteCount / 4 && count < entries.count / 4 }

    /// When the oldest write came that the peer has not acknowledged; `nil` when there is none.
    var oldest: Instant? { count > 0 ? entries[head].acceptedAt : nil }

    /// Takes a write with its data; its place, or `nil` when there is no room.
    mutating func append(_ request: RemoteRequest, _ data: UnsafeRawBufferPointer) -> Int? {
        guard count < entries.count, let offset = room(for: data.count) else { return nil }
        let place = (head + count) % entries.count
        count += 1
        generation &+= 1
        entries[place] = request
        entries[place].dataOffset = offset
        entries[place].slot = SlotID(index: UInt32(place), generation: generation)
        if unsafe !data.isEmpty {
            unsafe UnsafeMutableRawBufferPointer(rebasing: memory[offset...]).copyMemory(from: data)
        }
        return place
    }

    private mutating func room(for length: Int) -> Int? {
        if length == 0 { return nextOffset }
        let isAtEnd = nextOffset + length > byteCount
        let gap = isAtEnd ? byteCount - nextOffset : 0
        guard takenByteCount + gap + length <= byteCount else { return nil }
        let offset = isAtEnd ? 0 : nextOffset
        takenByteCount += gap + length
        dataByteCount += length
        nextOffset = offset + length
        return offset
    }

    func data(_ offset: Int, _ length: Int) -> UnsafeRawBufferPointer {
        unsafe UnsafeRawBufferPointer(rebasing: memory[offset..<offset + length])
    }

    mutating func update(_ place: Int, _ change: (inout RemoteRequest) -> Void) { change(&entries[place]) }

    /// Gives back the room of what has ended, the oldest first.
    mutating func release() {
        while count > 0, !entries[head].isActive {
            count -= 1
            if entries[head].kind == .write { dataByteCount -= Int(entries[head].extent.length) }
            head = (head + 1) % entries.count
        }
        if dataByteCount == 0 {
            if count == 0 { nextOffset = 0 }
            takenByteCount = 0
        } else {
            // From the oldest data on to the next place, over the end of the ring.
            let first = entries[head].dataOffset
            takenByteCount = nextOffset > first ? nextOffset - first : byteCount - first + nextOffset
        }
    }

    /// Gives everything up.
    mutating func removeAll() {
        for place in 0..<entries.count { entries[place].isActive = false }
        release()
    }
}
