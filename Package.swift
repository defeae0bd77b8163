// swift-tools-version: 6.2
//
// memwatch: the Enclave library (memory that is mapped, locked, guarded, gated and wiped) and
// the memwatch inspector. Each target imports only what stands in its line below; a test compares
// this manifest with that table.

import PackageDescription

let settings: [SwiftSetting] = [
  // Every unsafe construct carries the word `unsafe`, so `grep -n unsafe` is the audit list.
  .strictMemorySafety(),
  // Imports are implementation details unless said otherwise: Glibc stays out of the API.
  .enableUpcomingFeature("InternalImportsByDefault"),
  .enableUpcomingFeature("MemberImportVisibility"),
  .enableUpcomingFeature("ExistentialAny"),
  .treatAllWarnings(as: .error),
]

// Tests speak of unsafe things all the time; there the word would say nothing.
let testSettings: [SwiftSetting] = [
  .enableUpcomingFeature("MemberImportVisibility"),
  .enableUpcomingFeature("ExistentialAny"),
  .treatAllWarnings(as: .error),
]

let package = Package(
  name: "memwatch",
  products: [
    .library(name: "Enclave", targets: ["Enclave"]),
    .library(name: "EnclaveVault", targets: ["EnclaveVault"]),
    .library(name: "EnclaveC", type: .static, targets: ["EnclaveC"]),
    .library(name: "EnclaveMalloc", type: .static, targets: ["CEnclaveMalloc"]),
    .library(name: "EnclaveAdopt", type: .static, targets: ["CEnclaveAdopt"]),
    .library(name: "EnclaveService", targets: ["EnclaveService"]),
    .library(name: "EnclaveTLS", targets: ["EnclaveTLS"]),
    .library(name: "EnclaveTLSP256", targets: ["EnclaveTLSP256"]),
    .executable(name: "memwatch", targets: ["memwatch"]),
    .executable(name: "enclave-demo", targets: ["enclave-demo"]),
  ],
  traits: [
    .default(enabledTraits: ["Sodium"]),
    .trait(name: "Sodium", description: "Cipher gates and encryption at rest, by libsodium."),
    .trait(
      name: "Server", description: "For Swift servers: arenas as a service, TLS keys, tokens.",
      enabledTraits: ["Sodium"]),
  ],
  dependencies: [
    // swift-system is not used. Of the 24 file calls in CEnclaveSystem/files.c its version 1.8.1 has six
    // (open, close, fstat, fstatat, pread, write). It lacks what makes a stats page safe: opening relative
    // to a directory, O_TMPFILE, linkat, renameat2(RENAME_NOREPLACE), record locks, posix_fallocate and
    // fstatfs. A FileDescriptor does not close itself, so `OpenFile` would stay, and an Errno has no
    // symbolic name. It adds 404 KiB to a static, stripped program (x86-64, Swift 6.3).
    //
    // The command line: made for it, kept by the Swift project.
    .package(
      url: "https://github.com/apple/swift-argument-parser", .upToNextMinor(from: "1.8.2")),
    // What Swift servers are made of, kept by the Swift Server Workgroup. Without the trait Server
    // nothing of it is fetched.
    .package(
      url: "https://github.com/swift-server/swift-service-lifecycle", .upToNextMinor(from: "2.13.0")
    ),
    .package(url: "https://github.com/apple/swift-metrics", .upToNextMinor(from: "2.13.0")),
    .package(url: "https://github.com/apple/swift-log", .upToNextMinor(from: "1.16.2")),
    .package(url: "https://github.com/apple/swift-nio", .upToNextMinor(from: "2.101.2")),
    .package(url: "https://github.com/apple/swift-nio-ssl", .upToNextMinor(from: "2.37.6")),
  ],
  targets: [
    .target(name: "CEnclaveSystem", cSettings: [.treatAllWarnings(as: .error)]),
    .target(
      name: "EnclaveSystem", dependencies: ["CEnclaveSystem"],
      swiftSettings: settings + [.define("ENCLAVE_FAULTS", .when(configuration: .debug))]),
    .target(
      name: "EnclaveStats", dependencies: ["EnclaveSystem"], swiftSettings: settings),
    // libsodium encrypts: made for it, well kept. Without the trait nothing of it is needed.
    .systemLibrary(
      name: "CEnclaveSodium", pkgConfig: "libsodium", providers: [.apt(["libsodium-dev"])]),
    .target(
      name: "Enclave",
      dependencies: [
        "EnclaveSystem", "EnclaveStats",
        .target(name: "CEnclaveSodium", condition: .when(traits: ["Sodium"])),
      ], swiftSettings: settings),
    .target(
      name: "EnclaveVault",
      dependencies: [
        "Enclave", .target(name: "CEnclaveSodium", condition: .when(traits: ["Sodium"])),
      ], swiftSettings: settings),

    // For Swift servers (trait Server; without it they are empty). Their tests are a package of their
    // own, Tests/Clients/server.
    .target(
      name: "EnclaveService",
      dependencies: [
        "Enclave",
        .product(
          name: "ServiceLifecycle", package: "swift-service-lifecycle",
          condition: .when(traits: ["Server"])),
        .product(
          name: "CoreMetrics", package: "swift-metrics", condition: .when(traits: ["Server"])),
        .product(name: "Logging", package: "swift-log", condition: .when(traits: ["Server"])),
      ], swiftSettings: settings),
    .target(
      name: "EnclaveTLS",
      dependencies: [
        "Enclave", "EnclaveSystem",
        .target(name: "CEnclaveSodium", condition: .when(traits: ["Server"])),
        .product(name: "NIOCore", package: "swift-nio", condition: .when(traits: ["Server"])),
        .product(name: "NIOSSL", package: "swift-nio-ssl", condition: .when(traits: ["Server"])),
      ], swiftSettings: settings),
    // libcrypto signs with P-256, which Debian's libsodium does not have: well kept, and its secure memory
    // can be given to it from an arena. Only who uses EnclaveTLSP256 needs it.
    .systemLibrary(
      name: "CEnclaveLibcrypto", pkgConfig: "libcrypto", providers: [.apt(["libssl-dev"])]),
    .target(
      name: "EnclaveTLSP256",
      dependencies: [
        "Enclave", "EnclaveTLS",
        .target(name: "CEnclaveAdopt", condition: .when(traits: ["Server"])),
        .target(name: "CEnclaveLibcrypto", condition: .when(traits: ["Server"])),
        .target(name: "EnclaveC", condition: .when(traits: ["Server"])),
        .product(name: "NIOCore", package: "swift-nio", condition: .when(traits: ["Server"])),
        .product(name: "NIOSSL", package: "swift-nio-ssl", condition: .when(traits: ["Server"])),
      ], swiftSettings: settings),

    // The C interface: enclave.h and what of it is C; the functions; and the interposer, which stands
    // in for malloc; and what stands in for other libraries' secure memory, in programs that are not
    // changed. Assets/install-enclave makes libraries of them.
    .target(
      name: "CEnclave", dependencies: ["CEnclaveSystem"], cSettings: [.treatAllWarnings(as: .error)]
    ),
    .target(
      name: "EnclaveC", dependencies: ["CEnclave", "Enclave"],
      swiftSettings: settings),
    .target(name: "CEnclaveMalloc", cSettings: [.treatAllWarnings(as: .error)]),
    .target(name: "CEnclaveAdopt", cSettings: [.treatAllWarnings(as: .error)]),

    // What only the viewer asks of the kernel; checked calls come from EnclaveSystem.
    .target(name: "CMemwatchSystem", cSettings: [.treatAllWarnings(as: .error)]),
    .target(
      name: "MemwatchSystem", dependencies: ["CMemwatchSystem", "EnclaveSystem"],
      swiftSettings: settings),
    .target(
      name: "MemwatchInspector", dependencies: ["EnclaveStats", "EnclaveSystem", "MemwatchSystem"],
      swiftSettings: settings),
    // libseccomp writes the filter of system calls: made for it, well kept.
    .systemLibrary(
      name: "CMemwatchSeccomp", pkgConfig: "libseccomp", providers: [.apt(["libseccomp-dev"])]),
    .target(
      name: "MemwatchSandbox",
      dependencies: ["EnclaveSystem", "MemwatchSystem", "CMemwatchSeccomp"],
      swiftSettings: settings),
    // ncursesw draws the screen; the C target holds the constants that Swift cannot import.
    .target(
      name: "CMemwatchNcurses", cSettings: [.treatAllWarnings(as: .error)],
      linkerSettings: [.linkedLibrary("ncursesw"), .linkedLibrary("tinfo")]),
    .target(
      name: "MemwatchTerminal",
      dependencies: ["MemwatchInspector", "CMemwatchNcurses"],
      swiftSettings: settings),
    // Builds enclave-demo beside memwatch (`memwatch demo` starts it) without linking it in.
    .plugin(
      name: "DemoBuilder", capability: .buildTool(), dependencies: ["enclave-demo"],
      path: "Sources/DemoBuilder"),
    .target(
      name: "MemwatchExporter", dependencies: ["MemwatchInspector"], swiftSettings: settings),
    .executableTarget(
      name: "memwatch",
      dependencies: [
        "MemwatchExporter", "MemwatchInspector", "MemwatchSandbox", "MemwatchTerminal",
        .product(name: "ArgumentParser", package: "swift-argument-parser"),
      ],
      swiftSettings: settings, plugins: ["DemoBuilder"]),

    .executableTarget(
      name: "enclave-demo", dependencies: ["Enclave", "EnclaveVault"], swiftSettings: settings),

    .executableTarget(
      name: "enclave-bench", dependencies: ["Enclave", "EnclaveC", "EnclaveVault"],
      swiftSettings: settings),

    // Tests, and the programs that they watch.
    .executableTarget(
      name: "test-publisher", dependencies: ["Enclave", "EnclaveVault", "CTestSupport"],
      path: "Tests/Support/TestPublisher", swiftSettings: settings),
    .executableTarget(
      name: "sandbox-probe", dependencies: ["MemwatchSandbox", "CTestSupport"],
      path: "Tests/Support/SandboxProbe", swiftSettings: settings),
    .executableTarget(
      name: "screen-driver", dependencies: ["MemwatchTerminal", "MemwatchInspector"],
      path: "Tests/Support/ScreenDriver", swiftSettings: testSettings),
    .target(name: "CTestSupport", path: "Tests/Support/CTestSupport"),
    .target(
      name: "TestSupport", dependencies: ["CTestSupport", "MemwatchInspector"],
      path: "Tests/Support/TestSupport", swiftSettings: testSettings),
    .testTarget(
      name: "EnclaveTests",
      dependencies: ["Enclave", "EnclaveSystem", "TestSupport", "CTestSupport"],
      swiftSettings: testSettings),
    .testTarget(
      name: "EnclaveStatsTests",
      dependencies: [
        "Enclave", "EnclaveStats", "EnclaveSystem", "TestSupport", "CTestSupport", "test-publisher",
      ],
      swiftSettings: testSettings),
    .testTarget(
      name: "MemwatchInspectorTests",
      dependencies: ["MemwatchInspector", "MemwatchTerminal", "EnclaveStats", "TestSupport"],
      swiftSettings: testSettings),
    .testTarget(
      name: "MemwatchTerminalTests",
      dependencies: [
        "MemwatchTerminal", "MemwatchInspector", "MemwatchSystem", "EnclaveStats", "EnclaveSystem",
        "TestSupport",
      ],
      exclude: ["Golden"], swiftSettings: testSettings),
    .testTarget(
      name: "MemwatchExporterTests",
      dependencies: [
        "MemwatchExporter", "MemwatchInspector", "MemwatchSystem", "EnclaveStats", "EnclaveSystem",
        "TestSupport",
      ],
      swiftSettings: testSettings),
    .testTarget(
      name: "MemwatchSandboxTests",
      dependencies: [
        "MemwatchSandbox", "EnclaveSystem", "MemwatchSystem", "TestSupport", "sandbox-probe",
        "memwatch", "test-publisher",
      ],
      swiftSettings: testSettings),
    .testTarget(
      name: "EnclaveVaultTests",
      dependencies: ["EnclaveVault", "Enclave", "EnclaveSystem", "TestSupport", "CTestSupport"],
      swiftSettings: testSettings),
    .testTarget(
      name: "EnclaveCTests", dependencies: ["TestSupport", "memwatch"],
      swiftSettings: testSettings),
    .testTarget(
      name: "EndToEndTests",
      dependencies: [
        "TestSupport", "CTestSupport", "test-publisher", "memwatch", "enclave-demo",
        "screen-driver",
      ],
      exclude: ["Pages", "Version1"], swiftSettings: testSettings),
  ],
  swiftLanguageModes: [.v6]
)

// The fuzzer's build, which Tests/Fuzz/run asks for: its runtime brings a main function of its own, so
// that no other program can be built with it.
if Context.environment["MEMWATCH_FUZZ"] != nil {
  let parsers = [
    "CEnclaveSystem", "EnclaveSystem", "EnclaveStats", "CMemwatchSystem", "MemwatchSystem",
    "MemwatchInspector", "CMemwatchNcurses", "MemwatchTerminal",
  ]
  package.products = []
  package.targets.removeAll { !parsers.contains($0.name) }
  package.targets.append(
    .executableTarget(
      name: "page-fuzzer",
      dependencies: [
        "MemwatchInspector", "MemwatchTerminal", "EnclaveStats", "EnclaveSystem", "MemwatchSystem",
      ],
      path: "Tests/Fuzz/PageFuzzer", swiftSettings: testSettings))
}
