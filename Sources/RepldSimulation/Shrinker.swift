/// Makes a failing run shorter: fewer steps, fewer sorts of faults, fewer requests at once, and still the same failure.
///
/// After Zeller and Hildebrandt's delta debugging ("Simplifying and Isolating Failure-Inducing Input", IEEE TSE 2002), with one
/// difference: a run from which something was left out draws other chances from there on, so it is no part of the run before. So
/// where a smaller run does not fail, a few others with the same options and other dice are tried.
///
/// A failure is the same when its words are, numbers and lists aside.
package struct Shrinker {
    /// What one run came to.
    package struct Failure: Sendable, Hashable {
        /// What was found, in words.
        package var words: String
        /// The step in which it was found; `nil` where nobody knows.
        package var step: Int?

        package init(words: String, step: Int?) {
            self.words = words
            self.step = step
        }

        /// The words without what differs from run to run.
        package var kind: String {
            words.replacing(#/\[[^\]]*\]/#, with: "[]").replacing(#/[0-9]+/#, with: "0")
        }
    }

    /// The shortest run that was found.
    package struct Result {
        package var limits: SimulationLimits
        package var failure: Failure
        package var runCount = 0
    }

    /// Sorts of faults that are tried to be left out.
    private let classes: [FaultClass]
    private let runLimit: Int
    private let diceLimit: UInt64
    /// Makes one run; what it found, if anything.
    private let run: (SimulationLimits) throws -> Failure?
    private var result: Result

    /// Begins with a run that is known to fail; `nil` when it does not.
    ///
    /// At most `runLimit` runs are made; `diceLimit` of them for each smaller one that does not fail.
    package init?(
        _ limits: SimulationLimits,
        leavingOut classes: [FaultClass],
        runLimit: Int = 600,
        diceLimit: UInt64 = 6,
        run: @escaping (SimulationLimits) throws -> Failure?
    ) throws {
        guard let failure = try run(limits) else { return nil }
        self.classes = classes
        self.runLimit = runLimit
        self.diceLimit = diceLimit
        self.run = run
        result = Result(limits: limits, failure: failure, runCount: 1)
        if let step = failure.step { result.limits.stepCount = min(max(step, 1), limits.stepCount ?? .max) }
    }

    /// The shortest run that is found, and what it finds.
    package mutating func shrink(stepCount: Int) throws -> Result {
        if result.limits.stepCount == nil { result.limits.stepCount = stepCount }
        var before: SimulationLimits
        repeat {
            before = result.limits
            for left in classes where !result.limits.without.contains(left) {
                try attempt { $0.without.insert(left) }
            }
            try halveSteps()
            for (path, least) in [(\SimulationLimits.depth, 1), (\.pairCount, 1), (\.volumeByteCount, 1 << 16)] {
                guard result.limits[keyPath: path] != least else { continue }
                try attempt { $0[keyPath: path] = least }
            }
        } while result.limits != before && result.runCount < runLimit
        try takeStepsAway()
        return result
    }

    /// Fewer steps by halves, and then by a quarter, an eighth, and so on.
    private mutating func halveSteps() throws {
        var part = 2
        while let steps = result.limits.stepCount, steps / part > 0, result.runCount < runLimit {
            if try !attempt({ $0.stepCount = steps - steps / part }) { part *= 2 }
        }
    }

    /// Fewer steps one by one, with the same dice.
    private mutating func takeStepsAway() throws {
        while let steps = result.limits.stepCount, steps > 1, result.runCount < runLimit {
            var limits = result.limits
            limits.stepCount = steps - 1
            guard try isAccepted(limits) else { return }
        }
    }

    /// Tries a smaller run, with the same dice and with others; whether one of them fails in the same way.
    @discardableResult
    private mutating func attempt(_ change: (inout SimulationLimits) -> Void) throws -> Bool {
        var limits = result.limits
        change(&limits)
        let known = limits.dice
        for dice in [known] + (0..<diceLimit).filter({ $0 != known }) where result.runCount < runLimit {
            limits.dice = dice
            if try isAccepted(limits) { return true }
        }
        return false
    }

    private mutating func isAccepted(_ limits: SimulationLimits) throws -> Bool {
        result.runCount += 1
        guard let failure = try run(limits), failure.kind == result.failure.kind else { return false }
        result.limits = limits
        result.failure = failure
        // What comes behind the step that failed is not part of the run.
        if let step = failure.step, let steps = limits.stepCount { result.limits.stepCount = min(max(step, 1), steps) }
        return true
    }
}
