// The C interface from the view of C programs: built, installed, linked, misused, and watched.

import Foundation
import TestSupport
import Testing

/// The libraries of this build, installed once for all tests.
struct Installed: Sendable {
  let prefix: Scratch
  var libraries: String { prefix.file("lib") }

  static let shared = Result { try Installed() }

  private init() throws {
    prefix = try Scratch()
    let result = try Launch([
      Programs.package.appending(path: "Assets/install-enclave").path, "--prefix", prefix.path,
      "--build-path", Programs.directory.path,
    ]).run()
    guard result.status == 0 else { throw Failed("install-enclave: \(result.error)") }
  }

  enum Linkage: String, CaseIterable { case shared, fixed, interposed }

  /// Compiles a client as its user would, and returns the program.
  func compile(
    _ client: String, packages: [String] = [], flags: [String] = [], linkage: Linkage = .shared
  ) throws -> String {
    let source = Programs.package.appending(path: "Tests/Clients/\(client).c").path
    let program = prefix.file("\(client)-\(UInt32.random(in: 0 ... .max))")
    let module = linkage == .interposed ? "enclave-malloc" : "enclave"
    // Use pkg-config with the installed file, like a user.
    let asked = try Launch(
      ["pkg-config", "--cflags", "--libs", module] + packages,
      environment: ["PKG_CONFIG_PATH": libraries + "/pkgconfig"]
    ).run()
    guard asked.status == 0 else { throw Failed("pkg-config: \(asked.error)") }
    var words = asked.output.split(whereSeparator: \.isWhitespace).map(String.init)
    if linkage == .fixed {
      words =
        words.filter { $0 != "-lenclave" }
        + [libraries + "/libenclave.a", "-lstdc++", "-lm", "-ldl", "-lpthread"]
    }
    let result = try Launch(
      ["gcc", "-std=gnu11", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-o", program, source]
        + flags + words + ["-lpthread"]
    ).run()
    guard result.status == 0 else { throw Failed("gcc \(client): \(result.error)") }
    return program
  }
}

@Suite struct CInterfaceTests {
  let installed: Installed
  init() throws { installed = try Installed.shared.get() }

  // MARK: - The header and the libraries

  /// The library exports exactly the names that the header declares.
  @Test func theLibraryExportsWhatTheHeaderDeclares() throws {
    let header = try String(
      contentsOfFile: installed.prefix.file("include/enclave.h"), encoding: .utf8)
    let code = header.replacing(/\/\*[\s\S]*?\*\//, with: "")
    let declared = Set(code.matches(of: /\b(enclave_\w+)\(/).map { String($0.1) })
      .filter {
        code.contains(try! Regex("[a-z_*] ?\\*?\($0)\\(")) && !code.contains("#define \($0)(")
          && !$0.hasSuffix("_")
      }
    #expect(declared.count > 35)
    let exported = try exports("libenclave.so.1")
    #expect(
      exported.subtracting(declared) == [
        "enclave_private_is_busy", "enclave_private_hold", "enclave_private_free_held",
        "enclave_private_wipe", "enclave_private_is_forking", "enclave_private_free_after_fork",
        "enclave_private_foreign_allocator", "pthread_create",
      ])
    #expect(declared.subtracting(exported) == [])
  }

  /// The Debian packages declare exactly what the libraries export; otherwise they do not build.
  @Test(arguments: ["libenclave", "libenclave-malloc", "libenclave-adopt"])
  func thePackagesDeclareWhatTheLibrariesExport(library: String) throws {
    let file = Programs.package.appending(path: "Assets/packaging/debian/\(library)1.symbols")
    let declared = try String(contentsOf: file, encoding: .utf8).split(separator: "\n")
      .filter { $0.hasPrefix(" ") }.map { String($0.dropFirst().prefix { $0 != "@" }) }
    let exported = try exports("\(library).so.1")
    #expect(exported == Set(declared.filter { $0 != "ENCLAVE_1" }))
    #expect(exported.count > 8)
  }

  /// Functions have a symbol version, so that later versions can change. pthread_create has none:
  /// with a version it would not precede the C library's in a program that was linked with another
  /// version of that.
  @Test func functionsCarryAVersion() throws {
    let names = try Launch([
      "nm", "-D", "--defined-only", "--with-symbol-versions",
      installed.libraries + "/libenclave.so.1",
    ]).run().output.split(separator: "\n").compactMap { $0.split(separator: " ").last }
    #expect(names.count > 35)
    for name in names where name.hasPrefix("enclave_") {
      #expect(name.hasSuffix("@@ENCLAVE_1"))
    }
    #expect(names.contains("pthread_create"))
  }

  /// Constants and relocated data are read-only, in the library and in a program that links it
  /// statically.
  @Test func constantsAreReadOnly() throws {
    let files = [
      installed.libraries + "/libenclave.so.1", try installed.compile("interface", linkage: .fixed),
    ]
    for file in files {
      let segments = try Launch(["readelf", "-lW", file]).run().output
      #expect(segments.contains("GNU_RELRO"), "\(file)")
      let sections = try Launch(["readelf", "-SW", file]).run().output
      let constants = try #require(
        sections.firstMatch(of: /\s\.rodata +PROGBITS.* (\w+) +\d+ +\d+ +\d+\n/))
      #expect(constants.1 == "A", "\(file): \(constants.0)")
    }
  }

