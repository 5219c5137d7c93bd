package import Foundation
package import RepldControlAPI
package import RepldCore
package import RepldPair
package import SystemPackage

/// A job as its file keeps it.
package struct JobEntry: Codable, Hashable, Sendable {
    /// Never given twice.
    package var number: UInt64
    package var kind: JobKind
    package var pair: PairID
    package var pairName: String
    package var volumeName: String
    /// Where the operation leads; `nil` where the pair keeps its copy state.
    package var result: CopyState?
    /// Of an operation that changes roles: whether the second element is the source afterwards.
    package var isSecondSourceAfter: Bool?
    package var startedBy: String
    package var startedAt: Date
    package var endedAt: Date?
    package var state: JobState
    package var percentComplete: Int
    /// A return code of the standard; 0 while there is no error.
    package var errorCode: Int
    package var errorDescription: String?
    /// What a verify has come to.
    package var verify: VerifyReply?

    package init(
        number: UInt64,
        kind: JobKind,
        pair: PairID,
        pairName: String,
        volumeName: String,
        result: CopyState?,
        isSecondSourceAfter: Bool? = nil,
        startedBy: String,
        startedAt: Date
    ) {
        self.number = number
        self.kind = kind
        self.pair = pair
        self.pairName = pairName
        self.volumeName = volumeName
        self.result = result
        self.isSecondSourceAfter = isSecondSourceAfter
        self.startedBy = startedBy
        self.startedAt = startedAt
        self.state = .new
        self.percentComplete = 0
        self.errorCode = 0
    }

    /// What people and programs name it by.
    package var id: String { "\(pairName).\(number)" }

    package var operation: ReplicationOperation? { kind.operation }

    private enum CodingKeys: String, CodingKey {
        case number, operation, pair, pairName, volumeName, result, isSecondSourceAfter, startedBy, startedAt, endedAt,
            state
        case percentComplete, errorCode, errorDescription, verify
    }

    package init(from decoder: any Decoder) throws {
        let container = try decoder.container(keyedBy: CodingKeys.self)
        number = try container.decode(UInt64.self, forKey: .number)
        let kind = JobKind(number: try container.decode(Int.self, forKey: .operation))
        let pair = PairID(try container.decode(String.self, forKey: .pair))
        guard let kind, let pair else {
            throw DecodingError.dataCorruptedError(
                forKey: .operation,
                in: container,
                debugDescription: "job \(number) has no operation of the table, or no pair id"
            )
        }
        self.kind = kind
        self.pair = pair
        pairName = try container.decode(String.self, forKey: .pairName)
        volumeName = try container.decode(String.self, forKey: .volumeName)
        result = try container.decodeIfPresent(UInt8.self, forKey: .result).flatMap { CopyState(rawValue: $0) }
        isSecondSourceAfter = try container.decodeIfPresent(Bool.self, forKey: .isSecondSourceAfter)
        startedBy = try container.decode(String.self, forKey: .startedBy)
        startedAt = try container.decode(Date.self, forKey: .startedAt)
        endedAt = try container.decodeIfPresent(Date.self, forKey: .endedAt)
        state = try container.decode(JobState.self, forKey: .state)
        percentComplete = try container.decode(Int.self, forKey: .percentComplete)
        errorCode = try container.decode(Int.self, forKey: .errorCode)
        errorDescription = try container.decodeIfPresent(String.self, forKey: .errorDescription)
        verify = try container.decodeIfPresent(VerifyReply.self, forKey: .verify)
    }

    package func encode(to encoder: any Encoder) throws {
        var container = encoder.container(keyedBy: CodingKeys.self)
        try container.encode(number, forKey: .number)
        try container.encode(kind.enumerated.number, forKey: .operation)
        try container.encode(pair.description, forKey: .pair)
        try container.encode(pairName, forKey: .pairName)
        try container.encode(volumeName, forKey: .volumeName)
        try container.encodeIfPresent(result?.rawValue, forKey: .result)
        try container.encodeIfPresent(isSecondSourceAfter, forKey: .isSecondSourceAfter)
        try container.encode(startedBy, forKey: .startedBy)
        try container.encode(startedAt, forKey: .startedAt)
        try container.encodeIfPresent(endedAt, forKey: .endedAt)
        try container.encode(state, forKey: .state)
        try container.encode(percentComplete, forKey: .percentComplete)
        try container.encode(errorCode, forKey: .errorCode)
        try container.encodeIfPresent(errorDescription, forKey: .errorDescription)
        try container.encodeIfPresent(verify, forKey: .verify)
    }
}

