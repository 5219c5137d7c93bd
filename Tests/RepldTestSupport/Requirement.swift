import Foundation
import Glibc
package import Testing

/// Something that a test cannot do without.
package enum Requirement: Sendable, Hashable, CustomStringConvertible {
    case root
    case loopDevices
    case fuse
    /// A program on PATH, or, with a slash, where it lies.
    case tool(String)
    /// A module of the system's python3.
    case pythonModule(String)
    /// An executable of this package, built beside the tests.
    case product(String)

    package var isMet: Bool {
        switch self {
        case .root: geteuid() == 0
        case .loopDevices: access("/dev/loop-control", R_OK | W_OK) == 0
        case .fuse: access("/dev/fuse", R_OK | W_OK) == 0
        case .tool(let name): Self.isThere(name)
        case .pythonModule(let name): Self.hasPythonModule(name)
        case .product(let name): (try? Product.path(name)) != nil
        }
    }

    package var description: String {
        switch self {
        case .root: "to be root"
        case .loopDevices: "loop devices (/dev/loop-control)"
        case .fuse: "FUSE (/dev/fuse)"
        case .tool(let name): "the program \(name)\(name.contains("/") ? "" : " on PATH") (.ci/run names its package)"
        case .pythonModule(let name): "the module \(name) of /usr/bin/python3 (.ci/run names its package)"
        case .product(let name): "the executable \(name) beside the tests (swift build makes it)"
        }
    }

    private static func isThere(_ name: String) -> Bool {
        if name.contains("/") { return access(name, X_OK) == 0 }
        let folders = (ProcessInfo.processInfo.environment["PATH"] ?? "").split(separator: ":")
        return folders.contains { access("\($0)/\(name)", X_OK) == 0 }
    }

    private static func hasPythonModule(_ name: String) -> Bool {
        let logPath = NSTemporaryDirectory() + "repld-python-\(getpid())-\(name)"
        defer { for end in [".out", ".err"] { try? FileManager.default.removeItem(atPath: logPath + end) } }
        let child = try? Child("/usr/bin/python3", ["-c", "import \(name)"], logPath: logPath)
        return (try? child?.wait(atMost: .hang)) == .exited(0)
    }
}

/// A test that lacks what it needs fails by name, here and in CI: nothing is passed over in silence.
package struct RequirementTrait: SuiteTrait, TestTrait {
    package let requirements: [Requirement]

    package init(requirements: [Requirement]) { self.requirements = requirements }

    package struct Missing: Error, CustomStringConvertible {
        package let description: String
    }

    package var isRecursive: Bool { true }

    package func prepare(for test: Test) async throws {
        guard !test.isSuite else { return }
        let missing = requirements.filter { !$0.isMet }
        guard !missing.isEmpty else { return }
        throw Missing(description: "\(test.name) needs " + missing.map(\.description).joined(separator: ", and "))
    }
}

extension Trait where Self == RequirementTrait {
    /// Names what a test needs; without it the test fails.
    package static func requires(_ requirements: Requirement...) -> Self {
        RequirementTrait(requirements: requirements)
    }
}

/// Executables of this package, as they were built with the tests.
package enum Product {
    package struct Missing: Error, CustomStringConvertible {
        package let description: String
    }

    /// The path of an executable beside the test bundle.
    package static func path(_ name: String) throws -> String {
        let runner = try FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe")
        let path = (runner as NSString).deletingLastPathComponent + "/" + name
        guard access(path, X_OK) == 0 else { throw Missing(description: "there is no \(path): swift build makes it") }
        return path
    }
}