  /// pkg-config, the header and memwatch have the same version.
  @Test(arguments: ["enclave", "enclave-malloc"])
  func pkgConfigTellsTheVersion(module: String) throws {
    let asked = try Launch(
      ["pkg-config", "--modversion", module],
      environment: ["PKG_CONFIG_PATH": installed.libraries + "/pkgconfig"]
    ).run()
    #expect(try asked.output == Launch([Programs.path("memwatch"), "--version"]).run().output)
  }

  private func exports(_ library: String) throws -> Set<String> {
    let names = try Launch([
      "nm", "-D", "--defined-only", "--extern-only",
      installed.libraries + "/" + library,
    ]).run()
    return Set(
      names.output.split(separator: "\n").filter { !$0.contains(" A ") }.compactMap {
        $0.split(separator: " ").last.map { String($0.split(separator: "@")[0]) }
      })
  }

  /// The libraries neither need nor mention the toolchain at run time.
  @Test(arguments: ["libenclave.so.1", "libenclave-malloc.so.1", "libenclave-adopt.so.1"])
  func librariesDoNotReferToTheToolchain(library: String) throws {
    let dynamic = try Launch(["readelf", "-d", installed.libraries + "/" + library]).run().output
    let needed = dynamic.matches(of: /NEEDED.*\[(.*?)\]/).map { String($0.1) }
    let system: Set = [
      "libstdc++.so.6", "libm.so.6", "libgcc_s.so.1", "libc.so.6",
      "ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1", "libenclave.so.1",
    ]
    #expect(Set(needed).isSubset(of: system), "\(needed)")
    let paths = dynamic.matches(of: /(?:RUNPATH|RPATH).*\[(.*?)\]/).map { String($0.1) }
    #expect(paths == (library.contains("-") ? ["$ORIGIN"] : []))
  }

  @Test(arguments: [
    ["gcc", "-std=c99"], ["gcc", "-std=c11"], ["g++", "-std=c++11"], ["g++", "-std=c++20"],
  ])
  func theHeaderCompilesWithoutWarnings(compiler: [String]) throws {
    let scratch = try Scratch()
    let source = scratch.file(compiler[0] == "gcc" ? "a.c" : "a.cpp")
    try """
    #include <enclave.h>
    #include <enclave.h>
    int main(void) {
      enclave_options options = ENCLAVE_OPTIONS_DEFAULT;
      ENCLAVE_SCOPED_WINDOW(window);
      return (int)options.capacity + (ENCLAVE_HERE[0] == 0);
    }
    """.write(toFile: source, atomically: true, encoding: .utf8)
    let result = try Launch(
      compiler + [
        "-pedantic", "-Wall", "-Wextra", "-Wconversion", "-Werror", "-c", source, "-o", "/dev/null",
        "-I" + installed.prefix.file("include"),
      ]
    ).run()
    #expect(result.status == 0, "\(result.error)")
  }

  @Test(arguments: Installed.Linkage.allCases.filter { $0 != .interposed })
  func everyFunctionWorks(linkage: Installed.Linkage) throws {
    let stats = try Scratch(onTmpfs: true)
    let result = try Launch([installed.compile("interface", linkage: linkage)], stats: stats).run()
    #expect(result.status == 0 && result.output == "ok\n", "\(result.error)")
  }

  @Test func everyFunctionWorksUnprivileged() throws {
    let stats = try Scratch(onTmpfs: true, mode: 0o777)
    try FileManager.default.setAttributes(
      [.posixPermissions: 0o755], ofItemAtPath: installed.prefix.path)
    let result = try Launch(
      unprivileged(memlock: 65536) + [installed.compile("interface")],
      environment: [
        "XDG_RUNTIME_DIR": stats.path
      ]
    ).run()
    #expect(result.status == 0 && result.output == "ok\n", "\(result.error)")
  }

