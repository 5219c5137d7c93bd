import Foundation
import Glibc
import RepldTestSupport
import Testing

/// A PostgreSQL server whose files are on a volume: nbdfuse makes the volume a file, loop a device, and ext4 is on that.
final class Database {
    private unowned let bed: TestBed
    private let name: String
    private let device: LoopDevice
    private let mountPoint: String
    /// Where the server's socket is, which is not on the volume.
    private let socketFolder: String
    private var isMounted = false
    private var server: Child?

    private static let programs = "/usr/lib/postgresql/15/bin"
    private static let user = "postgres"
    private static let ledger = "ledger"
    /// What the tests need of a machine.
    static let requirements: [Requirement] =
        [.root, .loopDevices, .fuse] + ["nbdfuse", "mkfs.ext4", "e2fsck", "unshare"].map { .tool($0) }
        + ["postgres", "initdb", "psql", "pg_isready", "pg_amcheck", "pg_checksums"].map { .tool("\(programs)/\($0)") }

    private var dataFolder: String { "\(mountPoint)/data" }
    private var connection: [String] { ["-h", socketFolder, "-U", Self.user] }

    /// Makes the volume a device; `name` is that of the host that it is on.
    init(_ bed: TestBed, name: String, on daemon: Daemon, volume: String) throws {
        self.bed = bed
        self.name = name
        device = try bed.loopDevice(
            backing: bed.nbdFile("\(name)-disk", socket: daemon.nbdSocket, exportName: volume)
        )
        mountPoint = bed.path("\(name)-files")
        socketFolder = bed.path("\(name)-socket")
        for folder in [mountPoint, socketFolder] {
            try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: false)
        }
        try bed.runs("chown", [Self.user, socketFolder])
    }

    // MARK: - Its files

    /// Makes the file system and an empty cluster.
    func make() throws {
        try bed.runs("mkfs.ext4", ["-q", device.path])
        try mount()
        try bed.runs("install", ["-d", "-m", "700", "-o", Self.user, "-g", Self.user, dataFolder])
        let options = [
            "--wal-segsize=1", "--data-checksums", "--no-locale", "--encoding=UTF8", "--auth=trust", "--no-sync",
        ]
        let command = Self.launcher + ["\(Self.programs)/initdb", "-D", dataFolder] + options
        try bed.runs(command[0], Array(command.dropFirst()))
        try bed.runs("sync", ["-f", mountPoint])
    }

    func mount() throws {
        try bed.runs("mount", ["-t", "ext4", device.path, mountPoint])
        isMounted = true
        bed.onCleanup("unmount \(mountPoint)") { try self.unmount(isLazy: true) }
    }

    private func unmount(isLazy: Bool) throws {
        guard isMounted else { return }
        try bed.runs("umount", (isLazy ? ["--lazy"] : []) + [mountPoint])
        isMounted = false
    }

    // MARK: - Its server

    /// Begins a program as the server's user, in process and IPC namespaces of its own: all of it ends with its first process, and
    /// no shared memory stays.
    ///
    /// The directories of tests are root's; the user gets no more than to pass through them. A change of user takes back what
    /// was asked for the parent's death, so that it is asked for again.
    private static let launcher =
        ["unshare", "--pid", "--ipc", "--fork", "--kill-child", "--", "setpriv"]
        + ["--reuid", user, "--regid", user, "--clear-groups", "--pdeathsig", "KILL"]
        + ["--inh-caps", "+dac_read_search", "--ambient-caps", "+dac_read_search", "--"]

    /// Starts the server and waits until it takes transactions, after a recovery where it needs one.
    func start() throws {
        let settings = [
            "listen_addresses=", "unix_socket_directories=\(socketFolder)", "max_connections=20", "shared_buffers=16MB",
            "fsync=on", "full_page_writes=on", "synchronous_commit=on", "wal_level=minimal", "max_wal_senders=0",
            // A checkpoint every few thousand transactions: what is written is not only the log.
            "min_wal_size=2MB", "max_wal_size=4MB", "checkpoint_warning=0", "dynamic_shared_memory_type=sysv",
        ]
        let arguments = ["-D", dataFolder] + settings.flatMap { ["-c", $0] }
        let server = try bed.start("\(Self.programs)/postgres", arguments, launcher: Self.launcher)
        self.server = server
        let deadline = Deadline(after: .hang)
        while try !bed.run("\(Self.programs)/pg_isready", ["-q"] + connection).isSuccess {
            guard server.isRunning, deadline.millisecondsLeft > 0 else {
                throw Outcome.Failed(description: "the database of \(name) does not start\n\(server.tail())")
            }
        }
    }

    /// Whether the server found that it had not been stopped, and recovered.
    func hasRecovered() throws -> Bool {
        let words = server?.errors() ?? ""
        return words.contains("database system was not properly shut down; automatic recovery in progress")
    }

    /// Ends all that runs here and uses the volume, as the end of its host does.
    func die() throws {
        server?.end(with: SIGKILL)
        _ = try server?.wait(atMost: .hang)
        try unmount(isLazy: true)
    }

    /// Asks the server to stop, unmounts, and looks at all that is left: every page has its checksum, the file system is whole.
    func stopAndCheck() throws {
        // To all of its group: `unshare`, which is its first, does not hand signals on.
        server?.end(with: SIGINT)
        let ending = try server?.wait(atMost: .hang)
        #expect(ending == .exited(0), "\(server?.tail() ?? "")")
        try bed.runs("\(Self.programs)/pg_checksums", ["--check", "-D", dataFolder])
        try unmount(isLazy: false)
        try bed.runs("e2fsck", ["-fn", device.path])
    }

    // MARK: - Its transactions

    /// Makes the tables that `Clients/transactions.py` writes to.
    func makeTables(sessionCount: Int) throws {
        try bed.runs(
            "\(Self.programs)/psql",
            ["-Xq", "-d", "postgres", "-c", "CREATE DATABASE \(Self.ledger)"] + connection
        )
        try query("CREATE TABLE entries (number int PRIMARY KEY, session int NOT NULL, filler text NOT NULL)")
        try query("CREATE TABLE sessions (session int PRIMARY KEY, entry_count int NOT NULL, last_number int)")
        try query("INSERT INTO sessions SELECT n, 0, NULL FROM generate_series(1, \(sessionCount)) n")
        try query("CHECKPOINT")
    }

    /// Runs a statement, and returns the rows that it has, one per line.
    @discardableResult
    func query(_ statement: String) throws -> String {
        try bed.runs(
            "\(Self.programs)/psql",
            ["-XqAt", "-v", "ON_ERROR_STOP=1", "-d", Self.ledger, "-c", statement] + connection
        )
    }

    /// Starts to commit numbered transactions, until the server goes.
    func startTransactions(journalPath: String, sessionCount: Int) throws -> Child {
        let folder = URL(filePath: #filePath).deletingLastPathComponent().path(percentEncoded: false)
        let arguments = ["\(Self.programs)/psql", socketFolder, Self.ledger, journalPath, String(sessionCount)]
        return try bed.start("/usr/bin/python3", ["-B", folder + "/Clients/transactions.py"] + arguments)
    }

    /// The numbers of the transactions that are there, each of them whole, in tables and indexes that agree.
    func transactions() throws -> Set<Int> {
        let numbers = try query("SELECT number FROM entries ORDER BY number").split(separator: "\n")
        let torn = try query(
            """
            SELECT session, entry_count, last_number, count(number), max(number)
            FROM sessions LEFT JOIN entries USING (session) GROUP BY session
            HAVING entry_count <> count(number) OR last_number IS DISTINCT FROM max(number)
            """
        )
        #expect(torn.isEmpty, "a transaction is there in parts: \(torn)")
        let options = ["--install-missing", "--heapallindexed", "-d", Self.ledger]
        try bed.runs("\(Self.programs)/pg_amcheck", options + connection)
        return Set(numbers.compactMap { Int($0) })
    }
}