/// The durable record of jobs: a JSON file that people can read.
///
/// A job is in the file before its operation is begun, and its end when it has come; what happens between is in memory.
package struct JobLog: Sendable {
    /// How many jobs are kept after their end, and for how long.
    package static var endedLimit: Int { 200 }
    package static var endedAge: TimeInterval { 7 * 86400 }

    private struct Content: Codable {
        var format = "repld jobs"
        var version = 1
        var nextNumber: UInt64 = 1
        var jobs: [JobEntry] = []
    }

    private let path: FilePath
    private var content = Content()
    /// What was wrong with the file when it was opened; it was moved aside then.
    package private(set) var damage: String?
    /// Told of each step of each write; what it throws stands for a failed disk.
    ///
    /// For tests.
    package var atStep: @Sendable (DurableFile.Step) throws -> Void = { _ in }

    /// Reads the file; a damaged one is moved aside, because no data depends on it.
    package init(path: FilePath) throws(ControlError) {
        self.path = path
        guard FileManager.default.fileExists(atPath: path.string) else { return }
        do {
            let found = try ControlJSON.decode(Content.self, from: Data(contentsOf: URL(filePath: path.string)))
            guard found.format == content.format, found.version == content.version else {
                try moveAside("its format is '\(found.format)' version \(found.version), expected version 1")
                return
            }
            content = found
        } catch {
            try moveAside("\(error)")
        }
    }

    /// The jobs that are kept, the oldest first.
    package var jobs: [JobEntry] { content.jobs }

    /// The number of the job that is made next.
    package var nextNumber: UInt64 { content.nextNumber }

    package func job(_ number: UInt64) -> JobEntry? { content.jobs.first { $0.number == number } }

    package func job(id: String) -> JobEntry? { content.jobs.first { $0.id == id } }

    /// The newest job of a pair.
    package func newest(of pair: PairID) -> JobEntry? { content.jobs.last { $0.pair == pair } }

    /// The jobs of a pair that have not ended, the oldest first.
    package func running(of pair: PairID) -> [JobEntry] { content.jobs.filter { $0.pair == pair && !$0.state.isEnd } }

    /// Makes a job durable; after an error there is none.
    package mutating func add(_ make: (UInt64) -> JobEntry) throws(ControlError) -> JobEntry {
        var changed = content
        let job = make(changed.nextNumber)
        changed.nextNumber += 1
        changed.jobs.append(job)
        try write(changed)
        content = changed
        return job
    }

    /// Changes a job that has not ended, in memory.
    package mutating func update(_ number: UInt64, _ change: (inout JobEntry) -> Void) {
        guard let index = content.jobs.firstIndex(where: { $0.number == number && !$0.state.isEnd }) else { return }
        change(&content.jobs[index])
    }

    /// Ends a job and makes that durable.
    ///
    /// After an error it has ended in memory, and is in the file with the next write.
    package mutating func end(_ number: UInt64, at time: Date, _ change: (inout JobEntry) -> Void) throws(ControlError)
    {
        update(number) { job in
            change(&job)
            job.endedAt = time
        }
        prune(at: time)
        try write(content)
    }

    /// Forgets what ended long ago, and the oldest of too many.
    private mutating func prune(at time: Date) {
        content.jobs.removeAll { job in
            job.endedAt.map { time.timeIntervalSince($0) > Self.endedAge } ?? false
        }
        var excess = content.jobs.count { $0.state.isEnd } - Self.endedLimit
        content.jobs.removeAll { job in
            guard excess > 0, job.state.isEnd else { return false }
            excess -= 1
            return true
        }
        // Ranges may be thousands; those of an older verify say nothing that the newest does not.
        var verified: Set<PairID> = []
        for index in content.jobs.indices.reversed() where content.jobs[index].verify?.ranges != nil {
            if !verified.insert(content.jobs[index].pair).inserted { content.jobs[index].verify?.ranges = nil }
        }
    }

    private func write(_ content: Content) throws(ControlError) {
        do {
            var bytes = try ControlJSON.encode(content, isPretty: true)
            bytes.append(UInt8(ascii: "\n"))
            try DurableFile.replace(path, with: bytes, atStep: atStep)
        } catch {
            throw ControlError(
                .stateDirectory,
                "cannot write the jobs \(path)",
                suggestion: "check the space and the permissions of that directory",
                underlying: error
            )
        }
    }

    private mutating func moveAside(_ words: String) throws(ControlError) {
        let other = path.removingLastComponent().appending("\(path.lastComponent?.string ?? "").damaged")
        do {
            try? FileManager.default.removeItem(atPath: other.string)
            try FileManager.default.moveItem(atPath: path.string, toPath: other.string)
        } catch {
            throw ControlError(.stateDirectory, "cannot move the damaged jobs \(path) aside", underlying: error)
        }
        damage = "the jobs \(path) cannot be read and are now \(other): \(words)"
        // Numbers that may have been given are not given again.
        content = Content()
        content.nextNumber = UInt64(max(1, Date().timeIntervalSince1970))
    }
}
