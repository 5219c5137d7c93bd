import Glibc
import RepldSimulation

@main
struct Simulate {
    static func main() {
        let arguments = CommandLine.arguments
        let first = UInt64(arguments.count > 1 ? arguments[1] : "1") ?? 1
        let last = UInt64(arguments.count > 2 ? arguments[2] : "\(first)") ?? first
        let isTracing = arguments.contains("--trace")
        var total = SimulationCoverage()
        for seed in first...last {
            print("seed \(seed)")
            fflush(nil)
            let simulation = Simulation(
                SimulationOptions(seed: seed),
                trace: isTracing
                    ? {
                        print($0)
                        fflush(nil)
                    } : nil
            )
            do { try simulation.run() } catch { print("FAILED \(error)") }
            total.add(simulation.coverage)
        }
        print(total)
    }
}
