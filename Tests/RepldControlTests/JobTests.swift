import Foundation
import RepldControl
import RepldControlAPI
import RepldCore
import RepldEngine
import RepldPair
import Synchronization
import SystemPackage
import Testing

@Suite struct JobTests {
    private func jobs(_ directory: TemporaryDirectory) throws -> JobLog {
        try JobLog(path: FilePath(directory.file("state/jobs.json")))
    }

    @Test func isDurableBeforeItsOperationIsHandedOver() async throws {
        let fixture = try await ServiceFixture.paired(activates: false)
        let path = fixture.directory.file("state/jobs.json")
        let seen = Mutex<[String]>([])
        fixture.plane.beforeEachCall { call in
            guard case .operate = call else { return }
            let text = try? String(contentsOfFile: path, encoding: .utf8)
            seen.withLock { $0.append(text ?? "") }
        }
        let reply = try await fixture.set(.name("Activate"))
        #expect(reply.job == "m1.1")
        let file = try #require(seen.withLock { $0.first })
        #expect(file.contains("\"number\" : 1") && file.contains("\"state\" : 2"))
    }

    @Test func aJobThatCannotBeMadeStartsNothing() async throws {
        let fixture = try await ServiceFixture.paired(activates: false)
        let calls = fixture.plane.calls
        await fixture.service.observeJobWrites { _ in throw Errno.noSpace }
        let error = await refusal { try await fixture.set(.name("Activate")) }
        #expect(error?.code == .stateDirectory)
        #expect(fixture.plane.calls == calls)
        #expect(try await fixture.service.jobList().isEmpty)
    }

    /// How an operation ends, and what its job says then.
    @Test(
        arguments: [
            (nil as OperationFailure?, JobState.completed, 0), (.pairBroken, .exception, 4),
            (.superseded(by: .suspend), .terminated, 4), (.cancelled, .terminated, 4), (.drainTimedOut, .exception, 3),
            (.flushFailed(.inputOutput), .exception, 4), (.recordFailed(.inputOutput), .exception, 4),
        ]
    )
    func endsAsItsOperationDid(failure: OperationFailure?, state: JobState, code: Int) async throws {
        let fixture = try await ServiceFixture.paired()
        try await fixture.following { fixture.plane.finish(failure: failure) }
        let job = try await fixture.service.job(id: "m1.1")
        #expect(job.state == Enumerated(state))
        #expect(job.errorCode == code)
        #expect(job.errorDescription == failure?.words)
        #expect(job.endedAt != nil)
        #expect((job.percentComplete == 100) == (failure == nil))
        #expect(try jobs(fixture.directory).job(1)?.state == state)
        #expect(await fixture.service.events(after: 0).last?.kind == "job-ended")
    }

    @Test func showsHowFarItIs() async throws {
        let fixture = try await ServiceFixture.paired()
        fixture.plane.progress(done: 256 << 10)
        let job = try await fixture.service.job(id: "m1.1")
        #expect(job.percentComplete == 25)
        #expect(job.state == Enumerated(JobState.running))
        #expect(job.startedBy == "control socket" && job.pair == "m1" && job.volume == "db1")
        #expect(try await fixture.pair().job?.id == job.id)
    }

    /// A job that took the place of another ends the older one, and not itself, when that one's end is told.
    @Test func endsAreToldInOrder() async throws {
        let fixture = try await ServiceFixture.paired()
        _ = try await fixture.set(.name("Suspend"))
        _ = try await fixture.set(.name("Resume"))
        _ = try await fixture.set(.name("Suspend"))
        _ = try await fixture.set(.name("Resume"))
        try await fixture.following {}
        let states = try await fixture.service.jobList().map { ($0.id, $0.state.number) }
        #expect(states.map(\.0) == ["m1.3", "m1.2", "m1.1"])
        #expect(states.map(\.1) == [4, 8, 8])
    }

