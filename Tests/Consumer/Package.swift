// swift-tools-version: 6.2
// A package that depends on Enclave by path, as a client would.

import PackageDescription

let package = Package(
  name: "consumer",
  dependencies: [.package(name: "memwatch", path: "../..")],
  targets: [
    .executableTarget(
      name: "consumer", dependencies: [.product(name: "Enclave", package: "memwatch")],
      swiftSettings: [
        .enableUpcomingFeature("MemberImportVisibility"), .treatAllWarnings(as: .error),
      ])
  ],
  swiftLanguageModes: [.v6]
)
