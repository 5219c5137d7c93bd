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
        .library(name: "RepldEngine", targets: ["RepldEngine", "RepldUring"]),
        .executable(name: "repld", targets: ["repld"]),
        .executable(name: "replctl", targets: ["replctl"]),
    ],
    dependencies: [
        .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.2"),
        .package(url: "https://github.com/apple/swift-http-types", from: "1.0.3"),
        .package(url: "https://github.com/apple/swift-log", from: "1.16.2"),
        .package(url: "https://github.com/apple/swift-nio", from: "2.101.2"),
        .package(url: "https://github.com/apple/swift-system", from: "1.8.1"),
        .package(
            url: "https://github.com/hummingbird-project/hummingbird",
            from: "2.28.1",
            traits: ["FullFoundation"]
        ),
        .package(url: "https://github.com/swift-server/swift-service-lifecycle", from: "2.13.0"),
        .package(url: "https://github.com/jpsim/Yams", from: "6.2.2"),
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
        .systemLibrary(
            name: "CCrypt",
            path: "CSupport/CCrypt",
            pkgConfig: "libcrypt",
            providers: [.apt(["libcrypt-dev"])]
        ),
        .target(name: "CRepldLinux", path: "CSupport/CRepldLinux"),
        .target(name: "CRepldCRC32C", path: "CSupport/CRepldCRC32C"),
        .target(
            name: "CRepldTLS",
            path: "CSupport/CRepldTLS",
            linkerSettings: [.linkedLibrary("ssl"), .linkedLibrary("crypto")]
        ),

        .target(name: "RepldCore", dependencies: ["CRepldCRC32C"], swiftSettings: library),
        .target(name: "RepldFormat", dependencies: ["RepldCore"], swiftSettings: library),
        .target(name: "RepldWire", dependencies: ["RepldCore", "CLZ4"], swiftSettings: library),
        .target(name: "RepldFrontends", dependencies: ["RepldCore"], swiftSettings: library),
        .target(name: "RepldPair", dependencies: ["RepldCore", "RepldFormat"], swiftSettings: library),
        .target(
            name: "RepldEngine",
            dependencies: ["RepldCore", "RepldFormat", "RepldPair", "RepldFrontends", "RepldWire"],
            swiftSettings: library
        ),
        .target(
            name: "RepldUring",
            dependencies: ["RepldCore", "RepldEngine", "CLiburing", "CRepldLinux", "CRepldTLS"],
            swiftSettings: library
        ),
        .target(
            name: "RepldSimulation",
            dependencies: ["RepldCore", "RepldFormat", "RepldPair", "RepldEngine"],
            swiftSettings: library
        ),

        // What replctl does without the daemon.
        .target(
            name: "RepldInspection",
            dependencies: ["RepldCore", "RepldFormat", "RepldPair", "CRepldLinux"],
            swiftSettings: library
        ),

        // The control plane: the only targets that use packages.
        .target(name: "RepldControlAPI", dependencies: ["RepldPair"], swiftSettings: library),
        .target(
            name: "RepldDataPlane",
            dependencies: ["RepldCore", "RepldFormat", "RepldPair", "RepldEngine", "CRepldLinux"],
            swiftSettings: library
        ),
        // Apart from RepldControl, because that imports swift-system, whose C module declares io_uring again and
        // differently from liburing: no source file can see both.
        .target(
            name: "RepldUringDataPlane",
            dependencies: [
                "CRepldLinux", "RepldCore", "RepldDataPlane", "RepldEngine", "RepldFormat", "RepldPair", "RepldUring",
                .product(name: "Logging", package: "swift-log"),
            ],
            swiftSettings: library
        ),
        .target(
            name: "RepldControl",
            dependencies: [
                "CCrypt", "CRepldLinux", "RepldControlAPI", "RepldCore", "RepldFormat", "RepldPair", "RepldEngine",
                "RepldDataPlane",
                .product(name: "HTTPTypes", package: "swift-http-types"),
                .product(name: "Hummingbird", package: "hummingbird"),
                .product(name: "HummingbirdCore", package: "hummingbird"),
                .product(name: "Logging", package: "swift-log"),
                .product(name: "NIOCore", package: "swift-nio"),
                .product(name: "ServiceLifecycle", package: "swift-service-lifecycle"),
                .product(name: "SystemPackage", package: "swift-system"),
                .product(name: "UnixSignals", package: "swift-service-lifecycle"),
                .product(name: "Yams", package: "Yams"),
            ],
            swiftSettings: library
        ),
        // An HTTP client on a unix or loopback socket from NIO's own parts: a general client would bring TLS and triple
        // the build.
        .target(
            name: "RepldControlClient",
            dependencies: [
                "RepldControlAPI",
                .product(name: "NIOCore", package: "swift-nio"),
                .product(name: "NIOHTTP1", package: "swift-nio"),
                .product(name: "NIOPosix", package: "swift-nio"),
            ],
            swiftSettings: library
        ),
        .target(
            name: "RepldDemo",
            dependencies: ["RepldCore", "RepldControlAPI", "RepldControlClient"],
            swiftSettings: library
        ),
        .executableTarget(
            name: "repld",
            dependencies: [
                "RepldControl", "RepldControlAPI", "RepldDemo", "RepldUringDataPlane",
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
                .product(name: "Logging", package: "swift-log"),
            ],
            swiftSettings: library
        ),
        .executableTarget(
            name: "replctl",
            dependencies: [
                "RepldControlAPI", "RepldControlClient", "RepldInspection", "RepldPair",
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
            ],
            swiftSettings: library
        ),
        .executableTarget(
            name: "repld-simulate",
            dependencies: [
                "RepldCore", "RepldSimulation",
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
            ],
            swiftSettings: library
        ),

        // Here and not in a package of its own, because what it measures has package access: see Benchmarks/README.md.
        .target(name: "CAllocationCount", path: "Benchmarks/CAllocationCount"),
        .executableTarget(
            name: "repld-benchmark",
            dependencies: ["CAllocationCount", "RepldCore", "RepldEngine", "RepldFormat", "RepldPair"],
            path: "Benchmarks/EngineBenchmark",
            swiftSettings: common
        ),

        .testTarget(name: "RepldCoreTests", dependencies: ["RepldCore", "CRepldCRC32C"], swiftSettings: common),
        .testTarget(name: "TidyTests", swiftSettings: common),
        .target(name: "RepldTestSupport", path: "Tests/RepldTestSupport", swiftSettings: common),
        .testTarget(
            name: "RepldSystemTests",
            dependencies: ["RepldTestSupport", "RepldCore", "repld", "replctl"],
            exclude: ["Clients"],
            swiftSettings: common
        ),
        .testTarget(
            name: "RepldFrontendsTests",
            dependencies: ["RepldCore", "RepldFrontends"],
            swiftSettings: common
        ),
        .testTarget(
            name: "RepldEngineTests",
            dependencies: ["RepldCore", "RepldEngine", "RepldFormat", "RepldFrontends", "RepldPair", "RepldWire"],
            swiftSettings: common
        ),
        .testTarget(
            name: "RepldPairTests",
            dependencies: ["RepldCore", "RepldFormat", "RepldPair"],
            swiftSettings: common
        ),
        .testTarget(
            name: "RepldWireTests",
            dependencies: ["RepldCore", "RepldFormat", "RepldWire"],
            swiftSettings: common
        ),
        .testTarget(name: "RepldFormatTests", dependencies: ["RepldCore", "RepldFormat"], swiftSettings: common),
        .testTarget(
            name: "RepldInspectionTests",
            dependencies: ["RepldCore", "RepldFormat", "RepldInspection"],
            swiftSettings: common
        ),
        .testTarget(name: "RepldSimulationTests", dependencies: ["RepldSimulation"], swiftSettings: common),
        .testTarget(
            name: "RepldControlTests",
            dependencies: [
                "RepldControl", "RepldControlAPI", "RepldControlClient", "RepldCore", "RepldDataPlane", "RepldEngine",
                "RepldFormat", "RepldPair",
                .product(name: "Logging", package: "swift-log"),
                .product(name: "ServiceLifecycle", package: "swift-service-lifecycle"),
                .product(name: "SystemPackage", package: "swift-system"),
            ],
            swiftSettings: common
        ),
        .testTarget(
            name: "RepldUringTests",
            dependencies: ["RepldCore", "RepldEngine", "RepldUring", "CRepldLinux", "CRepldTLS"],
            swiftSettings: common
        ),
    ]
)
