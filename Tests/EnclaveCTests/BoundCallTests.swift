// Call sites bound to an arena: the interposer, the active arena, foreign allocators.

import Foundation
import TestSupport
import Testing

@Suite struct BoundCallTests {
  let installed: Installed
  init() throws { installed = try Installed.shared.get() }

  private static let aborted: Int32 = 128 + SIGABRT

  private var preload: [String: String] {
    ["LD_PRELOAD": installed.libraries + "/libenclave-malloc.so"]
  }

  @Test func callSitesAreBoundToAnArena() throws {
    let preloaded = try Launch([installed.compile("active")], environment: preload).run()
    #expect(preloaded.status == 0 && preloaded.output == "ok\n", "\(preloaded.error)")
    let linked = try Launch([installed.compile("active", linkage: .interposed)]).run()
    #expect(linked.status == 0 && linked.output == "ok\n", "\(linked.error)")
  }

  @Test func bindingWithoutTheInterposerIsAnError() throws {
    let result = try Launch([installed.compile("active"), "without"]).run()
    #expect(result.output.hasPrefix("0 16 libenclave-malloc.so is not in this process"))
  }

  @Test func aClosedArenaIsRefused() throws {
    let result = try Launch([installed.compile("active"), "closed"], environment: preload).run()
    #expect(result.output.hasPrefix("0 17 the arena is closed to this thread"))
  }

  @Test func aPreviousArenaIsRestoredEvenIfClosed() throws {
    let result = try Launch([installed.compile("active"), "restored"], environment: preload).run()
    #expect(result.status == 0 && result.output == "0\n", "\(result.error)")
  }

  @Test func settingTheActiveArenaLooksUpNamesOnce() throws {
    // The loader prints each symbol lookup, and each object that it searches.
    var environment = preload
    environment["LD_DEBUG"] = "symbols"
    let result = try Launch([installed.compile("active"), "lookups"], environment: environment)
      .run()
    #expect(result.status == 0 && result.output == "ok\n")
    let lookups = result.error.matches(of: /symbol=enclave_interposer;/).count
    #expect(lookups > 0 && lookups < 40)
    #expect(result.error.matches(of: /symbol=reallocarray;/).count < 40)
  }

  @Test func aForeignAllocatorEndsTheProcess() throws {
    let result = try Launch([installed.compile("active"), "foreign"], environment: preload).run()
    #expect(result.status == Self.aborted)
    #expect(
      result.error.contains(
        "the allocator that was called does not resolve to libenclave-malloc.so"))
  }

  @Test func aPartlyInterposedAllocatorEndsTheProcess() throws {
    let program = try installed.compile("active", flags: ["-DOWN_FREE"], linkage: .interposed)
    let result = try Launch([program, "partial"]).run()
    #expect(result.status == Self.aborted)
    #expect(result.error.contains("Enclave: free does not resolve to libenclave-malloc.so"))
  }
}
