// swift-tools-version: 6.2
// A server that uses Enclave with the trait Server, as a client would; its tests are those of the trait.

import PackageDescription

let settings: [SwiftSetting] = [
  .enableUpcomingFeature("MemberImportVisibility"), .treatAllWarnings(as: .error),
]

let package = Package(
  name: "server",
  dependencies: [
    .package(name: "memwatch", path: "../../..", traits: ["Server"]),
    .package(
      url: "https://github.com/swift-server/swift-service-lifecycle", .upToNextMinor(from: "2.13.0")
    ),
    .package(url: "https://github.com/apple/swift-metrics", .upToNextMinor(from: "2.13.0")),
    .package(url: "https://github.com/apple/swift-log", .upToNextMinor(from: "1.16.2")),
    .package(url: "https://github.com/apple/swift-nio", .upToNextMinor(from: "2.101.2")),
    .package(url: "https://github.com/apple/swift-nio-ssl", .upToNextMinor(from: "2.37.6")),
    .package(
      url: "https://github.com/hummingbird-project/hummingbird", .upToNextMinor(from: "2.28.1"),
      traits: []),
  ],
  targets: [
    .target(
      name: "Tokens",
      dependencies: [
        .product(name: "Enclave", package: "memwatch"),
        .product(name: "EnclaveTLS", package: "memwatch"),
      ], swiftSettings: settings),
    .executableTarget(
      name: "server",
      dependencies: [
        "Tokens",
        .product(name: "Enclave", package: "memwatch"),
        .product(name: "EnclaveService", package: "memwatch"),
        .product(name: "EnclaveTLS", package: "memwatch"),
        .product(name: "EnclaveTLSP256", package: "memwatch"),
        .product(name: "Hummingbird", package: "hummingbird"),
        .product(name: "HummingbirdTLS", package: "hummingbird"),
        .product(name: "NIOSSL", package: "swift-nio-ssl"),
        .product(name: "Logging", package: "swift-log"),
        .product(name: "ServiceLifecycle", package: "swift-service-lifecycle"),
        .product(name: "UnixSignals", package: "swift-service-lifecycle"),
      ], swiftSettings: settings),
    .testTarget(
      name: "ServerTests",
      dependencies: [
        "Tokens",
        .product(name: "Enclave", package: "memwatch"),
        .product(name: "EnclaveService", package: "memwatch"),
        .product(name: "EnclaveTLS", package: "memwatch"),
        .product(name: "EnclaveTLSP256", package: "memwatch"),
        .product(name: "InMemoryLogging", package: "swift-log"),
        .product(name: "Logging", package: "swift-log"),
        .product(name: "MetricsTestKit", package: "swift-metrics"),
        .product(name: "NIOCore", package: "swift-nio"),
        .product(name: "NIOPosix", package: "swift-nio"),
        .product(name: "NIOSSL", package: "swift-nio-ssl"),
        .product(name: "NIOTLS", package: "swift-nio"),
        .product(name: "ServiceLifecycle", package: "swift-service-lifecycle"),
        .product(name: "ServiceLifecycleTestKit", package: "swift-service-lifecycle"),
      ], swiftSettings: settings),
  ],
  swiftLanguageModes: [.v6]
)
