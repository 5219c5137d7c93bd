import CLiburing
import Glibc
import RepldCore

/// Why the ring could not be made; with the words for an administrator.
package struct UringSetupError: Error, Sendable, CustomStringConvertible {
    /// What was being done.
    package let step: String
    /// The kernel's error number.
    package let errorNumber: Int32

    package var description: String {
        var words = "io_uring: \(step) failed: \(errorText(errorNumber))"
        switch errorNumber {
        case ENOSYS: words += "; repld needs Linux 5.11 or later with io_uring built in"
        case EPERM:
            words +=
                "; io_uring is forbidden here: see sysctl kernel.io_uring_disabled and the container's seccomp profile"
        case ENOMEM: words += "; raise the memlock limit (ulimit -l) or make room"
        default: break
        }
        return words
    }
}

/// One io_uring, owned: entries go in, completions come out.
///
/// Knows nothing of what they mean.
///
/// Belongs to the thread that made it. Its methods do not mutate the struct: all state is in the shared rings.
@safe
struct Ring: ~Copyable {
    /// How the ring was set up, and what the kernel brought along.
    struct Setup: Sendable, Hashable {
        var isSingleIssuer = false
        var isCooperative = false
        var submitsAll = false
        var isRingRegistered = false
        var hasMultishotAccept = false
    }

    private let ring: UnsafeMutablePointer<io_uring>
    let setup: Setup

    /// The measured choice first, then what older kernels know: SINGLE_ISSUER is of 6.0, COOP_TASKRUN of 5.19,
    /// SUBMIT_ALL of 5.18.
    ///
    /// COOP_TASKRUN with SINGLE_ISSUER saved up to 12 % of CPU; DEFER_TASKRUN cost 8 to 22 %.
    private static let ladder: [UInt32] = [
        IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_COOP_TASKRUN | IORING_SETUP_SUBMIT_ALL,
        IORING_SETUP_COOP_TASKRUN | IORING_SETUP_SUBMIT_ALL,
        0,
    ]

    /// Lets the kernel have a worker for each operation that blocks.
    ///
    /// Its own limit is 4 for each processor, over all elements of the ring: a few writes that hang on one target would
    /// then hold up every flush and every record of the others. The call is of kernel 5.15; without it the limit stays.
    private static func raiseWorkerLimit(of ring: UnsafeMutablePointer<io_uring>) {
        var limits: [UInt32] = [workerLimit, 0]
        _ = unsafe io_uring_register_iowq_max_workers(ring, &limits)
    }

    private static let workerLimit: UInt32 = 4096

    init(
        submissionEntries: UInt32,
        completionEntries: UInt32,
        allowing allowed: UringPlatform.Acceleration
    ) throws(UringSetupError) {
        unsafe ring = .allocate(capacity: 1)
        unsafe ring.initialize(to: io_uring())
        var result: Int32 = 0
        var used: UInt32 = 0
        for flags in allowed.contains(.setupFlags) ? Self.ladder : [0] {
            var parameters = io_uring_params()
            parameters.flags = flags | IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP
            parameters.cq_entries = completionEntries
            unsafe result = io_uring_queue_init_params(submissionEntries, ring, &parameters)
            used = flags
            if result == 0 || result != -EINVAL { break }
        }
        guard result == 0 else {
            unsafe ring.deallocate()
            throw UringSetupError(step: "setting up a ring", errorNumber: -result)
        }
        unsafe Self.raiseWorkerLimit(of: ring)
        // Waiting with a time limit in one call (5.11) and completions that are never dropped (5.5) are required.
        let needed = IORING_FEAT_EXT_ARG | IORING_FEAT_NODROP | IORING_FEAT_SUBMIT_STABLE
        guard unsafe ring.pointee.features & needed == needed else {
            unsafe io_uring_queue_exit(ring)
            unsafe ring.deallocate()
            throw UringSetupError(step: "asking the kernel for the features of Linux 5.11", errorNumber: ENOSYS)
        }
        var setup = Setup()
        setup.isSingleIssuer = used & IORING_SETUP_SINGLE_ISSUER != 0
        setup.isCooperative = used & IORING_SETUP_COOP_TASKRUN != 0
        setup.submitsAll = used & IORING_SETUP_SUBMIT_ALL != 0
        if allowed.contains(.registeredRing) {
            setup.isRingRegistered = unsafe io_uring_register_ring_fd(ring) == 1
        }
        // The probe knows operations, not their flags. IORING_OP_SOCKET came with multishot accept, in 5.19.
        if let probe = unsafe io_uring_get_probe_ring(ring) {
            setup.hasMultishotAccept =
                unsafe allowed.contains(.multishotAccept)
                && io_uring_opcode_supported(probe, repld_opcode_socket()) != 0
            unsafe io_uring_free_probe(probe)
        }
        self.setup = setup
    }

