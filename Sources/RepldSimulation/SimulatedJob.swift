internal import RepldEngine

/// Work on data in memory, from its start to its completion: it looks at the memory at its end, as a slow thread does.
@safe
struct SimulatedJob {
    @safe
    enum Work {
        case examine(DataExamination)
        case recode(DataRecoding)
    }

    let work: Work
    let token: Token
    let dueAt: UInt64
    let sequence: UInt64
    /// What the work is about, to see whether somebody has used the memory for something else meanwhile.
    private let first: [UInt8]
    private let second: [UInt8]

    init(_ work: Work, token: Token, dueAt: UInt64, sequence: UInt64) {
        self.work = work
        self.token = token
        self.dueAt = dueAt
        self.sequence = sequence
        switch work {
        case .examine(let examination):
            first = unsafe Array(examination.first)
            second = unsafe Array(examination.second)
        case .recode(let recoding):
            first = unsafe Array(recoding.source)
            second = []
        }
    }

    var isUntouched: Bool {
        switch work {
        case .examine(let examination):
            unsafe Self.holds(examination.first, first) && Self.holds(examination.second, second)
        case .recode(let recoding):
            unsafe Self.holds(recoding.source, first)
        }
    }

    /// Does the work; the count that its completion tells.
    func carryOut() -> UInt32 {
        switch work {
        case .examine(let examination): examination.isMatch ? 1 : 0
        case .recode(let recoding): UInt32(recoding.carryOut())
        }
    }

    private static func holds(_ memory: UnsafeRawBufferPointer, _ bytes: [UInt8]) -> Bool {
        unsafe bytes.withUnsafeBytes { unsafe DataExamination.isEqual($0, memory) }
    }
}
