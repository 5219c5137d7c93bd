import RepldControl
import RepldControlAPI
import RepldCore
import RepldEngine
import RepldPair
import SystemPackage
import Testing

/// Verify as the control plane has it: a job, events, refusals in words.
@Suite struct VerifyServiceTests {
    private func synchronized() async throws -> ServiceFixture {
        let fixture = try await ServiceFixture.paired()
        fixture.plane.setFacts { facts in
            facts = PairFacts(copyState: .synchronized, isTargetConsistent: true)
        }
        return fixture
    }

    private func verify(_ fixture: ServiceFixture, _ request: VerifyRequest = VerifyRequest()) async throws -> String {
        let reply = try await fixture.service.verify(pair: "m1", request)
        #expect(reply.returnCode == Enumerated(.jobStarted))
        return try #require(reply.job)
    }

    @Test func isAJobThatTellsHowFarItIsAndWhatItFound() async throws {
        let fixture = try await synchronized()
        let id = try await verify(fixture)
        #expect(fixture.plane.calls.contains(.verify(Extent(offset: 0, length: 1 << 20))))
        fixture.plane.progressVerify { counts in
            counts.doneByteCount = 512 << 10
            counts.skippedCount = 3
        }
        let running = try await fixture.service.job(id: id)
        #expect(running.operation == .verify && running.operation.number == 32768)
        #expect(running.state == Enumerated(JobState.running) && running.percentComplete == 50)
        #expect(running.verify?.skippedCount == 3 && running.verify?.digest == "XXH64 per 4 KiB")
        let ranges = [Extent(offset: 512, length: 1024), Extent(offset: 65536, length: 512)]
        try await fixture.following { fixture.plane.endVerify(ranges: ranges) }
        let ended = try await fixture.service.job(id: id)
        #expect(ended.state == Enumerated(JobState.completed) && ended.percentComplete == 100)
        #expect(ended.verify?.differentByteCount == 1536 && ended.verify?.comparedByteCount == 1 << 20)
        #expect(ended.verify?.ranges == ranges.map { VerifyReply.Range(offset: $0.offset, length: $0.length) })
        // Lists are read often: they do not have the ranges.
        #expect(try await fixture.service.jobList().first?.verify?.ranges == nil)
        let pair = try await fixture.pair()
        #expect(pair.verifyMarkedByteCount == 1536 && pair.job?.verify?.ranges == nil)
        let event = await fixture.service.events(after: 0).last { $0.kind == "verify-ended" }
        #expect(event?.message.contains("1536 bytes differ: 512+1024 65536+512") == true)
    }

    @Test func theResultIsInTheFile() async throws {
        let fixture = try await synchronized()
        let id = try await verify(fixture)
        try await fixture.following { fixture.plane.endVerify(ranges: [Extent(offset: 0, length: 512)]) }
        let log = try JobLog(path: FilePath(fixture.directory.file("state/jobs.json")))
        let job = try #require(log.job(id: id))
        #expect(log.damage == nil && job.kind == .verify && job.state == .completed)
        #expect(job.verify?.ranges == [VerifyReply.Range(offset: 0, length: 512)])
    }

    @Test(
        arguments: [
            (VerifyFailure.cancelled, JobState.terminated), (.detached, .terminated),
            (.leftSynchronized(.suspended), .exception), (.closing, .exception),
            (.sourceReadFailed(.inputOutput, Extent(offset: 0, length: 512)), .exception),
            (.recordFailed(.inputOutput), .exception),
        ]
    )
    func failsWithTheReason(failure: VerifyFailure, state: JobState) async throws {
        let fixture = try await synchronized()
        let id = try await verify(fixture)
        try await fixture.following { fixture.plane.endVerify(failure, ranges: [Extent(offset: 0, length: 512)]) }
        let job = try await fixture.service.job(id: id)
        #expect(job.state == Enumerated(state) && job.errorDescription == failure.words)
        #expect(job.verify?.ranges?.count == 1, "what was found by then is told")
    }

    @Test func isRefusedOutsideSynchronizedAndMakesNoJob() async throws {
        let fixture = try await ServiceFixture.paired()
        let jobs = try await fixture.service.jobList().count
        let error = await refusal { try await fixture.service.verify(pair: "m1", VerifyRequest()) }
        #expect(error?.message == "pair 'm1' is Unsynchronized: it is verified only while it is Synchronized")
        #expect(error?.status.acceptedFrom == [Enumerated(CopyState.synchronized)])
        #expect(try await fixture.service.jobList().count == jobs)
    }

    @Test func isRefusedTwiceAndOutsideTheVolume() async throws {
        let fixture = try await synchronized()
        for request in [
            VerifyRequest(offset: 1 << 20), VerifyRequest(length: 0), VerifyRequest(offset: 4096, length: 1 << 20),
            VerifyRequest(offset: 100), VerifyRequest(offset: 4096, length: 100), VerifyRequest(length: .max),
        ] {
            let error = await refusal { try await fixture.service.verify(pair: "m1", request) }
            #expect(error?.code == .invalidRequest)
        }
        _ = try await verify(fixture, VerifyRequest(offset: 4096, length: 8192))
        #expect(fixture.plane.calls.contains(.verify(Extent(offset: 4096, length: 8192))))
        let error = await refusal { try await fixture.service.verify(pair: "m1", VerifyRequest()) }
        #expect(error?.code == .operationUnderWay)
    }

    @Test func aRaceThatIsLostEndsItsJob() async throws {
        let fixture = try await synchronized()
        fixture.plane.refuseNext(.verifyRefused(.state(.broken)))
        let error = await refusal { try await fixture.service.verify(pair: "m1", VerifyRequest()) }
        #expect(error?.code == .notInThisState)
        #expect(try await fixture.service.jobList().first?.state == Enumerated(JobState.exception))
    }

    @Test(arguments: [true, false])
    func isCancelled(byJob: Bool) async throws {
        let fixture = try await synchronized()
        let nothing = await refusal { try await fixture.service.cancelVerify(pair: "m1") }
        #expect(nothing?.code == .cannotCancel)
        let id = try await verify(fixture)
        if byJob {
            #expect(try await fixture.service.cancelJob(id: id).state == Enumerated(JobState.shuttingDown))
        } else {
            #expect(try await fixture.service.cancelVerify(pair: "m1").job == id)
        }
        try await fixture.following {}
        #expect(try await fixture.service.job(id: id).state == Enumerated(JobState.terminated))
    }

    @Test func doesNotOutliveTheDaemon() async throws {
        let fixture = try await synchronized()
        let id = try await verify(fixture)
        let after = try fixture.afterKill()
        try await after.service.start()
        let job = try await after.service.job(id: id)
        #expect(job.state == Enumerated(JobState.exception))
        #expect(job.errorDescription == "the daemon was stopped or killed while it ran")
    }

    @Test func marksAreToldInTheRefusalOfAnOperation() async throws {
        let fixture = try await synchronized()
        fixture.plane.setFacts { facts in
            facts.verifyMarkedByteCount = 65536
            facts.differingByteCount = 65536
        }
        let error = await refusal { try await fixture.set(.name("Failover")) }
        #expect(error?.code == .needsForce && error?.status.bytesAtStake == 65536)
        #expect(error?.message.contains("a verify has found the target") == true)
        #expect(error?.suggestion?.contains("ResyncReplica") == true)
        #expect(try await fixture.set(.name("ResyncReplica")).returnCode == Enumerated(.jobStarted))
    }
}
