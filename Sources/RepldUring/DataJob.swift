import RepldCore
package import RepldEngine

/// Work on bulk data in memory: it takes a core's time, and waits for nothing.
///
/// Its thread is not that of the allocation queries: those may wait for a disk, and hosts' writes wait for the lock of a
/// chunk that is being examined.
@safe
struct DataJob: WorkerJob {
    @safe
    enum Work: BitwiseCopyable {
        /// The answer is 1 for a match, 0 otherwise.
        case examine(DataExamination)
        /// The answer is the count of bytes written.
        case recode(DataRecoding)
    }

    var id: SlotID
    var work: Work

    static var blank: DataJob {
        let nothing = unsafe UnsafeRawBufferPointer(start: nil, count: 0)
        return DataJob(
            id: SlotID(index: 0, generation: 0),
            work: .examine(unsafe DataExamination(.isZero, nothing, nothing))
        )
    }

    func carryOut() -> WorkerAnswer {
        switch work {
        case .examine(let examination): WorkerAnswer(id: id, count: examination.isMatch ? 1 : 0)
        case .recode(let recoding): WorkerAnswer(id: id, count: UInt32(recoding.carryOut()))
        }
    }
}

/// Handing bulk data to the worker.
extension UringPlatform {
    package mutating func examine(_ examination: DataExamination, token: Token) {
        let id = start(Operation(token: token, kind: .examine, place: 0), isForRing: false)
        jobsInFlight += 1
        dataWorker.enqueue(DataJob(id: id, work: .examine(examination)))
    }

    package mutating func recode(_ recoding: DataRecoding, token: Token) {
        let id = start(Operation(token: token, kind: .examine, place: 0), isForRing: false)
        jobsInFlight += 1
        dataWorker.enqueue(DataJob(id: id, work: .recode(recoding)))
    }
}
