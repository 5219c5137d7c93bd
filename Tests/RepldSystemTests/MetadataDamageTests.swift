import Foundation
import RepldTestSupport
import Testing

extension SystemTests {
    /// A pair whose metadata is not what it was: nothing acknowledged is lost, and nothing is believed that may be wrong.
    @Suite(
        "Damaged metadata",
        .requires(.root, .loopDevices, .product("repld"), .product("replctl"), .pythonModule("nbd"))
    )
    struct MetadataDamageTests {
        /// What a pair was about when its daemon ended.
        enum Moment: String, CaseIterable { case synchronized, suspended, failedOver, split }

        /// Brings a Synchronized pair there, with writes that only the element has which serves.
        private func reach(_ moment: Moment, _ mirror: Mirror, _ writes: NumberedWrites, _ seed: UInt64) throws {
            switch moment {
            case .synchronized: break
            case .suspended: try mirror.set("Suspend", "Suspended")
            case .failedOver: try mirror.set("Failover", "Failedover")
            case .split: try mirror.set("Split", "Split")
            }
            try writes.write(400, seed: seed)
        }

        /// Ends the daemon, with a write under way where it is killed.
        private func end(_ mirror: Mirror, _ writes: NumberedWrites, isKilled: Bool, _ torture: inout Torture) throws {
            if isKilled {
                try writes.finish(writes.start(100, seed: torture.nextSeed(), kills: true))
                try mirror.daemon.kill()
            } else {
                #expect(try mirror.daemon.stop() == .exited(0))
            }
        }

        /// After the damage the volume is served with all that was acknowledged, or refused in words that help.
        ///
        /// A refused one is served when the file has been put back. In the end both elements are equal.
        private func expectNothingLost(
            _ mirror: Mirror,
            _ writes: NumberedWrites,
            _ file: DamagedFile,
            before: [UInt8],
            _ words: String
        ) throws {
            try mirror.daemon.start(mirror.configured)
            if let reason = try mirror.refusal() {
                #expect(reason.contains(file.path) && reason.contains("Detach"), "\(words): the refusal: \(reason)")
                let isServed = try mirror.bed.run("nbdinfo", ["--size", mirror.uri]).isSuccess
                #expect(!isServed, "\(words): what is refused has no export")
                try file.write(before)
                try mirror.daemon.controls("volume", "retry", Mirror.volume)
            }
            try writes.check(words)
            let state = try mirror.daemon.pair(Mirror.pair).copyState.name
            if state == "Synchronized" { try mirror.expectEqual("\(words): it says Synchronized") }
            try mirror.settle()
            try mirror.expectWhole(writes, "\(words): after \(state)")
        }

        @Test("in one of the two records costs a comparison, and nothing else", arguments: Moment.allCases, [0, 1])
        func oneRecord(moment: Moment, block: Int) throws {
            try Torture.run("one record damaged, \(moment), block \(block)") { bed, torture in
                let (mirror, writes) = try Mirror.numbered(bed, byteCount: 16 * mebibyte)
                try mirror.create()
                try reach(moment, mirror, writes, torture.nextSeed())
                let file = try mirror.metadata()
                try end(mirror, writes, isKilled: torture.isChosen(oneIn: 2), &torture)
                let before = try file.content()
                let kinds: [DamagedFile.Damage] = [
                    .zeroed, .bitFlipped(Int(torture.number(0...767))), .garbage(7),
                ]
                try file.damage(MetadataLayout.records[block], torture.choice(kinds))
                try mirror.daemon.start(mirror.configured)
                #expect(try mirror.refusal() == nil, "one whole record is enough")
                #expect(try mirror.daemon.stop() == .exited(0))
                try expectNothingLost(mirror, writes, file, before: before, "\(moment), block \(block)")
            }
        }

        @Test("in ranges that a seed chooses loses nothing that was acknowledged")
        func anywhere() throws {
            try Torture.run("metadata damaged anywhere") { bed, torture in
                let (mirror, writes) = try Mirror.numbered(bed, byteCount: 16 * mebibyte)
                let other = try otherPair(bed, mirror)
                try mirror.create()
                let file = try mirror.metadata()
                for round in 1...Torture.roundCount * 3 {
                    let moment = torture.choice(Moment.allCases)
                    let earlier = try file.content()
                    try reach(moment, mirror, writes, torture.nextSeed())
                    try end(mirror, writes, isKilled: torture.isChosen(oneIn: 2), &torture)
                    let before = try file.content()
                    let damage = try torture.damage(file, earlier: earlier, other: try other.content())
                    let words = "round \(round), \(moment), \(damage)"
                    try expectNothingLost(mirror, writes, file, before: before, words)
                }
            }
        }