    @Test func isWaitedForWithoutAsking() async throws {
        let fixture = try await ServiceFixture.paired()
        let follower = Task { await fixture.service.followDataPlane() }
        async let waiting = fixture.service.job(id: "m1.1", waitingSeconds: nil)
        fixture.plane.become(.synchronized)
        #expect(try await waiting.state == Enumerated(JobState.completed))
        await fixture.service.stop()
        await follower.value
    }

    @Test func aWaitThatRunsOutShowsTheJobAsItIs() async throws {
        let fixture = try await ServiceFixture.paired()
        let job = try await fixture.service.job(id: "m1.1", waitingSeconds: 0)
        #expect(job.state == Enumerated(JobState.running))
        let error = await refusal { try await fixture.service.job(id: "m1.7", waitingSeconds: 0) }
        #expect(error?.code.returnCode == .objectNotFound)
        #expect(error?.suggestion == "did you mean 'm1.1'?")
    }

    @Test func isCancelled() async throws {
        let fixture = try await ServiceFixture.paired()
        let cancelled = try await fixture.service.cancelJob(id: "m1.1")
        #expect(cancelled.state == Enumerated(JobState.shuttingDown))
        try await fixture.following {}
        let job = try await fixture.service.job(id: "m1.1")
        #expect(job.state == Enumerated(JobState.terminated) && job.errorDescription == "cancelled")
        #expect(try await fixture.pair().copyState == Enumerated(CopyState.suspended))
        let error = await refusal { try await fixture.service.cancelJob(id: "m1.1") }
        #expect(error?.message == "job m1.1 is over: it is Terminated")
    }

    @Test func aRestoreIsNotCancelled() async throws {
        let fixture = try await ServiceFixture.paired()
        fixture.plane.become(.synchronized)
        fixture.plane.become(.split)
        let job = try #require(try await fixture.set(.name("RestoreFromReplica")).job)
        let error = await refusal { try await fixture.service.cancelJob(id: job) }
        #expect(error?.code == .cannotCancel)
        #expect(error?.message.contains("half restored") == true)
        #expect(!fixture.plane.calls.contains(.cancelOperation))
    }

    @Test func endsWithItsPair() async throws {
        let fixture = try await ServiceFixture.paired()
        _ = try await fixture.set(.name("Detach"), force: true)
        let job = try await fixture.service.job(id: "m1.1")
        #expect(job.state == Enumerated(JobState.terminated))
        #expect(job.errorDescription == "Detach took its place")
    }

    /// What a pair does after a start, and what that means for the job that ran.
    @Test func isNeverLostByARestart() async throws {
        let fixture = try await ServiceFixture.paired()
        let going = try fixture.afterKill()
        try await going.service.start()
        #expect(try await going.service.job(id: "m1.1").state == Enumerated(JobState.running))
        try await going.following { going.plane.finish() }
        #expect(try await going.service.job(id: "m1.1").state == Enumerated(JobState.completed))

        fixture.plane.become(.synchronized)
        let done = try fixture.afterKill()
        try await done.service.start()
        #expect(try await done.service.job(id: "m1.1").state == Enumerated(JobState.completed))

        fixture.plane.become(.suspended)
        let other = try fixture.afterKill()
        try await other.service.start()
        let failed = try await other.service.job(id: "m1.1")
        #expect(failed.state == Enumerated(JobState.exception))
        let words = "the daemon was stopped or killed while it ran; the pair is Suspended"
        #expect(failed.errorDescription == words)

        let missing = try fixture.afterKill()
        missing.plane.breakElement(fixture.directory.file("target"))
        try await missing.service.start()
        let lost = try await missing.service.job(id: "m1.1")
        #expect(lost.state == Enumerated(JobState.exception))
        #expect(lost.errorDescription?.contains("it is on fire") == true)
    }

