import Glibc
package import RepldCore
package import RepldEngine

/// Starting operations on elements.
extension UringPlatform {
    package mutating func read(
        _ element: ElementID,
        at offset: UInt64,
        into memory: UnsafeMutableRawBufferPointer,
        token: Token
    ) {
        guard let base = memory.baseAddress else { invariantFailed("a read has memory to read into") }
        var operation = Operation(token: token, kind: .read, place: element.index)
        operation.offset = offset
        operation.length = UInt64(memory.count)
        unsafe operation.memory = base
        operation.isInRegion = unsafe isInRegion(base, memory.count)
        startTransfer(operation)
    }

    package mutating func write(
        _ element: ElementID,
        at offset: UInt64,
        from memory: UnsafeRawBufferPointer,
        isDurable: Bool,
        token: Token
    ) {
        guard let base = memory.baseAddress else { invariantFailed("a write has memory to write from") }
        var operation = Operation(token: token, kind: .write, place: element.index)
        operation.offset = offset
        operation.length = UInt64(memory.count)
        operation.isDurable = isDurable
        unsafe operation.memory = UnsafeMutableRawPointer(mutating: base)
        operation.isInRegion = unsafe isInRegion(base, memory.count)
        // A descriptor opened for reading answers EBADF, which is kept for our own mistakes.
        if elements[Int(element.index)].isReadOnly { operation.refusal = .readOnly }
        startTransfer(operation)
    }

    package mutating func flush(_ element: ElementID, token: Token) {
        startOnElement(Operation(token: token, kind: .flush, place: element.index))
    }

    package mutating func zero(
        _ element: ElementID,
        _ extent: Extent,
        _ kind: ZeroKind,
        isDurable: Bool,
        token: Token
    ) {
        invariant(!extent.isEmpty, "a range that is zeroed is not empty")
        invariant(
            extent.isAligned(to: elements[Int(element.index)].blockMask + 1),
            "a range that is zeroed is made of whole blocks"
        )
        var operation = Operation(token: token, kind: .zero, place: element.index)
        operation.zeroKind = kind
        operation.isDurable = isDurable
        operation.offset = extent.offset
        operation.length = extent.length
        if elements[Int(element.index)].isReadOnly { operation.refusal = .readOnly }
        startOnElement(operation)
    }

    package mutating func queryAllocation(
        _ element: ElementID,
        _ extent: Extent,
        into memory: UnsafeMutableBufferPointer<AllocationRun>,
        token: Token
    ) {
        invariant(memory.count > 0, "an allocation query has room for at least one run")
        invariant(!extent.isEmpty, "an allocation query asks about at least one block")
        var operation = Operation(token: token, kind: .query, place: element.index)
        operation.offset = extent.offset
        operation.length = extent.length
        let id = startOnElement(operation, isForRing: false)
        jobsInFlight += 1
        unsafe queryWorker.enqueue(
            AllocationQuery(
                id: id,
                descriptor: elements[Int(element.index)].descriptor,
                start: extent.offset,
                end: extent.end,
                blockByteCount: elements[Int(element.index)].blockMask + 1,
                runs: memory
            )
        )
    }

    /// A read or write: whole blocks, at an address that direct I/O takes.
    @inline(__always)
    private mutating func startTransfer(_ operation: Operation) {
        let mask = elements[Int(operation.place)].blockMask
        invariant(
            operation.length > 0 && operation.length <= 1 << 30,
            "a transfer moves at least a byte, at most 1 GiB"
        )
        invariant((operation.offset | operation.length) & mask == 0, "a transfer is made of whole blocks")
        invariant(
            unsafe UInt64(UInt(bitPattern: operation.memory)) & (mask & 4095) == 0,
            "a transfer's memory is aligned to the block size"
        )
        if elements[Int(operation.place)].isInMemory, operation.length <= Self.memoryTransferLimit,
            operation.refusal == nil, !ready.isFull
        {
            moveInMemory(startOnElement(operation, isForRing: false))
        } else {
            startOnElement(operation)
        }
    }

    /// The longest transfer of a file in memory that is made by the loop itself; it takes about 10 us.
    private static var memoryTransferLimit: UInt64 { 64 << 10 }

    /// Moves the data now; the completion waits for the next `wait` like all others.
    ///
    /// A file in memory has nothing to wait for, but the kernel's file system does not say so (tmpfs lacks FMODE_NOWAIT):
    /// the ring would hand each transfer to a thread of its own, and two changes of threads cost several times what the
    /// transfer does. Nothing is left for `isDurable` to do: such a file has no stable storage.
    private mutating func moveInMemory(_ id: SlotID) {
        let descriptor = elements[Int(operations[id].place)].descriptor
        let offset = off_t(operations[id].offset)
        let length = Int(operations[id].length)
        let moved =
            unsafe operations[id].kind == .read
            ? pread(descriptor, operations[id].memory, length, offset)
            : pwrite(descriptor, operations[id].memory, length, offset)
        let result = moved >= 0 ? Int32(moved) : -errno
        settle(RingCompletion(userData: userData(of: id), result: result, flags: 0))
    }

    @discardableResult
    private mutating func startOnElement(_ operation: Operation, isForRing: Bool = true) -> SlotID {
        let index = Int(operation.place)
        invariant(elements[index].isTaken, "an operation is started on an attached element")
        elements[index].inFlightCount += 1
        return start(operation, isForRing: isForRing)
    }
}
