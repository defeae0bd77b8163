// Prepares a command for adoption: finds libenclave-adopt.so, and checks that the program can
// preload it.

import EnclaveSystem
import MemwatchSystem

/// Adoption of unchanged programs: preloading libenclave-adopt.so puts their libraries' secure
/// memory into arenas.
package enum Adoption {
  private static let library = "libenclave-adopt.so.1"

  /// The environment variables for an adopted command. Throws if the library is missing, or if the
  /// dynamic loader would ignore it, because the command would then run without being adopted.
  package static func environment(
    for command: [String], programDirectory: String
  ) throws(CommandFailure) -> [String: String] {
    let places = directories(programDirectory).map { $0 + "/" + library }
    guard let path = places.first(where: { status($0)?.isRegular == true }) else {
      throw CommandFailure(
        code: 125,
        message: "\(library) not found; searched "
          + places.map { SafeText($0).string }.joined(separator: ", ")
          + ". Install the package libenclave-adopt1, or run Assets/install-enclave.")
    }
    // ld.so(8) separates the paths in LD_PRELOAD by blanks and colons.
    guard !path.contains(where: { $0 == " " || $0 == ":" }) else {
      throw CommandFailure(
        code: 125,
        message: "\(SafeText(path)) cannot be preloaded: its path contains a space or a colon"
      )
    }
    if let program = command.first.flatMap(find), let reason = obstacle(program) {
      throw CommandFailure(
        code: 125, message: "\(SafeText(program)) cannot be adopted: \(reason)")
    }
    let others = ProcessFacts.environment("LD_PRELOAD").map { ":" + $0 } ?? ""
    return ["LD_PRELOAD": path + others, "ENCLAVE_STATS": "1"]
  }

  private static func directories(_ programDirectory: String) -> [String] {
    #if arch(arm64)
      let multiarch = "aarch64-linux-gnu"
    #else
      let multiarch = "x86_64-linux-gnu"
    #endif
    return [
      programDirectory, programDirectory + "/lib", programDirectory + "/../lib",
      programDirectory + "/../lib/" + multiarch, "/usr/local/lib", "/usr/lib/" + multiarch,
      "/usr/lib",
    ]
  }

  /// Searches PATH like execvp(3).
  private static func find(_ program: String) -> String? {
    if program.contains("/") { return program }
    return (ProcessFacts.environment("PATH") ?? "/usr/bin:/bin").split(separator: ":")
      .lazy.map { "\($0)/\(program)" }.first { path in
        status(path).map { $0.isRegular && $0.mode & 0o111 != 0 } ?? false
      }
  }

  /// The status of a file, following links if the target is readable.
  private static func status(_ path: String) -> FileStatus? {
    guard let file = try? OpenFile(reading: path, followingLinks: true) else {
      return try? Files.status(path)
    }
    return try? file.status()
  }

  private static func head(of path: String, byteCount: Int) -> [UInt8] {
    guard let file = try? OpenFile(reading: path, followingLinks: true) else { return [] }
    var bytes = [UInt8](repeating: 0, count: byteCount)
    var count = 0
    unsafe bytes.withUnsafeMutableBytes { raw in
      count = unsafe (try? file.read(into: raw, at: 0)) ?? 0
    }
    return Array(bytes[..<count])
  }

  /// Why the dynamic loader preloads nothing into a program; nil where it does, or the file cannot be
  /// read. Of a script, its interpreter's reason: the kernel follows four.
  private static func obstacle(_ path: String, depth: Int = 0) -> String? {
    if let status = status(path) {
      if status.mode & 0o4000 != 0, status.owner != ProcessFacts.uid {
        return "it is set-user-ID, so the loader ignores LD_PRELOAD (ld.so(8))"
      }
      if status.mode & 0o2010 == 0o2010 {
        return "it is set-group-ID, so the loader ignores LD_PRELOAD (ld.so(8))"
      }
    }
    if ProcessFacts.uid != 0, ChildProcess.gainsCapabilities(path) {
      return "it has file capabilities, so the loader ignores LD_PRELOAD (ld.so(8))"
    }
    let head = head(of: path, byteCount: 1 << 14)
    if head.starts(with: [0x23, 0x21]), depth < 4 {  // #!
      let line = head.dropFirst(2).prefix { $0 != 0x0a }
      let words = line.split { $0 == 0x20 || $0 == 0x09 }
      guard let first = words.first else { return nil }
      let interpreter = String(decoding: first, as: UTF8.self)
      return obstacle(interpreter, depth: depth + 1).map {
        "its interpreter is \(SafeText(interpreter)), and \($0)"
      }
    }
    return obstacle(inELF: head)
  }

  /// EM_X86_64 or EM_AARCH64 of elf(5): this program's own, and the library's beside it.
  private static var machine: Int {
    #if arch(arm64)
      183
    #else
      62
    #endif
  }

  /// The library is for the processor and the C library (glibc) of memwatch itself; other loaders print an
  /// error, or ignore it. And an ELF program (elf(5)) that asks for no loader has none: PT_INTERP is 3.
  private static func obstacle(inELF bytes: [UInt8]) -> String? {
    guard bytes.count >= 64, bytes.starts(with: [0x7f, 0x45, 0x4c, 0x46]) else { return nil }
    func number(_ at: Int, _ count: Int) -> Int {
      (0..<count).reversed().reduce(0) { $0 << 8 | Int(bytes[at + $1]) }
    }
    if bytes[4] != 2 { return "it is a 32-bit program, and \(library) is 64-bit" }
    if number(18, 2) != machine { return "its architecture differs from that of \(library)" }
    let (first, size, count) = (number(32, 7), number(54, 2), number(56, 2))
    guard count > 0, size >= 56, first <= bytes.count, count <= (bytes.count - first) / size else {
      return nil
    }
    guard
      let entry = (0..<count).lazy.map({ first + $0 * size }).first(where: { number($0, 4) == 3 })
    else { return "it is statically linked, so no loader can preload anything" }
    let (place, length) = (number(entry + 8, 7), number(entry + 32, 7))
    guard place <= bytes.count, length <= bytes.count - place else { return nil }
    let loader = String(decoding: bytes[place..<place + length].prefix { $0 != 0 }, as: UTF8.self)
    return loader.contains("ld-musl")
      ? "its C library is not glibc (its loader is \(SafeText(loader)))" : nil
  }
}