    /// A kill between the job and its operation.
    @Test func aJobWhoseOperationNeverBeganFails() async throws {
        let fixture = try await ServiceFixture.paired(activates: false)
        let killed = Killed()
        let state = fixture.directory.file("state")
        fixture.plane.beforeEachCall { call in killed.snapshot(state, "\(call)") }
        _ = try await fixture.set(.name("Activate"))
        let (directory, _) = try #require(killed.take().first)
        let after = try ServiceFixture(in: directory)
        try await after.service.start()
        #expect(try await after.service.job(id: "m1.1").state == Enumerated(JobState.exception))
        #expect(try await after.pair().copyState == Enumerated(CopyState.initialized))
    }

    @Test func lostEventsAreMadeUpFor() async throws {
        let fixture = try await ServiceFixture.paired()
        fixture.plane.setFacts { facts in
            (facts.copyState, facts.operation) = (.synchronized, nil)
        }
        try await fixture.following { fixture.plane.tell(.eventsLost(3)) }
        #expect(try await fixture.service.job(id: "m1.1").state == Enumerated(JobState.completed))
    }
}

@Suite struct JobLogTests {
    private func add(to log: inout JobLog) throws -> JobEntry {
        try log.add { number in
            JobEntry(
                number: number,
                kind: .operation(.activate),
                pair: PairID(high: 1, low: 2),
                pairName: "m1",
                volumeName: "db1",
                result: .synchronized,
                startedBy: "test",
                startedAt: Date(timeIntervalSince1970: 0)
            )
        }
    }

    @Test func keepsTheLastAndForgetsTheOld() throws {
        let directory = try TemporaryDirectory()
        var log = try JobLog(path: FilePath(directory.file("jobs.json")))
        let running = try add(to: &log)
        for second in 0..<JobLog.endedLimit + 10 {
            let job = try add(to: &log)
            try log.end(job.number, at: Date(timeIntervalSince1970: Double(second))) { $0.state = .completed }
        }
        #expect(log.jobs.count == JobLog.endedLimit + 1)
        #expect(log.jobs.first?.number == running.number)
        #expect(log.jobs[1].number == 12)
        let last = try add(to: &log)
        let later = Date(timeIntervalSince1970: JobLog.endedAge + 1000)
        try log.end(last.number, at: later) { $0.state = .exception }
        #expect(log.jobs.map(\.number) == [running.number, last.number])
        let read = try JobLog(path: FilePath(directory.file("jobs.json")))
        #expect(read.jobs == log.jobs)
        #expect(read.damage == nil)
    }

    @Test func onlyTheNewestVerifyOfAPairKeepsItsRanges() throws {
        let directory = try TemporaryDirectory()
        var log = try JobLog(path: FilePath(directory.file("jobs.json")))
        for count in 1...3 {
            let job = try add(to: &log)
            try log.end(job.number, at: Date(timeIntervalSince1970: 0)) { job in
                (job.kind, job.state) = (.verify, .completed)
                job.verify = VerifyReply(digest: "XXH64", offset: 0, length: 1 << 20)
                job.verify?.ranges = Array(repeating: .init(offset: 0, length: 512), count: count)
            }
        }
        #expect(log.jobs.map { $0.verify?.ranges?.count } == [nil, nil, 3])
        #expect(try JobLog(path: FilePath(directory.file("jobs.json"))).jobs == log.jobs)
    }

    /// No data depends on the file: a damaged one is put aside, and numbers are not given again.
    @Test(arguments: ["", "garbage", #"{"format":"repld jobs","version":9,"nextNumber":1,"jobs":[]}"#])
    func aDamagedFileIsMovedAside(text: String) throws {
        let directory = try TemporaryDirectory()
        let path = directory.file("jobs.json")
        try Data(text.utf8).write(to: URL(filePath: path))
        var log = try JobLog(path: FilePath(path))
        #expect(log.damage?.contains("\(path).damaged") == true)
        #expect(try String(contentsOfFile: path + ".damaged", encoding: .utf8) == text)
        #expect(try add(to: &log).number > 1_000_000)
    }

    @Test func theStandardsNumbersAreKept() {
        #expect(JobState.allCases.map(\.rawValue) == Array(2...11))
        #expect(JobState.allCases.filter(\.isEnd).map(\.rawValue) == [7, 8, 9, 10])
    }
}
