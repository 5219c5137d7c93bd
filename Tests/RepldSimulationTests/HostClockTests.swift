import RepldCore
import RepldEngine
import RepldPair
import Testing

@testable import RepldSimulation

/// Clocks of simulated hosts, and real engines whose clock leaps or that stand still.
@Suite("The clock of a host") struct HostClockTests {
    @Test(arguments: [717, 1014, 1024, 1034, 1331] as [UInt64])
    func showsAReadingAtTheFirstMomentThatItSays(rate: UInt64) {
        var clock = SimulatedClock()
        clock.setRate(rate, at: 5_000_000_007)
        for reading in [5_000_000_008, 5_000_000_500, 6_123_456_789, 86_400_000_000_000] as [UInt64] {
            let moment = clock.moment(of: reading)
            #expect(clock.reading(at: moment) >= reading && clock.reading(at: moment - 1) < reading)
        }
        #expect(clock.moment(of: .max) == .max)
    }

    @Test func neverGoesBackWhileItsHostIsUp() {
        var clock = SimulatedClock()
        clock.setRate(717, at: 1000)
        clock.setRate(1331, at: 2000)
        #expect(clock.reading(at: 2000) == 1700)
        clock.leap(3_600_000_000_000, at: 2000)
        #expect(clock.reading(at: 2001) >= 3_600_000_001_700)
        clock.boot(showing: 12, at: 3000)
        #expect(clock.reading(at: 3000) == 12)
    }

    /// What was on its way when a virtual machine was paused is not late.
    @Test(arguments: [false, true])
    func hostsAreNotRefusedForTimeInWhichNothingRan(isPaused: Bool) throws {
        let scene = try PairedHosts()
        scene.member.metadata.faults.isStuck = true
        let number = try #require(scene.source.submit(.write, 64..<72, value: 9, to: scene.member.volume))
        try scene.pass(seconds: 2)
        if isPaused {
            scene.source.host.pause(for: 3_600_000_000_000)
        } else {
            scene.source.host.leapClock(by: 3_600_000_000_000)
        }
        #expect(scene.world.run { scene.source.host.clockReading > 3_600_000_000_000 })
        for _ in 0..<20 { #expect(scene.world.step()) }
        #expect(!scene.source.requests[number].isAnswered)
        scene.member.metadata.faults.isStuck = false
        #expect(scene.world.run { scene.source.requests[number].isAnswered })
        #expect(scene.source.requests[number].failure == nil)
        #expect(!scene.source.events.contains { $0.kind == .recordFailed(.timedOut) })
    }

    /// The limit is for whoever had the time to answer.
    @Test func whatHangsIsGivenUpInTheTimeThatTheLoopRuns() throws {
        let scene = try PairedHosts()
        scene.member.metadata.faults.isStuck = true
        let number = try #require(scene.source.submit(.write, 64..<72, value: 9, to: scene.member.volume))
        try scene.pass(seconds: 2)
        scene.source.host.leapClock(by: 3_600_000_000_000)
        try scene.pass(seconds: 20)
        #expect(!scene.source.requests[number].isAnswered)
        try scene.pass(seconds: 15)
        #expect(scene.source.requests[number].failure == .inputOutput)
        scene.member.metadata.faults.isStuck = false
    }
}