    deinit {
        unsafe io_uring_queue_exit(ring)
        unsafe ring.deinitialize(count: 1)
        unsafe ring.deallocate()
    }

    /// An empty submission entry; `nil` when the queue is full.
    @inline(__always)
    func nextEntry() -> UnsafeMutablePointer<io_uring_sqe>? { unsafe io_uring_get_sqe(ring) }

    /// Entries that the kernel has not seen yet.
    var unsubmittedCount: UInt32 { unsafe io_uring_sq_ready(ring) }

    /// Hands over all entries; the number taken, or a negative error number.
    func submit() -> Int32 { unsafe io_uring_submit(ring) }

    /// Hands over all entries and lets the kernel finish what it has at hand, without waiting.
    func submitAndCollect() -> Int32 { unsafe io_uring_submit_and_get_events(ring) }

    /// Moves completions that did not fit into the completion queue there.
    func collect() -> Int32 { unsafe io_uring_get_events(ring) }

    /// Hands over all entries and waits for a completion, at most `nanoseconds` (`nil`: forever).
    func submitAndWait(nanoseconds: UInt64?) -> Int32 {
        var first: UnsafeMutablePointer<io_uring_cqe>?
        guard let nanoseconds else { return unsafe io_uring_submit_and_wait_timeout(ring, &first, 1, nil, nil) }
        var limit = __kernel_timespec()
        limit.tv_sec = Int64(clamping: nanoseconds / 1_000_000_000)
        limit.tv_nsec = Int64(nanoseconds % 1_000_000_000)
        return unsafe io_uring_submit_and_wait_timeout(ring, &first, 1, &limit, nil)
    }

    /// Completions that can be looked at now.
    var readyCount: UInt32 { unsafe io_uring_cq_ready(ring) }

    /// Whether the kernel keeps completions back because the queue was full.
    var hasOverflow: Bool { unsafe io_uring_cq_has_overflow(ring) }

    /// The completion `place` behind the oldest, by value.
    @inline(__always)
    func completion(_ place: UInt32) -> RingCompletion {
        let entry = unsafe repld_cqe_at(ring, place)
        return unsafe RingCompletion(
            userData: entry.pointee.user_data,
            result: entry.pointee.res,
            flags: entry.pointee.flags
        )
    }

    /// Gives `count` completions back to the kernel.
    @inline(__always)
    func advance(_ count: UInt32) { unsafe io_uring_cq_advance(ring, count) }

    /// Registers a table of `count` empty places for files; false where the kernel cannot.
    func registerFiles(count: UInt32) -> Bool { unsafe io_uring_register_files_sparse(ring, count) == 0 }

    /// Puts a descriptor into the table of files, or with -1 takes it out.
    func setFile(_ descriptor: Int32, at index: UInt32) -> Bool {
        var descriptor = descriptor
        return unsafe io_uring_register_files_update(ring, index, &descriptor, 1) == 1
    }

    /// Registers one buffer; false where the kernel cannot or may not (RLIMIT_MEMLOCK).
    func registerBuffer(_ memory: UnsafeMutableRawBufferPointer) -> Bool {
        var piece = unsafe iovec(iov_base: memory.baseAddress, iov_len: memory.count)
        return unsafe io_uring_register_buffers(ring, &piece, 1) == 0
    }
}

/// What a completion says.
struct RingCompletion: BitwiseCopyable {
    var userData: UInt64
    var result: Int32
    var flags: UInt32
}
