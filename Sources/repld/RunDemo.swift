import ArgumentParser
import Foundation
import RepldControlAPI
import RepldDemo

/// `repld demo`: the main job on elements that it makes itself.
struct RunDemo: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "demo",
        abstract: "Mirror a volume on elements made for it, lose the target, get it back, compare both copies.",
        discussion: """
            Uses loop devices when run as root, sparse files otherwise, in the temporary directory (TMPDIR). Needs no \
            configuration, leaves nothing behind, and ends with a status other than 0 if anything differs.
            """
    )

    @Option(help: ArgumentHelp("Size of each element in MiB.", valueName: "MiB"))
    var size: UInt64 = 256

    func validate() throws {
        guard (16...65536).contains(size) else { throw ValidationError("the size is from 16 to 65536 MiB") }
    }

    func run() async throws {
        let executable = try FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe")
        let demo = Demo(executable: executable, byteCount: size << 20) { line in
            print(line)
            fflush(nil)
        }
        do {
            try await demo.run()
        } catch {
            FileHandle.standardError.write(Data("repld demo: \(error)\n".utf8))
            throw ExitCode(1)
        }
    }
}
