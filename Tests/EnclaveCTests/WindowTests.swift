// Windows of the C interface in difficult situations: in signal handlers, in threads that did not
// open them, and in children.

import Foundation
import TestSupport
import Testing

@Suite struct CWindowTests {
  /// Under a cipher gate the address identifies the secret, and the window shows it. Linked
  /// dynamically and statically.
  @Test(arguments: [Installed.Linkage.shared, .fixed])
  func windowsWorkUnderACipherGate(linkage: Installed.Linkage) throws {
    let result = try Launch([Installed.shared.get().compile("cipher", linkage: linkage)]).run()
    #expect(result.status == 0 && result.output == "ok\n", "\(result)")
  }

  let program: String
  init() throws { program = try Self.compiled.get() }

  private static let compiled = Result { try Installed.shared.get().compile("windows") }

  private static let hasKeys =
    (try? String(contentsOfFile: "/proc/cpuinfo", encoding: .utf8))?.contains(" ospke") ?? false
  static let withoutPages = hasKeys ? ["none", "key"] : ["none"]
  static let gates = withoutPages + ["pages"]

  /// Runs a program. One that hangs is killed, and counts as a failure.
  private func run(_ arguments: String...) throws -> String {
    let result = try Launch(["timeout", "-s", "KILL", "120", program] + arguments).run()
    #expect(result.status == 0, "\(arguments): \(result.error)")
    return result.output
  }

  /// A handler whose arena is being changed by the interrupted thread gets ENCLAVE_ERROR_BUSY.
  @Test(arguments: withoutPages) func aHandlerNeverWaitsForItsOwnThread(gate: String) throws {
    #expect(try run("changing", gate) == "busy 1 opened 1 other 0 open 0\n")
  }

  /// Neither a thread's first window nor its first to an arena needs malloc or a lock.
  @Test func theFirstWindowMayBeInAHandler() throws {
    #expect(try run("first") == "opened 1500 busy 0 other 0\n")
  }

  /// Refusing a window needs no malloc and no lock either, and is counted.
  @Test func aWindowInAHandlerMayBeRefused() throws {
    #expect(try run("refused") == "counted 1\n")
  }

  /// Closing another thread's window is an error and changes nothing, whether or not this thread
  /// had windows.
  @Test(arguments: gates) func anotherThreadsWindowCannotBeClosed(gate: String) throws {
    #expect(try run("elsewhere", gate) == "19 0 19 0 0 0\n")
  }

  /// A window whose thread has ended is counted as abandoned, and does not prevent destroying the
  /// arena.
  @Test(arguments: gates) func anAbandonedWindowIsReported(gate: String) throws {
    #expect(
      try run("left-open", gate) == """
        10 1 window of the arena was left open by threads that have ended, one of them to victim: \
        they cannot be closed, and the arena can only be destroyed
        19 0

        """)
  }

  /// A child that was forked in a window gets an error when it closes it, because it read zeros.
  @Test(arguments: gates) func anInheritedWindowIsAnErrorInTheChild(gate: String) throws {
    #expect(try run("forked", gate) == "child 0 parent 0\n")
  }

  /// Under the thread sanitizer windows are counted with atomic additions that it sees, not with
  /// assembly. (clang does not define __SANITIZE_THREAD__.)
  @Test(arguments: ["clang", "gcc"], [false, true])
  func theThreadSanitizerSeesTheCounts(compiler: String, sanitizes: Bool) throws {
    let scratch = try Scratch()
    let source = scratch.file("a.c")
    let text = """
      #include "CEnclaveGate.h"
      void probe(uint64_t *word) { CES_ADD(word, 1, 0); }
      """
    try text.write(toFile: source, atomically: true, encoding: .utf8)
    let headers = Programs.package.appending(path: "Sources/CEnclaveSystem/include").path
    let result = try Launch(
      [compiler, "-std=c2x", "-E", "-P", "-I", headers]
        + (sanitizes ? ["-fsanitize=thread", source] : [source])
    ).run()
    #expect(result.status == 0, "\(result.error)")
    let probe = try #require(result.output.components(separatedBy: "void probe").last)
    #expect(probe.contains("__atomic_fetch_add"))
    #if arch(x86_64)
      #expect(probe.contains("__asm__") == !sanitizes)
    #endif
  }
}
