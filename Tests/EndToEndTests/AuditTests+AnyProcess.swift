// `memwatch audit` of processes that do not publish: the library that locked each mapping.

import Foundation
import Glibc
import TestSupport
import Testing

extension AuditTests {
  /// A Python program that uses another library: its name, and the text of `lacks`.
  private func survey(_ program: String, library: String = "libc.so.6") throws -> String {
    let process = Launch(
      [
        "python3", "-c",
        """
        import ctypes, sys
        try: library = ctypes.CDLL("\(library)")
        except OSError: print("absent", flush=True); sys.exit(0)
        \(program)
        print("ready", flush=True); sys.stdin.readline()
        """,
      ]
    ).process()
    let (input, output) = (Pipe(), Pipe())
    process.standardInput = input
    process.standardOutput = output
    try process.run()
    defer { if process.isRunning { kill(process.processIdentifier, SIGKILL) } }
    let said = String(
      decoding: output.fileHandleForReading.readData(ofLength: 6), as: UTF8.self)
    guard said.hasPrefix("ready") else { throw Failed("\(library): \(said)") }
    return try memwatch("audit", "\(process.processIdentifier)").output
  }

  @Test(arguments: [
    (
      "libsodium.so.23", "libsodium guarded allocation",
      "library.sodium_init(); library.sodium_malloc.restype = ctypes.c_void_p; "
        + "kept = [library.sodium_malloc(ctypes.c_size_t(100)) for i in range(3)]"
    ),
    (
      "libcrypto.so.3", "OpenSSL secure heap",
      "assert library.CRYPTO_secure_malloc_init(ctypes.c_size_t(65536), ctypes.c_size_t(16)) > 0"
    ),
    (
      "libgcrypt.so.20", "libgcrypt pool",
      "library.gcry_check_version(None); library.gcry_control(24, 32768, 0); "
        + "library.gcry_control(38, 0)"
    ),
  ])
  func otherLibrariesAreRecognised(library: String, name: String, program: String) throws {
    let text = try survey(program, library: library)
    #expect(text.contains(name), "\(text)")
    let inherited = text.split(separator: "\n").first { $0.hasPrefix(name) }
    #expect(inherited?.contains("inherited by fork") == true, "\(text)")
  }

  /// Locked memory of every kind that a program can map.
  @Test(arguments: [
    ("shared memory", "kept = mmap.mmap(-1, 49152)"),
    (
      "memfd",
      "fd = os.memfd_create('keys'); os.ftruncate(fd, 49152); kept = mmap.mmap(fd, 49152)"
    ),
    (
      "mapped file",
      "f = tempfile.TemporaryFile(); f.truncate(49152); kept = mmap.mmap(f.fileno(), 49152)"
    ),
    ("unknown", "kept = mmap.mmap(-1, 49152, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)"),
  ])
  func lockedMemoryOfEveryKindIsReported(name: String, program: String) throws {
    let text = try survey(
      "import mmap, os, tempfile; \(program); "
        + "at = ctypes.addressof(ctypes.c_char.from_buffer(kept)); "
        + "assert library.mlock(ctypes.c_void_p(at), ctypes.c_size_t(49152)) == 0")
    let line = text.split(separator: "\n").first { $0.hasPrefix(name) }
    #expect(line?.contains("48 KiB") == true, "\(text)")
    #expect(!text.contains("libgcrypt") && !text.contains("to no mapping"), "\(text)")
    #expect(text.contains("VmLck 48 KiB"), "\(text)")
  }

  @Test func processWithoutProtectedMemoryIsReported() throws {
    let process = Launch(["sleep", "60"]).process()
    try process.run()
    defer { kill(process.processIdentifier, SIGKILL) }
    let ended = try memwatch("audit", "\(process.processIdentifier)")
    #expect(ended.status == 0 && ended.output.contains("ordinary memory"), "\(ended)")
    #expect(try memwatch("audit", "4194304").status == 2)
  }
}
