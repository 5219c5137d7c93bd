internal import RepldEngine

/// One examination of data, from its start to its completion: it looks at the memory at its end, as a slow thread does.
@safe
struct SimulatedExamination {
    let examination: DataExamination
    let token: Token
    let dueAt: UInt64
    let sequence: UInt64
    /// What was to be examined, to see whether somebody has used the memory for something else meanwhile.
    private let first: [UInt8]
    private let second: [UInt8]

    init(_ examination: DataExamination, token: Token, dueAt: UInt64, sequence: UInt64) {
        self.examination = examination
        self.token = token
        self.dueAt = dueAt
        self.sequence = sequence
        first = unsafe Array(examination.first)
        second = unsafe Array(examination.second)
    }

    var isUntouched: Bool {
        unsafe first.withUnsafeBytes { unsafe DataExamination.isEqual($0, examination.first) }
            && second.withUnsafeBytes { unsafe DataExamination.isEqual($0, examination.second) }
    }
}
