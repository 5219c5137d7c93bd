internal import RepldCore
internal import RepldWire

/// The compressing side of a session: where compressed payloads lie until they are sent, and whether it pays.
///
/// Frames keep their order: one whose payload is being compressed stands in the queue, and those behind it wait. Where every place is
/// taken, the next payload goes as it is.
@safe
struct LinkCompressor: ~Copyable {
    enum Stage: UInt8, BitwiseCopyable {
        case free
        /// Another thread reads the plain data and writes here.
        case working
        case ready
        /// It is being sent.
        case sending
    }

    struct Place: BitwiseCopyable {
        var stage = Stage.free
        /// Bytes of the payload; 0 where it did not shrink.
        var byteCount = 0
        var plainByteCount = 0
        var extentClass = ExtentClass.copy
    }

    /// As many as the pieces that a mover has under way: what finds no place is sent as it is, although it waits for the link.
    static var placeCount: Int { 32 }
    /// Less than this is not worth a frame of its own kind.
    static var plainByteMinimum: UInt64 { 4096 }
    /// After so many bytes what was before counts half, so that the other thread's speed follows the data.
    private static var busyByteLimit: UInt64 { 4 << 20 }
    /// How long the link has to be full for a figure of what it carries, in nanoseconds.
    private static var measureNanoseconds: UInt64 { 50_000_000 }

    var policy = CompressionPolicy()
    private(set) var places: FixedArray<Place>
    private let memory: UnsafeMutableRawBufferPointer
    /// Of all that was compressed: before and after.
    private(set) var plainByteCount: UInt64 = 0
    private(set) var compressedByteCount: UInt64 = 0
    private var fullSince: Instant?
    private var fullByteCount: UInt64 = 0
    /// Since when the other thread has had work without a pause, and what it has compressed in that time.
    private var busySince = Instant(nanoseconds: 0)
    private var busyByteCount: UInt64 = 0

    init(isInUse: Bool) {
        places = FixedArray(repeating: Place(), count: isInUse ? Self.placeCount : 0)
        let byteCount = isInUse ? Self.placeCount * WireLimits.pieceByteCountCeiling : 0
        unsafe memory = .allocate(byteCount: byteCount, alignment: 64)
    }

    deinit { unsafe memory.deallocate() }

    /// Another thread is at work for the session.
    var isWorking: Bool {
        for place in 0..<places.count where places[place].stage == .working { return true }
        return false
    }

    /// Takes a place for a payload; `nil` when there is none.
    mutating func begin(_ extentClass: ExtentClass, plainByteCount: Int, at now: Instant) -> Int? {
        guard let place = (0..<places.count).first(where: { places[$0].stage == .free }) else { return nil }
        if !isWorking { (busySince, busyByteCount) = (now, 0) }
        places[place] = Place(stage: .working, byteCount: 0, plainByteCount: plainByteCount, extentClass: extentClass)
        return place
    }

    /// The other thread is done.
    mutating func ended(_ place: Int, byteCount: Int, at now: Instant) {
        invariant(places[place].stage == .working, "what has ended was at work")
        places[place].stage = .ready
        places[place].byteCount = byteCount
        let plain = places[place].plainByteCount
        plainByteCount += UInt64(plain)
        compressedByteCount += UInt64(byteCount > 0 ? byteCount : plain)
        policy.compressed(
            places[place].extentClass,
            plainByteCount: UInt64(plain),
            sentByteCount: UInt64(byteCount > 0 ? byteCount : plain),
            nanoseconds: workTime(of: UInt64(plain), at: now)
        )
    }

    /// What a payload has taken of the other thread's time, in nanoseconds: its share of the time without a pause.
    ///
    /// Not the time since it was handed over, in which the thread was at work on those before it.
    private mutating func workTime(of byteCount: UInt64, at now: Instant) -> UInt64 {
        busyByteCount += byteCount
        let elapsed = now.nanoseconds(since: busySince)
        let share = elapsed.multipliedFullWidth(by: byteCount)
        let nanoseconds = busyByteCount.dividingFullWidth(share).quotient
        if busyByteCount >= Self.busyByteLimit {
            busySince = Instant(nanoseconds: now.nanoseconds - elapsed / 2)
            busyByteCount /= 2
        }
        return nanoseconds
    }

    mutating func beginSending(_ place: Int) { places[place].stage = .sending }
    mutating func release(_ place: Int) { places[place] = Place() }

    /// Nothing of the session is sent any more.
    mutating func releaseAll() {
        for place in 0..<places.count {
            invariant(places[place].stage != .working, "memory that another thread writes is not given up")
            places[place] = Place()
        }
        fullSince = nil
    }

    /// The memory of a place.
    func bytes(_ place: Int) -> UnsafeMutableRawBufferPointer {
        let size = WireLimits.pieceByteCountCeiling
        return unsafe UnsafeMutableRawBufferPointer(rebasing: memory[place * size..<(place + 1) * size])
    }

    /// So many bytes have left; whether more waits for the link.
    mutating func sent(_ byteCount: UInt64, isFull: Bool, at now: Instant) {
        guard isFull else {
            fullSince = nil
            return
        }
        guard let since = fullSince else {
            (fullSince, fullByteCount) = (now, 0)
            return
        }
        fullByteCount += byteCount
        let nanoseconds = now.nanoseconds(since: since)
        guard nanoseconds >= Self.measureNanoseconds else { return }
        policy.carried(byteCount: fullByteCount, nanoseconds: nanoseconds, wasFull: true)
        (fullSince, fullByteCount) = (now, 0)
    }
}
