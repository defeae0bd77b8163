// The package's structure: targets and their imports, a client's build, the symbols of a release.

import Foundation
import TestSupport
import Testing

@Suite(.serialized, .waitsForProcesses) struct PackageTests {
  /// The targets of this package that each target may import, as in the design.
  static let table: [String: Set<String>] = [
    "CEnclaveSystem": [], "EnclaveSystem": ["CEnclaveSystem"],
    "EnclaveStats": ["EnclaveSystem"], "Enclave": ["EnclaveSystem", "EnclaveStats"],
    "EnclaveVault": ["Enclave", "CEnclaveSodium"], "CEnclaveSodium": [],
    "EnclaveService": ["Enclave"], "EnclaveTLS": ["Enclave", "EnclaveSystem", "CEnclaveSodium"],
    "EnclaveTLSP256": [
      "Enclave", "EnclaveTLS", "EnclaveC", "CEnclaveAdopt", "CEnclaveLibcrypto",
    ], "CEnclaveLibcrypto": [],
    "CEnclave": ["CEnclaveSystem"], "EnclaveC": ["CEnclave", "Enclave"], "CEnclaveMalloc": [],
    "CEnclaveAdopt": [],
    "CMemwatchSystem": [], "MemwatchSystem": ["CMemwatchSystem", "EnclaveSystem"],
    "MemwatchInspector": ["EnclaveStats", "EnclaveSystem", "MemwatchSystem"],
    "MemwatchSandbox": ["EnclaveSystem", "MemwatchSystem", "CMemwatchSeccomp"],
    "CMemwatchSeccomp": [],
    "CMemwatchNcurses": [],
    "MemwatchTerminal": ["MemwatchInspector", "CMemwatchNcurses"],
    "MemwatchExporter": ["MemwatchInspector"],
    "memwatch": [
      "MemwatchExporter", "MemwatchInspector", "MemwatchSandbox", "MemwatchTerminal", "DemoBuilder",
    ],
    "DemoBuilder": ["enclave-demo"],
    "enclave-demo": ["Enclave", "EnclaveVault"],
    "enclave-bench": ["Enclave", "EnclaveVault", "CEnclave", "EnclaveC"],
  ]

  @Test func targetsImportWhatTheTableSays() throws {
    let scratch = try Scratch()
    let result = try Launch([
      "swift", "package", "--package-path", Programs.package.path, "--scratch-path",
      scratch.file("build"), "dump-package",
    ]).run()
    let manifest = try json(result.output)
    var seen = 0
    for target in manifest["targets"] as! [[String: Any]] {
      let name = target["name"] as! String
      if target["type"] as! String == "test"
        || ["TestSupport", "CTestSupport", "test-publisher", "sandbox-probe", "screen-driver"]
          .contains(name)
      {
        continue
      }
      let allowed = try #require(Self.table[name], "a target that is not in the table: \(name)")
      for dependency in target["dependencies"] as! [[String: Any]] {
        guard let other = (dependency["byName"] as? [Any])?.first as? String else { continue }
        #expect(allowed.contains(other), "\(name) imports \(other)")
      }
      seen += 1
    }
    #expect(seen >= 9)
  }

