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
            var simulation = Simulation(SimulationOptions(seed: seed), isTracing: isTracing)
            do { try simulation.run() } catch {
                for line in simulation.trace.suffix(200) { print(line) }
                print("FAILED \(error)")
            }
            total.add(simulation.coverage)
        }
        print(total)
    }
}