        /// A second volume with a pair, for metadata that is another's.
        private func otherPair(_ bed: TestBed, _ mirror: Mirror) throws -> DamagedFile {
            let paths = (
                try bed.file("other-source", byteCount: 4 * mebibyte),
                try bed.file("other-target", byteCount: 4 * mebibyte)
            )
            try mirror.daemon.controls("volume", "add", "other", "--element", paths.0)
            try mirror.daemon.controls(
                "pair",
                "create",
                "--source",
                "other",
                "--target",
                paths.1,
                "--name",
                "other",
                "--wait"
            )
            let id = try mirror.daemon.pair("other").id
            return DamagedFile(path: "\(mirror.daemon.stateDirectory)/pairs/\(id).meta")
        }

        enum Loss: String, CaseIterable {
            case bothRecordsGarbage, otherPairs, cutToNothing, removed, cutInTheFirstRecord
        }

        @Test("in both records keeps the volume from being served, in words that help", arguments: Loss.allCases)
        func allRecords(loss: Loss) throws {
            try Torture.run("all records lost, \(loss)") { bed, torture in
                let (mirror, writes) = try Mirror.numbered(bed, byteCount: 16 * mebibyte)
                let other = try otherPair(bed, mirror)
                try mirror.create()
                let moment = torture.choice(Moment.allCases)
                try reach(moment, mirror, writes, torture.nextSeed())
                let file = try mirror.metadata()
                try end(mirror, writes, isKilled: true, &torture)
                let before = try file.content()
                switch loss {
                case .bothRecordsGarbage: try file.damage(MetadataLayout.allRecords, .garbage(3))
                case .otherPairs: try file.write(try other.content())
                case .cutToNothing: try file.truncate(to: 0)
                case .cutInTheFirstRecord: try file.truncate(to: 4095)
                case .removed: try FileManager.default.removeItem(atPath: file.path)
                }
                try mirror.daemon.start(mirror.configured)
                let reason = try #require(try mirror.refusal(), "\(moment): nobody can know which element is newer")
                #expect(reason.contains(file.path) && reason.contains("Detach"), "\(reason)")
                #expect(try mirror.daemon.volume("other").activity != nil, "other volumes are served")
                #expect(try mirror.refuses("Detach").contains("force"))
                #expect(try mirror.daemon.stop() == .exited(0))
                if loss == .removed { #expect(FileManager.default.createFile(atPath: file.path, contents: nil)) }
                try expectNothingLost(mirror, writes, file, before: before, "\(moment), \(loss)")
            }
        }

        @Test("that cannot be had back is given up by Detach with force, and the volume goes on")
        func givenUp() throws {
            try Torture.run("metadata given up") { bed, torture in
                let (mirror, writes) = try Mirror.numbered(bed, byteCount: 16 * mebibyte)
                try mirror.create()
                try reach(.suspended, mirror, writes, torture.nextSeed())
                let file = try mirror.metadata()
                try end(mirror, writes, isKilled: true, &torture)
                try file.damage(MetadataLayout.allRecords, .garbage(9))
                try mirror.daemon.start(mirror.configured)
                #expect(try mirror.refusal() != nil)
                try mirror.set("Detach", isForced: true)
                try writes.check("the source has what hosts wrote last")
                try mirror.create()
                try mirror.expectWhole(writes, "paired again")
            }
        }

        /// Zeroes are what a new file has; and what a file system gives back whose blocks were lost.
        @Test("of nothing but zeroes is no new pair's when the pair was in use", arguments: Moment.allCases)
        func allZeroes(moment: Moment) throws {
            try Torture.run("metadata all zeroes, \(moment)") { bed, torture in
                let (mirror, writes) = try Mirror.numbered(bed, byteCount: 16 * mebibyte)
                try mirror.create()
                try reach(moment, mirror, writes, torture.nextSeed())
                let file = try mirror.metadata()
                try end(mirror, writes, isKilled: true, &torture)
                let before = try file.content()
                try file.damage(0..<before.count, .zeroed)
                guard moment == .failedOver else {
                    return try expectNothingLost(mirror, writes, file, before: before, "\(moment)")
                }
                try mirror.daemon.start(mirror.configured)
                let reason = try #require(try mirror.refusal(), "nobody can know which element is newer")
                #expect(reason.contains(file.path) && reason.contains("Detach"), "\(reason)")
                #expect(try mirror.refuses("Detach").contains("force"))
                try file.write(before)
                try mirror.daemon.controls("volume", "retry", Mirror.volume)
                try writes.check("the newer element serves again")
            }
        }
    }
}
