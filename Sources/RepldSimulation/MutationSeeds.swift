package import RepldCore

/// What finds each mutation: runs of one kind, begun with seed 1.
extension Mutation {
    /// The rule of the data that it breaks.
    package var rule: Int { row.rule }
    /// The runs that find it.
    package var kind: SimulationKind { row.kind }
    /// How many seeds may be needed at most: more than it takes now, so that the simulation can change a little.
    package var seedBudget: UInt64 { row.seeds }

    private var row: (rule: Int, kind: SimulationKind, seeds: UInt64) {
        switch self {
        case .flushSkipsTarget: (1, .host, 20)
        case .forcedWriteSkipsTarget: (1, .host, 20)
        case .answersBeforeTarget: (1, .host, 20)
        case .discardsSourceOnly: (1, .host, 10)
        case .servesDirtyFromTarget: (1, .host, 60)
        case .passesGateUndrained: (1, .host, 10)
        case .writesBeforeLog: (2, .host, 150)
        case .evictsBeforePages: (2, .host, 200)
        case .evictsBeforeFlush: (2, .host, 300)
        case .forgetsInFlight: (2, .host, 10)
        case .forgetsUnflushed: (2, .host, 100)
        case .clearsBeforeFlush: (3, .host, 20)
        case .clearsMarkedAgain: (3, .host, 30)
        case .clearsOnReconnect: (3, .hosts, 10)
        case .takesDataForZeroes: (3, .hosts, 10)
        case .dropsVerifyMarks: (3, .host, 10)
        case .answersBeforeRecord: (4, .host, 200)
        case .copiesWithoutLock: (5, .host, 20)
        case .writesWithoutLock: (5, .host, 10)
        case .mixesEpochs: (6, .hosts, 20)
        case .appliesEpochsTogether: (6, .hosts, 40)
        case .skipsEpochFlush: (6, .hosts, 20)
        case .overwritesBeforeSaved: (7, .host, 200)
        case .replicaOverwritesBeforeSaved: (7, .hosts, 20)
        case .callsHalfCopyUsable: (7, .hosts, 25)
        case .waitsForStuckTarget: (8, .host, 10)
        case .ignoresTerm: (9, .moves, 10)
        case .servesOnAfterTakeover: (9, .moves, 10)
        case .claimsAnyRecord: (9, .moves, 80)
        case .trustsDamagedPage: (10, .host, 150)
        case .trustsDamagedRecord: (10, .host, 250)
        case .recordsMoveOnce: (11, .host, 10)
        case .forgetsActive: (11, .host, 10)
        }
    }
}