  // MARK: - Misuse

  struct Attack: CustomTestStringConvertible {
    var name: String
    var gates = hasKeys ? ["pages", "none", "key"] : ["pages", "none"]
    var status: Int32 = 0
    var output = ""
    var error = ""
    var testDescription: String { name }
    func matches(error text: String) -> Bool {
      error.isEmpty ? text.isEmpty : text.contains(error)
    }
  }

  /// The processor and the kernel agree with the probes.
  private static let hasKeys =
    (try? String(contentsOfFile: "/proc/cpuinfo", encoding: .utf8))?.contains(" ospke") ?? false

  /// A window belongs to its thread, and threads that are created in it start closed.
  @Test(.enabled(if: hasKeys, "this processor has no protection keys"))
  func aWindowBelongsToItsThread() throws {
    let program = try installed.compile("attacks")
    #expect(try Launch([program, "thread-in-a-window", "key"]).run().status == Self.faulted)
  }

  private static let aborted: Int32 = 128 + SIGABRT
  private static let faulted: Int32 = 128 + SIGSEGV

  static let attacks = [
    Attack(
      name: "overflow-slab", status: aborted,
      error:
        "overflow: something wrote past the end of a secret (arena attacked, label victim, 40 bytes, offset 40)"
    ),
    Attack(
      name: "overflow-handled", output: "violation 1 attacked victim 40 40\nstatus 0 seen 1\n"),
    Attack(name: "overflow-isolated", status: faulted),
    Attack(name: "underflow-isolated", status: aborted, error: "underflow: "),
    Attack(name: "read-closed", gates: hasKeys ? ["pages", "key"] : ["pages"], status: faulted),
    Attack(
      name: "write-in-read-window", gates: hasKeys ? ["pages", "key"] : ["pages"], status: faulted),
    Attack(
      name: "use-after-free",
      output: "15 the address does not belong to a live secret of this process\n"),
    Attack(
      name: "stale-handle",
      output: "8 the secret is gone: it was freed or resized, or its arena was destroyed\n"
        + "8 the secret is gone: it was freed or resized, or its arena was destroyed\n"),
    Attack(
      name: "handle-of-a-gone-arena",
      output: "8 the secret is gone: it was freed or resized, or its arena was destroyed\n"),
    Attack(
      name: "double-free", status: aborted,
      error: "doubleFree: a secret was freed twice (arena attacked)"),
    Attack(name: "double-free-two-threads", output: "seen 200 live 0 wrong 0\n"),
    Attack(name: "foreign-free", status: aborted, error: "foreignPointer: "),
    Attack(name: "interior-free", status: aborted, error: "foreignPointer: "),
    Attack(name: "realloc-after-free", status: aborted, error: "doubleFree: "),
    Attack(name: "write-after-free", gates: ["none"], output: "wrong 1 seen 0\n"),
    Attack(
      name: "frozen-write", status: faulted,
      output:
        "7 the arena is frozen: its contents can only be read\n"),
    Attack(
      name: "fork",
      output: "9 9 9 0 9 9 0 the arena belongs to the parent of this forked "
        + "process: create a new one\nown 0\nchild 0 parent 0\n"),
    Attack(
      name: "window-left-open",
      output: "10 1 window of the arena is open, one of them to victim: close them first\n0 \n"
        + "8 the arena and its secrets were destroyed\n"),
    Attack(name: "released-in-a-window", output: "went on\n"),
    // Without keys a window is open to every thread; the library's documentation says so.
    Attack(name: "thread-in-a-window", gates: ["pages", "none"], output: "read 0\n"),
    Attack(name: "wipe-everything", output: "0 8 0 8\n0\n"),
    Attack(
      name: "arguments",
      output: "14 14 14 14 15 8 0 0 14\n0 6 14 14 14 0 6 0 6 0 6 6 yes 6 0 14 0 0 0\n"
        + "14 14\n"),
    Attack(name: "open-free", status: aborted, error: "freedWhileOpen: a secret was freed while a"),
    Attack(
      name: "open-free-handled",
      output: "violation 6 attacked victim 40 0\nviolation 6 attacked victim 40 0\n"
        + "0 10 10 0 10 violation 6 attacked victim 40 0\n1 1 0 seen 3\n"),
    Attack(
      name: "free-after-destroy", status: aborted,
      output: "8 8 8 0 0 8 8 0 8 0\n8 8 8 0 0 8 8 0 8 0\n", error: "foreignPointer: "),
    Attack(
      name: "wiped-double-free", status: aborted, output: "0 \n", error: "doubleFree: "),
    Attack(name: "destroyed-leaks", gates: ["none"], output: "stays\n"),
    Attack(name: "wiped-in-a-block", output: "0 0 8 8 3\n"),
  ]

