// swift-tools-version: 6.2
import PackageDescription

/// The settings of every Swift target of the product: language mode 6, every upcoming feature that Swift 6.3 knows,
/// `Lifetimes` for types that lend spans, and strict memory safety, so that each unsafe step is marked `unsafe`.
let common: [SwiftSetting] = [
    .swiftLanguageMode(.v6),
    .enableUpcomingFeature("ExistentialAny"),
    .enableUpcomingFeature("InternalImportsByDefault"),
    .enableUpcomingFeature("MemberImportVisibility"),
    .enableUpcomingFeature("NonisolatedNonsendingByDefault"),
    .enableUpcomingFeature("InferIsolatedConformances"),
    .enableUpcomingFeature("ImmutableWeakCaptures"),
    .enableExperimentalFeature("Lifetimes"),
    .treatAllWarnings(as: .error),
]
let library: [SwiftSetting] = common + [.strictMemorySafety()]

let package = Package(
    name: "repld",
    products: [
        .library(name: "RepldEngine", targets: ["RepldEngine", "RepldUring"])
    ],
    targets: [
        .systemLibrary(
            name: "CLiburing",
            path: "CSupport/CLiburing",
            pkgConfig: "liburing",
            providers: [.apt(["liburing-dev"])]
        ),
        .systemLibrary(
            name: "CLZ4",
            path: "CSupport/CLZ4",
            pkgConfig: "liblz4",
            providers: [.apt(["liblz4-dev"])]
        ),
        .target(name: "CRepldLinux", path: "CSupport/CRepldLinux"),
        .target(name: "CRepldCRC32C", path: "CSupport/CRepldCRC32C"),

        .target(name: "RepldCore", dependencies: ["CRepldCRC32C"], swiftSettings: library),
        .target(name: "RepldFormat", dependencies: ["RepldCore"], swiftSettings: library),
        .target(name: "RepldFrontends", dependencies: ["RepldCore"], swiftSettings: library),
        .target(name: "RepldPair", dependencies: ["RepldCore", "RepldFormat"], swiftSettings: library),
        .target(
            name: "RepldEngine",
            dependencies: ["RepldCore", "RepldFormat", "RepldPair", "RepldFrontends"],
            swiftSettings: library
        ),
        .target(
            name: "RepldUring",
            dependencies: ["RepldCore", "RepldEngine", "CLiburing", "CRepldLinux"],
            swiftSettings: library
        ),
        .target(
            name: "RepldSimulation",
            dependencies: ["RepldCore", "RepldFormat", "RepldPair", "RepldEngine"],
            swiftSettings: library
        ),

        .executableTarget(name: "repld-simulate", dependencies: ["RepldSimulation"], swiftSettings: library),

        .testTarget(name: "RepldCoreTests", dependencies: ["RepldCore", "CRepldCRC32C"], swiftSettings: common),
        .testTarget(name: "TidyTests", swiftSettings: common),
        .testTarget(
            name: "RepldFrontendsTests",
            dependencies: ["RepldCore", "RepldFrontends"],
            swiftSettings: common
        ),
        .testTarget(
            name: "RepldEngineTests",
            dependencies: ["RepldCore", "RepldEngine", "RepldFrontends", "RepldPair"],
            swiftSettings: common
        ),
        .testTarget(name: "RepldSimulationTests", dependencies: ["RepldSimulation"], swiftSettings: common),
    ]
)
