// The library in plugins: unloaded while it is in use, and next to another copy of itself.

import Foundation
import TestSupport
import Testing

@Suite(.waitsForProcesses) struct UnloadTests {
  let installed: Installed
  init() throws { installed = try Installed.shared.get() }

  enum Case: String, CaseIterable, Sendable {
    case ticker, threads, terminated, interposer
    var status: Int32 { self == .terminated ? 128 + SIGTERM : 0 }
  }

  private func module() throws -> String {
    try installed.compile("module", flags: ["-shared", "-fPIC"])
  }

  /// How a program that unloads the library ends.
  private func end(_ name: Case, libraries: String) throws -> Int32 {
    // Only the plugin needs the library, so libc's pthread_create precedes the library's.
    let host = try installed.compile("host", flags: ["-Wl,--as-needed", "-lpthread", "-lc"])
    let library = name == .interposer ? libraries + "/libenclave-malloc.so.1" : try module()
    let stats = try Scratch(onTmpfs: true)
    let client = try Client(
      [host, name.rawValue, library], stats: stats, environment: ["LD_LIBRARY_PATH": libraries])
    if name == .ticker, try client.line() == "ready" {
      var beats: Set<Int> = []
      try eventually("the ticker goes on, or the program ends") {
        if !client.process.isRunning { return true }
        let shown = try memwatch(
          "snapshot", "\(client.process.processIdentifier)", "--format", "json", stats: stats)
        let process = (try? json(shown.output))?["process"] as? [String: Any]
        if let beat = process?["heartbeatAt"] as? Int { beats.insert(beat) }
        return beats.count > 3
      }
      client.go()
    }
    return client.end()
  }

  @Test(arguments: Case.allCases) func aPluginMayBeUnloaded(name: Case) throws {
    #expect(try end(name, libraries: installed.libraries) == name.status)
  }

  /// The twin: without `-z nodelete` each of these programs crashes.
  @Test(arguments: Case.allCases) func withoutNodeleteItCrashes(name: Case) throws {
    let scratch = try Scratch()
    for library in ["libenclave.so.1", "libenclave-malloc.so.1"] {
      var bytes = try Data(contentsOf: URL(filePath: installed.libraries + "/" + library))
      try #require(clearNodelete(&bytes), "\(library)")
      try bytes.write(to: URL(filePath: scratch.file(library)))
    }
    let status = try end(name, libraries: scratch.path)
    #expect(status == 128 + SIGSEGV)
  }

  /// Clears DF_1_NODELETE (elf(5)) in the dynamic section. Returns false if it was not set.
  private func clearNodelete(_ file: inout Data) -> Bool {
    func word(_ offset: Int, _ count: Int) -> Int {
      (0..<count).reduce(0) { $0 | Int(file[offset + $1]) << (8 * $1) }
    }
    let (headers, size) = (word(32, 8), word(54, 2))
    for header in (0..<word(56, 2)).map({ headers + $0 * size }) where word(header, 4) == 2 {
      let start = word(header + 8, 8)
      for entry in stride(from: start, to: start + word(header + 32, 8), by: 16)
      where word(entry, 8) == 0x6fff_fffb && file[entry + 8] & 8 != 0 {
        file[entry + 8] &= ~8
        return true
      }
    }
    return false
  }

  /// One copy is linked into the program, another into a plugin's library. Each has its own page,
  /// and neither affects the other.
  @Test func twoCopiesPublishSideBySide() throws {
    let host = try installed.compile("host", flags: ["-DWITH_ENCLAVE"], linkage: .fixed)
    let stats = try Scratch(onTmpfs: true)
    let client = try Client([host, "two-copies", module()], stats: stats)
    func live() throws -> [String] {
      let list = try json(try memwatch("list", "--json", stats: stats).output)
      return (list["publishers"] as? [[String: Any]] ?? [])
        .filter {
          $0["pid"] as? Int == Int(client.process.processIdentifier)
            && $0["state"] as? String == "live"
        }
        .compactMap { $0["name"] as? String }.sorted()
    }
    try #require(client.line() == "both")
    #expect(try live() == ["plugin", "program"])
    for name in ["plugin", "program"] {
      let shown = try memwatch("snapshot", name, "--format", "json", stats: stats)
      #expect(shown.status == 0, "\(shown.error)")
      let arenas = try json(shown.output)["arenas"] as? [[String: Any]]
      #expect(arenas?.compactMap { $0["name"] as? String } == [name])
    }
    client.go()
    try #require(client.line() == "program")
    #expect(try live() == ["program"])
    client.go()
    #expect(client.end() == 0)
    #expect(try FileManager.default.contentsOfDirectory(atPath: stats.path) == [])
  }
}

/// A program that prints a line when the test should inspect it, and continues after it reads a
/// line.
private final class Client {
  let process: Process
  private let (input, output) = (Pipe(), Pipe())

  init(_ arguments: [String], stats: Scratch, environment: [String: String] = [:]) throws {
    process = Launch(arguments, stats: stats, environment: environment).process()
    process.standardInput = input
    process.standardOutput = output
    try process.run()
  }

  deinit { if process.isRunning { kill(process.processIdentifier, SIGKILL) } }

  /// The next line, or its beginning if the program ends.
  func line() throws -> String {
    var text = Data()
    while let byte = try output.fileHandleForReading.read(upToCount: 1), !byte.isEmpty {
      if byte == Data("\n".utf8) { break }
      text += byte
    }
    return String(decoding: text, as: UTF8.self)
  }

  func go() {
    _ = signal(SIGPIPE, SIG_IGN)
    try? input.fileHandleForWriting.write(contentsOf: Data("go\n".utf8))
  }

  /// The exit status, or 128 plus the signal's number.
  func end() -> Int32 {
    process.waitUntilExit()
    return process.terminationReason == .uncaughtSignal
      ? 128 + process.terminationStatus : process.terminationStatus
  }
}
