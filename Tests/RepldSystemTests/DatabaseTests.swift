import Foundation
import RepldTestSupport
import Testing

extension SystemTests {
    /// What the pair is for: the host of a database dies, and the database goes on at the other host.
    @Suite(
        "A database on a pair between two hosts",
        RequirementTrait(
            requirements: Database.requirements + [
                .product("repld"), .product("replctl"), .tool("ip"), .tool("tc"), .tool("python3"),
            ]
        )
    )
    struct DatabaseTests {
        private static let volumeByteCount = 192 * mebibyte
        private static let sessionCount = 4

        @Test("that is synchronous starts at the other host with every acknowledged transaction")
        func synchronous() throws {
            try Torture.run("database on a synchronous pair") { bed, torture in
                let load = try Load(bed, sessionCount: Self.sessionCount, byteCount: Self.volumeByteCount)
                try load.start()
                try load.waitForWrites(torture.number(100...1500))
                try torture.pause(atMostMicroseconds: 20_000)
                try load.killHost()
                let journal = try load.finish()
                let database = try load.takeOver(isForced: false)
                let survivors = try database.transactions()
                torture.say("\(journal.acknowledgedCount) transactions acknowledged, \(survivors.count) there")
                #expect(journal.missing(in: survivors) == [], "acknowledged transactions are gone")
                #expect(journal.holes(in: survivors) == [])
                try load.expectUsable(database)
            }
        }

        @Test(
            "that is asynchronous and behind starts at the other host with the first of its transactions, and no hole"
        )
        func asynchronous() throws {
            try Torture.run("database on an asynchronous pair") { bed, torture in
                let load = try Load(bed, sessionCount: Self.sessionCount, byteCount: Self.volumeByteCount)
                try load.makeAsynchronous()
                try load.network.limit(megabitsPerSecond: 8)
                try load.start()
                try load.waitForWrites(torture.number(100...800))
                try torture.pause(atMostMicroseconds: 20_000)
                // What is acknowledged from here on, the other host never hears of.
                try load.network.setSilent(true)
                try load.waitForTransactions(torture.number(1...50))
                let words = try load.hosts.north.process.errors()
                #expect(!words.contains("Skewed"), "all that the copy has came in the order of writing")
                try load.killHost()
                let journal = try load.finish()
                let database = try load.takeOver(isForced: true)
                let survivors = try database.transactions()
                torture.say("\(journal.acknowledgedCount) transactions acknowledged, \(survivors.count) there")
                #expect(!journal.missing(in: survivors).isEmpty, "the copy was behind")
                #expect(journal.holes(in: survivors) == [])
                try load.expectUsable(database)
            }
        }
    }

    /// The check of the tests above finds what it is there for.
    @Suite("A journal of transactions")
    struct CommitJournalTests {
        /// Two sessions: 1, 3 and 5 by the one, 2 and 4 by the other; 4 and 5 are not answered any more.
        private static let text = """
            begun 1
            begun 2
            acknowledged 1
            begun 3
            acknowledged 3
            acknowledged 2
            begun 4
            begun 5

            """

        @Test(
            "takes every beginning of what was committed for one",
            arguments: [[], [1], [2], [1, 2], [1, 3], [1, 2, 3], [1, 2, 3, 4], [1, 2, 3, 5], [1, 2, 3, 4, 5]]
        )
        func prefixes(survivors: [Int]) throws {
            let journal = try CommitJournal(Self.text)
            #expect(journal.acknowledgedCount == 3)
            #expect(journal.holes(in: Set(survivors)) == [])
        }

        @Test("finds a hole", arguments: [([3], 3, 1), ([2, 3], 3, 1), ([1, 3, 4], 4, 2), ([1, 2, 5], 5, 3)])
        func hole(survivors: [Int], later: Int, missing: Int) throws {
            let words = "\(later) is there, and \(missing) is not, which was acknowledged before it began"
            #expect(try CommitJournal(Self.text).holes(in: Set(survivors)) == [words])
        }

        @Test("finds a transaction that nobody began")
        func invented() throws {
            let words = "6 is there, and was never begun"
            #expect(try CommitJournal(Self.text).holes(in: [1, 2, 3, 6]) == [words])
        }

