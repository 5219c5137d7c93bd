import CRepldLinux
import Glibc
import RepldCore

/// What an open descriptor says about the element behind it.
///
/// Nothing is changed to find out.
struct ElementFacts {
    var geometry: ElementGeometry
    var isBlockDevice: Bool
    var unusedTailByteCount: UInt64

    static func find(
        _ descriptor: Int32,
        _ path: String,
        isReadOnly: Bool
    ) throws(ElementOpenError) -> ElementFacts {
        var facts = repld_file_facts()
        guard unsafe repld_file_facts_of_descriptor(descriptor, &facts) == 0 else {
            throw ElementOpenError(path: path, .system(step: "looking at it", errorNumber: errno))
        }
        let found =
            facts.kind == Int32(REPLD_KIND_BLOCK.rawValue)
            ? try ofBlockDevice(descriptor, path, facts, isReadOnly)
            : ofFile(descriptor, facts, isReadOnly)
        guard found.geometry.logicalBlockByteCount <= 4096 else {
            throw ElementOpenError(path: path, .blockTooLarge(byteCount: found.geometry.logicalBlockByteCount))
        }
        guard found.geometry.byteCount > 0 else { throw ElementOpenError(path: path, .empty) }
        return found
    }

    /// The size alone, tail included; `nil` when the descriptor does not say.
    static func byteCount(_ descriptor: Int32) -> UInt64? {
        var facts = repld_file_facts()
        guard unsafe repld_file_facts_of_descriptor(descriptor, &facts) == 0 else { return nil }
        guard facts.kind == Int32(REPLD_KIND_BLOCK.rawValue) else { return facts.byte_count }
        var device = repld_block_device_facts()
        guard unsafe repld_block_device_facts(descriptor, &device) == 0 else { return nil }
        return device.byte_count
    }

    private static func ofBlockDevice(
        _ descriptor: Int32,
        _ path: String,
        _ facts: repld_file_facts,
        _ isReadOnly: Bool
    ) throws(ElementOpenError) -> ElementFacts {
        var device = repld_block_device_facts()
        guard unsafe repld_block_device_facts(descriptor, &device) == 0 else {
            throw ElementOpenError(path: path, .system(step: "asking for its size", errorNumber: errno))
        }
        // The kernel opens a device that was made read-only for writing, too, and fails each write.
        if device.is_read_only && !isReadOnly { throw ElementOpenError(path: path, .readOnly) }
        let queue = BlockQueue(major: facts.own_major, minor: facts.own_minor)
        let zeroes = queue.number("write_zeroes_max_bytes") > 0
        let tail = device.byte_count % UInt64(max(device.logical_block_byte_count, 1))
        return ElementFacts(
            geometry: ElementGeometry(
                byteCount: device.byte_count - tail,
                logicalBlockByteCount: device.logical_block_byte_count,
                physicalBlockByteCount: device.physical_block_byte_count,
                isReadOnly: isReadOnly || device.is_read_only,
                canDiscard: !isReadOnly && zeroes && queue.number("discard_max_bytes") > 0,
                canZeroFast: !isReadOnly && zeroes,
                isDirect: fcntl(descriptor, F_GETFL) & repld_O_DIRECT != 0
            ),
            isBlockDevice: true,
            unusedTailByteCount: tail
        )
    }

    private static func ofFile(_ descriptor: Int32, _ facts: repld_file_facts, _ isReadOnly: Bool) -> ElementFacts {
        var block = directBlock(descriptor, facts.byte_count)
        if block == nil {
            // Buffered: any size would do, 512 is what every host takes.
            _ = fcntl(descriptor, F_SETFL, fcntl(descriptor, F_GETFL) & ~repld_O_DIRECT)
            block = nil
        }
        let logical = block ?? 512
        let tail = facts.byte_count % UInt64(logical)
        // A hole behind the end of the file: the file system says whether it can, and there is nothing to lose.
        let behind = (facts.byte_count + 4095) & ~4095
        let canPunch =
            !isReadOnly && behind < UInt64(Int64.max) - 4096
            && repld_fallocate(descriptor, repld_FALLOC_PUNCH_HOLE, Int64(behind), 4096) == 0
        return ElementFacts(
            geometry: ElementGeometry(
                byteCount: facts.byte_count - tail,
                logicalBlockByteCount: logical,
                physicalBlockByteCount: max(logical, min(facts.preferred_block_byte_count, 4096)),
                isReadOnly: isReadOnly,
                canDiscard: canPunch,
                canZeroFast: canPunch,
                isDirect: block != nil
            ),
            isBlockDevice: false,
            unusedTailByteCount: tail
        )
    }

    /// The smallest block of direct I/O on a file; `nil` when it takes none.
    private static func directBlock(_ descriptor: Int32, _ byteCount: UInt64) -> UInt32? {
        guard fcntl(descriptor, F_GETFL) & repld_O_DIRECT != 0 else { return nil }
        var memory: UInt32 = 0
        var offset: UInt32 = 0
        if unsafe repld_direct_alignment(descriptor, &memory, &offset) == 1 {
            guard offset > 0, offset <= 4096, memory <= 4096 else { return nil }
            return max(512, offset)
        }
        // Older kernels do not say. A read tells: too fine an alignment is refused before anything is read.
        let probe = UnsafeMutableRawPointer.allocate(byteCount: 4096, alignment: 4096)
        defer { unsafe probe.deallocate() }
        for size in [512, 4096] as [UInt32] where UInt64(size) * 2 <= byteCount {
            if unsafe pread(descriptor, probe, Int(size), off_t(size)) >= 0 { return size }
        }
        return byteCount % 4096 == 0 ? 4096 : nil
    }
}

/// The limits of a block device, as sysfs tells them.
struct BlockQueue {
    private let folder: String

    /// A partition has no queue of its own; it is its disk's.
    init(major: UInt32, minor: UInt32) {
        let own = "/sys/dev/block/\(major):\(minor)"
        folder = contents(ofFile: "\(own)/partition") == nil ? "\(own)/queue" : "\(own)/../queue"
    }

    /// A limit by its name; 0 when there is none.
    func number(_ name: String) -> UInt64 {
        guard let text = contents(ofFile: "\(folder)/\(name)") else { return 0 }
        return UInt64(text.prefix { $0.isNumber }) ?? 0
    }
}
