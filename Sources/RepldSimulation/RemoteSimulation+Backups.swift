internal import RepldCore
internal import RepldEngine
internal import RepldFormat
internal import RepldPair

/// What a host was once, kept aside: it comes back as that after a crash.
struct HostBackup {
    var disks: [(disk: SimulatedDisk, bytes: [UInt8])]
    /// Of the record that is among them.
    var sequence: UInt64
    var hasUndo: Bool
}

/// Hosts that come back as they were on an older day: all of them, as a virtual machine from a snapshot, or their metadata alone.
///
/// The handshake has to notice: an older source becomes Invalid, and what an older target holds is compared. It tells by the sequences of
/// records. Where no record was told between the backup and the crash, the two sides are at one and the same point of the chain, and
/// nothing says that the element, the maps or the activity log beside the record are older than it: the design has no
/// other witness (a count that the peer keeps of every activation would be one). Such backups are counted, and not put back.
extension RemoteSimulation {
    enum OlderSide { case source, target }

    /// Takes backups now and then, of hosts that are up and not half restored.
    func backUp() {
        guard options.hosts.olderOneIn > 0, hostFaults.random.chance(oneIn: 30) else { return }
        if hostFaults.random.chance(oneIn: 2) {
            guard source.isUp, restore.stage == .none, let record = metadata.pairRecord else { return }
            sourceBackup = backup(of: [sourceDisk, metadata], record)
        } else {
            guard target.isUp, let record = replicaMetadata.pairRecord else { return }
            targetBackup = backup(of: [targetDisk, replicaMetadata, undoArea], record)
        }
    }

    private func backup(of disks: [SimulatedDisk], _ record: PairRecord) -> HostBackup {
        note("a backup with record \(record.sequence) is taken")
        let contents = disks.map { (disk: $0, bytes: $0.bytes(0..<$0.byteCount)) }
        return HostBackup(disks: contents, sequence: record.sequence, hasUndo: record.hasUndo)
    }

    /// The source has crashed: perhaps it comes back as it was; true when its element does as well.
    func putBackSource() -> Bool {
        guard let backup = sourceBackup, older == nil, restore.stage == .none, strikes() else { return false }
        guard let told = replicaMetadata.pairRecord?.sequence, told > backup.sequence else {
            coverage[.unnoticedBackups] += 1
            return false
        }
        (older, hasMetOlder) = (.source, false)
        coverage[.olderSources] += 1
        let isWhole = putBack(backup, [metadata], "the source")
        guard isWhole else { return false }
        formerOrder = formerOrder ?? workload.order
        workload.waiting = []
        for (sector, value) in sourceDisk.words.enumerated() { workload.history.settle(value, sector) }
        workload.order = WriteOrder(values: sourceDisk.words)
        return true
    }

    /// The target has crashed: perhaps it comes back as it was.
    func putBackTarget() {
        guard let backup = targetBackup, older == nil, strikes() else { return }
        // Its undo area is of the element that it has now.
        guard let own = metadata.pairRecord, own.lineage.confirmedSequence > backup.sequence else {
            coverage[.unnoticedBackups] += 1
            return
        }
        (older, hasMetOlder) = (.target, false)
        putBack(backup, backup.hasUndo ? backup.disks.map(\.disk) : [replicaMetadata], "the target")
        (hasLostPower, isLossKnown) = (true, false)
        if isKept { hasKeptLoss = true }
    }

    private func strikes() -> Bool { hostFaults.random.chance(oneIn: options.hosts.olderOneIn) }

    /// All of a host is put back, or only the areas that say what its element is; whether all.
    @discardableResult
    private func putBack(_ backup: HostBackup, _ areas: [SimulatedDisk], _ name: String) -> Bool {
        let isWhole = hostFaults.random.chance(oneIn: 2) || areas.count == backup.disks.count
        note("\(name) comes back \(isWhole ? "all" : "with its metadata") as it was with record \(backup.sequence)")
        coverage[isWhole ? .olderHosts : .olderMetadata] += 1
        for (disk, bytes) in backup.disks where isWhole || areas.contains(where: { $0 === disk }) {
            disk.overwrite(bytes, at: 0)
        }
        return isWhole
    }

    /// What is older is noticed before the pair counts as Synchronized; a source also before the two sides go on as one.
    func observeOlder() throws(SimulationFailure) {
        guard let side = older else {
            // Nobody here loses a record: no side has one that the other has not heard of.
            guard state != .invalid || hasNoticedOlder else {
                throw failure("the histories of the two sides differ: \(reason)")
            }
            // A crash may come before it is durable.
            if state == .synchronized || state == .restored { hasNoticedOlder = false }
            return
        }
        if state == .invalid, side == .source {
            coverage[.olderNoticed] += 1
            (older, hasNoticedOlder) = (nil, true)
        } else if state == .invalid {
            // The target comes from a history that the source was put back behind; or the source was half restored from it, and what it
            // lacks is nowhere any more.
            guard coverage[.olderSources] > 0 || source.engine?.linkRestore(of: Self.pair) == .lost else {
                throw failure("an older target makes the pair Invalid: \(reason)")
            }
            (older, hasNoticedOlder) = (nil, true)
        } else if state != .synchronized {
            hasMetOlder = true
        } else if hasMetOlder {
            guard side == .target else { throw failure("the source is older than it was, and nobody has noticed") }
            coverage[.olderNoticed] += 1
            older = nil
        }
    }
}