        @Test("finds an acknowledged transaction that is gone, also at the end")
        func missing() throws {
            let journal = try CommitJournal(Self.text)
            #expect(journal.missing(in: [1, 2, 3]) == [], "4 and 5 were not acknowledged")
            #expect(journal.missing(in: [1, 3]) == [2])
            #expect(journal.missing(in: [1, 2]) == [3])
            #expect(journal.missing(in: []) == [1, 3, 2])
        }

        @Test("has no lines but its own", arguments: ["begun", "begun x", "ended 1", "acknowledged 1 2"])
        func lines(line: String) {
            #expect(throws: Outcome.Failed.self) { try CommitJournal(line) }
        }
    }
}

/// Transactions on a database whose volume is the source of a pair, up to the death of its host and after it.
private final class Load {
    let hosts: HostPair
    let network: TestNetwork
    private let bed: TestBed
    private let database: Database
    private let sessionCount: Int
    private var client: Child?

    private var journalPath: String { bed.path("transactions") }

    /// Starts two hosts, a pair that is in step, and a database with empty tables on its source.
    init(_ bed: TestBed, sessionCount: Int, byteCount: UInt64) throws {
        self.bed = bed
        self.sessionCount = sessionCount
        network = try TestNetwork(bed: bed)
        hosts = try HostPair(bed, byteCount: byteCount, network: network)
        try hosts.create()
        database = try Database(bed, name: "north", on: hosts.north, volume: Mirror.volume)
        try database.make()
        try database.start()
        try database.makeTables(sessionCount: sessionCount)
    }

    func makeAsynchronous() throws {
        try hosts.north.controls("set", Mirror.pair, "ResetToAsync")
        try hosts.north.wait(for: "the pair is asynchronous") { try self.hosts.pair().mode.name == "Asynchronous" }
    }

    func start() throws {
        client = try database.startTransactions(journalPath: journalPath, sessionCount: sessionCount)
        try waitForTransactions(1)
    }

    /// Waits until the volume has so many writes more.
    func waitForWrites(_ count: UInt64) throws {
        let before = try hosts.north.activity(Mirror.volume).writeCount
        try hosts.mirror.waitForWrites(before + count)
    }

    /// Waits until so many transactions more are acknowledged.
    func waitForTransactions(_ count: UInt64) throws {
        let before = try journal().acknowledgedCount
        try hosts.north.wait(for: "\(count) transactions") {
            guard client?.isRunning == true else {
                throw Outcome.Failed(description: "the transactions ended early\n\(client?.tail() ?? "")")
            }
            return try journal().acknowledgedCount >= before + Int(count)
        }
    }

    /// What is written so far; the last line may be on its way.
    private func journal() throws -> CommitJournal {
        let text = (try? String(contentsOfFile: journalPath, encoding: .utf8)) ?? ""
        return try CommitJournal(String(text[..<(text.lastIndex(of: "\n") ?? text.startIndex)]))
    }

    /// Ends the daemon at whatever it does, and then all that stands on it.
    func killHost() throws {
        try hosts.north.kill()
        try database.die()
    }

    /// What the clients were told, when they have all ended.
    func finish() throws -> CommitJournal {
        let client = try #require(client)
        #expect(try client.wait(atMost: .hang) == .exited(0), "\(client.tail())")
        return try journal()
    }

    /// Lets the copy's host serve, and starts the database there.
    func takeOver(isForced: Bool) throws -> Database {
        try hosts.takeOver(isForced: isForced)
        let database = try Database(bed, name: "south", on: hosts.south, volume: HostPair.copy)
        try database.mount()
        try database.start()
        #expect(try database.hasRecovered(), "nobody stopped the database: it has to recover")
        return database
    }

    /// The database takes transactions, and is whole when it is stopped.
    func expectUsable(_ database: Database) throws {
        try database.query("INSERT INTO entries VALUES (0, 0, 'after the takeover')")
        #expect(try database.query("SELECT filler FROM entries WHERE number = 0") == "after the takeover\n")
        try database.stopAndCheck()
    }
}

extension HostPair {
    /// Lets the copy's host serve, when the source's host is gone: without force only where nothing can be missing.
    func takeOver(isForced: Bool) throws {
        try south.waitUntilSourceIsGone()
        if isForced {
            try south.controls("set", Mirror.pair, "Failover", "--wait", "Failedover", "--force")
        } else {
            try south.controls("set", Mirror.pair, "Failover", "--wait", "Failedover")
        }
        #expect(try isCopyExported(), "the copy's host serves")
    }
}