  @Test(arguments: attacks) func everyMisuseEndsAsDocumented(attack: Attack) throws {
    let program = try installed.compile("attacks")
    for gate in attack.gates {
      let result = try Launch([program, attack.name, gate]).run()
      #expect(result.status == attack.status, "\(gate): \(result.error)")
      #expect(result.output == attack.output, "\(gate)")
      #expect(attack.matches(error: result.error), "\(gate): \(result.error)")
    }
  }

  /// The address sanitizer and the library work together: the library still detects violations.
  @Test func violationsAreDetectedUnderTheAddressSanitizer() throws {
    let program = try installed.compile("attacks", flags: ["-fsanitize=address"])
    // (The sanitizer keeps freed memory for a while, so memory grows.)
    for attack in Self.attacks
    where attack.status != Self.faulted && attack.name != "destroyed-leaks" {
      let result = try Launch(
        [program, attack.name, attack.gates[0]],
        // A client that ends during an attack releases nothing.
        environment: ["ASAN_OPTIONS": "detect_leaks=0"]
      ).run()
      #expect(result.output == attack.output, "\(attack.name): \(result.error)")
      #expect(attack.matches(error: result.error), "\(attack.name): \(result.error)")
    }
  }

  @Test func aLockThatFailsIsAnError() throws {
    try FileManager.default.setAttributes(
      [.posixPermissions: 0o755], ofItemAtPath: installed.prefix.path)
    let result = try Launch(
      unprivileged(memlock: 0) + [installed.compile("attacks"), "lock-limit"]
    ).run()
    #expect(result.output.hasPrefix("0 4 RLIMIT_MEMLOCK is 0 bytes, 0 are in use, "), "\(result)")
  }
}

/// Programs that were not written for this library, with their memory on an arena, watched by
/// memwatch.
@Suite(.waitsForProcesses) struct ClientTests {
  let installed: Installed
  init() throws { installed = try Installed.shared.get() }

  /// Runs a client up to its pause, compares its output with memwatch's, and lets it end.
  private func watch(_ arguments: [String], arena: String) throws {
    let stats = try Scratch(onTmpfs: true)
    let (process, input, output, errors) = try Launch(arguments, stats: stats).start()
    defer { if process.isRunning { kill(process.processIdentifier, SIGKILL) } }
    var line = ""
    while !line.hasSuffix("\n") {
      let byte = output.fileHandleForReading.readData(ofLength: 1)
      if byte.isEmpty { break }
      line += String(decoding: byte, as: UTF8.self)
    }
    let words = line.split(whereSeparator: \.isWhitespace).map(String.init)
    try #require(
      words.first == "ready" && words.count == 3,
      "\(line) \(String(decoding: errors.fileHandleForReading.availableData, as: UTF8.self))")
    let shown = try memwatch(
      "snapshot", "\(process.processIdentifier)", "--format", "json", stats: stats)
    let arenas = try json(shown.output)["arenas"] as! [[String: Any]]
    let found = try #require(arenas.first { $0["name"] as? String == arena })
    #expect((found["secretCount"] as? Int) == Int(words[1]))
    #expect((found["bytesInUse"] as? Int) == Int(words[2]))
    input.fileHandleForWriting.write(Data("go\n".utf8))
    let rest = String(decoding: output.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
    process.waitUntilExit()
    #expect(process.terminationStatus == 0)
    #expect(rest.hasSuffix("ok\n"), "\(rest)")
  }

  @Test func sqliteUsesAnArena() throws {
    try watch([installed.compile("sqlite", packages: ["sqlite3"])], arena: "sqlite")
  }

  @Test func opensslUsesAnArena() throws {
    try watch([installed.compile("tls", packages: ["openssl"])], arena: "tls")
  }

  @Test func libgcryptUsesAnArena() throws {
    try watch([installed.compile("gcrypt", flags: ["-lgcrypt"])], arena: "gcrypt")
  }

  @Test func pythonUsesAnArena() throws {
    try watch(
      [
        "/usr/bin/python3", Programs.package.appending(path: "Tests/Clients/client.py").path,
        installed.libraries + "/libenclave.so.1",
      ], arena: "python")
  }
}