  /// The packages that are fetched with a trait, and without.
  @Test func aTraitThatIsOffFetchesNothing() throws {
    func fetched(_ traits: [String]) throws -> Set<String> {
      let scratch = try Scratch()
      let copy = scratch.file("package")
      try FileManager.default.createDirectory(atPath: copy, withIntermediateDirectories: false)
      for name in ["Package.swift", "Sources", "Tests"] {
        try FileManager.default.createSymbolicLink(
          atPath: copy + "/" + name,
          withDestinationPath: Programs.package.appending(path: name).path)
      }
      let result = try Launch(
        ["swift", "package", "--package-path", copy, "--scratch-path", scratch.file("build")]
          + traits + ["resolve"]
      ).run(within: 300)
      try expectBuilt(result)
      return Set(
        try FileManager.default.contentsOfDirectory(atPath: scratch.file("build/checkouts")))
    }
    let always: Set = ["swift-argument-parser"]
    #expect(try fetched([]) == always)
    #expect(try fetched(["--traits", "Sodium"]) == always)
    let server = try fetched(["--traits", "Server"])
    #expect(
      server.isSuperset(
        of: always.union(["swift-service-lifecycle", "swift-metrics", "swift-log", "swift-nio-ssl"])
      ), "\(server)")
  }

  /// Imports are also checked in the sources, because a dependency's modules can be imported too.
  @Test func sourcesImportWhatTheTableSays() throws {
    let sources = Programs.package.appending(path: "Sources")
    for (target, allowed) in Self.table {
      let folder = sources.appending(path: target)
      guard let files = FileManager.default.enumerator(at: folder, includingPropertiesForKeys: nil)
      else { continue }
      for case let file as URL in files where file.pathExtension == "swift" {
        let text = try String(contentsOf: file, encoding: .utf8)
        for line in text.split(separator: "\n") {
          let words = line.split(separator: " ").filter {
            !["public", "package", "internal", "private", "fileprivate"].contains($0)
          }
          guard words.first == "import", words.count > 1, line.first != " " else { continue }
          let module = String(words[1])
          if Self.table[module] != nil {
            #expect(allowed.contains(module), "\(target) imports \(module)")
          }
          #expect(module != "Foundation", "\(target) imports Foundation")
          if module == "CMemwatchNcurses" { #expect(file.lastPathComponent == "Terminal.swift") }
        }
      }
    }
  }

  /// The names of top-level and nested types in Sources, and the places of their declarations.
  private func typeNames() throws -> (outer: [String: [String]], nested: [String: [String]]) {
    let declaration =
      /^( *)(?:@\w+(?:\([^)]*\))? |[a-z]+ )*?(?:struct|class|enum|actor|protocol|typealias) (\w+)/
    let sources = Programs.package.appending(path: "Sources")
    var (outer, nested): ([String: [String]], [String: [String]]) = ([:], [:])
    let all = try #require(
      FileManager.default.enumerator(at: sources, includingPropertiesForKeys: nil))
    for case let file as URL in all where file.pathExtension == "swift" {
      // Types in #if or in a function are indented too, and count as nested.
      for line in try String(contentsOf: file, encoding: .utf8).split(separator: "\n") {
        guard let match = line.prefixMatch(of: declaration) else { continue }
        let name = String(match.2)
        if match.1.isEmpty {
          outer[name, default: []].append(file.lastPathComponent)
        } else {
          nested[name, default: []].append(file.lastPathComponent)
        }
      }
    }
    #expect(outer["Arena"] != nil && outer["Snapshot"] != nil, "the search found no types")
    return (outer, nested)
  }

  /// No two top-level types of the package have the same name.
  @Test func topLevelTypeNamesAreUnique() throws {
    for (name, places) in try typeNames().outer where places.count > 1 {
      Issue.record("\(name) is declared in \(places.joined(separator: " and "))")
    }
  }

  /// A nested type may repeat a general word, but no domain word.
  @Test func nestedTypeNamesAreGeneralOrUnique() throws {
    let general: Set = [
      "Box", "Call", "CodingKeys", "End", "Entry", "Failure", "Key", "Kind", "Options", "State",
      "Statistics", "Word",
    ]
    let (outer, nested) = try typeNames()
    for (name, places) in nested where !general.contains(name) {
      let all = places + (outer[name] ?? [])
      if all.count > 1 { Issue.record("\(name) is declared in \(all.joined(separator: " and "))") }
    }
  }

  /// The version number is the same in the command, the header, the packages, the exported metrics
  /// and the dependency lines of the documentation.
  @Test func thereIsOneVersion() throws {
    let asked = try Launch([Programs.path("memwatch"), "--version"]).run()
    let version = asked.output.trimmingCharacters(in: .whitespacesAndNewlines)
    #expect(version.wholeMatch(of: /\d+\.\d+\.\d+/) != nil, "memwatch --version: \(version)")

    func text(_ path: String) throws -> String {
      try String(contentsOf: Programs.package.appending(path: path), encoding: .utf8)
    }
    // The text that scripts read.
    #expect(try text("Sources/memwatch/Version.swift").contains("packageVersion = \"\(version)\""))
    let numbers = try text("Sources/CEnclave/include/enclave.h")
      .matches(of: /#define ENCLAVE_VERSION_(?:MAJOR|MINOR|PATCH) (\d+)/).map { String($0.1) }
    #expect(numbers.joined(separator: ".") == version)
    #expect(
      try text("Assets/packaging/debian/changelog").hasPrefix("memwatch (\(version)) "),
      "the newest entry of the changelog is another version's")
    #expect(
      try text("Sources/Bindings/python/enclave/__init__.py")
        .contains("\n__version__ = \"\(version)\"\n"))
    #expect(try text("Sources/Bindings/rust/Cargo.toml").contains("\nversion = \"\(version)\"\n"))
    let article = try text("Sources/Enclave/Enclave.docc/Installing.md")
    #expect(article.matches(of: /from: "(.*?)"/).map { String($0.1) } == [version, version])
    for match in article.matches(of: /memwatch-([\d.]+)-linux/) { #expect(match.1 == version) }

    let stats = try Scratch(onTmpfs: true)
    let exported = try Launch([Programs.path("memwatch"), "export"], stats: stats).run()
    #expect(exported.output.contains("memwatch_build_info{version=\"\(version)\"} 1"))
  }

  @Test func theReadmeHasAtMost250Lines() throws {
    let text = try String(
      contentsOf: Programs.package.appending(path: "README.md"), encoding: .utf8)
    #expect(
      text.split(separator: "\n", omittingEmptySubsequences: false).count <= 251,
      "at most 250 lines")
  }

  /// Cancels the test where the dependencies cannot be fetched, which is no defect of the package.
  private func expectBuilt(_ result: Ended) throws {
    if result.status != 0, result.error.contains("Failed to clone") {
      try Test.cancel("a dependency cannot be fetched: \(result.error)")
    }
    #expect(result.status == 0, "\(result.error)")
  }

  @Test func aClientBuildsAndRuns() throws {
    let scratch = try Scratch()
    let stats = try Scratch(onTmpfs: true)
    let result = try Launch(
      [
        "swift", "run", "--package-path",
        Programs.package.appending(path: "Tests/Consumer").path, "--scratch-path",
        scratch.file("build"), "consumer",
      ], stats: stats
    ).run(within: 600)
    try expectBuilt(result)
    #expect(result.output.hasSuffix("66\n"))
    try #expect(viewerSymbols(of: scratch.file("build/debug/consumer")).isEmpty)
    // The control: the same search finds them in the viewer.
    try #expect(!viewerSymbols(of: Programs.path("memwatch")).isEmpty)
  }

  /// Symbols that only the viewer needs: processes, sockets, confinement, files of other processes.
  private func viewerSymbols(of program: String) throws -> [Substring] {
    let symbols = try Launch(["nm", program]).run()
    #expect(symbols.status == 0, "\(symbols.error)")
    #expect(symbols.output.contains("14GuardedMapping"), "nothing of the library in \(program)")
    let names = ["cms_", "14MemwatchSystem", "posix_spawn", "sendmsg", "recvmsg", "signalfd"]
    return symbols.output.split(separator: "\n").filter { line in
      names.contains { line.contains($0) }
    }
  }

  /// Failure injection exists only in debug builds.
  @Test func releaseBuildsHaveNoFailureInjection() throws {
    let scratch = try Scratch()
    let build = scratch.file("build")
    let result = try Launch([
      "swift", "build", "-c", "release", "--package-path", Programs.package.path,
      "--scratch-path", build, "--target", "EnclaveSystem",
    ]).run(within: 600)
    try expectBuilt(result)
    func symbols(_ pattern: String) throws -> String {
      try Launch(["sh", "-c", "nm \(pattern) 2>/dev/null"]).run().output
    }
    let release = try symbols("\(build)/release/EnclaveSystem.build/*.o")
    #expect(release.contains("14GuardedMapping"))
    #expect(!release.contains("9FaultPlan"))
    let debug = try symbols("\(Programs.directory.path)/EnclaveSystem.build/*.o")
    #expect(debug.contains("9FaultPlan"))
  }
}
