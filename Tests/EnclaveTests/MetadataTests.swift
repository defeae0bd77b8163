// Metadata of secrets lies in ordinary memory, which may run out.

import CTestSupport
import Enclave
import EnclaveSystem
import Foundation
import Glibc
import TestSupport
import Testing

@Suite struct MetadataTests {
  #if DEBUG
    /// Each allocation of metadata fails once: the error names it, and everything works afterwards.
    @Test(arguments: [Arena.Layout.slab, .isolated], allGates)
    func eachPieceOfMetadataMayFail(layout: Arena.Layout, gate: Arena.Gate) async {
      let (isolated, number) = (layout == .isolated, allGates.firstIndex(of: gate)!)
      await #expect(processExitsWith: .success) {
        [isolated = isolated as Bool, number = number as Int] in
        let options = Arena.Options(
          layout: isolated ? .isolated : .slab, lock: .off, gate: allGates[number])
        func round() throws(EnclaveError) {
          let arena = try Arena("victim", options)
          for size in [32, 200, 5000] {
            _ = try arena.allocate(byteCount: size, label: "label")
          }
          for _ in 0..<40 { _ = try arena.allocate(byteCount: 32) }
          let kept = SecretReference(try arena.allocate(byteCount: 100))
          #expect((try? kept.withBytes { $0.byteCount }) == 100)
        }
        try round()
        var failures = 0
        for after in 0..<1000 {
          let before = SystemCall.allocateMetadata.failureCount
          FaultPlan.fail(.allocateMetadata, errno: EIO, after: after, times: 1)
          var error: EnclaveError?
          do throws(EnclaveError) { try round() } catch let thrown { error = thrown }
          let hasFailed = SystemCall.allocateMetadata.failureCount > before
          FaultPlan.clear()
          try round()
          if !hasFailed { break }
          failures += 1
          guard case .system(let failure) = error else {
            Issue.record("failure \(after): \(String(describing: error))")
            return
          }
          #expect(failure.call == .allocateMetadata && failure.errno == EIO)
        }
        #expect(failures > 8 && failures < 1000)
      }
    }
  #endif

  /// With 150 MiB of address space (more if the program itself needs it), unlimited allocation ends
  /// with an error that names the cause, and existing secrets stay usable. Under a page gate the
  /// error counts the many mappings.
  @Test(arguments: [false, true], [false, true])
  func outOfMemoryIsAnError(manyArenas: Bool, isGated: Bool) async {
    await #expect(processExitsWith: .success) {
      [manyArenas = manyArenas as Bool, isGated = isGated as Bool] in
      let options = Arena.Options(lock: .off, gate: isGated ? .pages : .none)
      let arena = try Arena("test", options)
      var first = try arena.allocate(byteCount: 100)
      try fill(&first, from: 7)
      let statm = try String(contentsOfFile: "/proc/self/statm", encoding: .utf8)
      let inUse = UInt(statm.split(separator: " ")[0])! * 4096
      var limit = rlimit(rlim_cur: inUse + 40 << 20, rlim_max: inUse + 40 << 20)
      try #require(setrlimit(__rlimit_resource_t(RLIMIT_AS.rawValue), &limit) == 0)
      var arenas: [Arena] = []
      arenas.reserveCapacity(1 << 16)
      var handles: [SecretHandle] = []
      handles.reserveCapacity(1 << 16)
      let end: EnclaveError
      do throws(EnclaveError) {
        while true {
          if manyArenas {
            arenas.append(try Arena("more", options))
          } else {
            handles.append(
              try arena.reference.allocate(byteCount: 4000, alignment: 16, label: "more"))
          }
        }
      } catch { end = error }
      let count = manyArenas ? arenas.count : handles.count
      let isIntact = try contents(first) == (0..<100).map { UInt8($0 + 7) }
      for handle in handles { try handle.free() }
      arenas = []
      _ = try arena.allocate(byteCount: 4000)
      // Only now is there memory for the expectations.
      #expect(count > (manyArenas ? 10 : 1000))
      #expect(isIntact, "an existing secret")
      guard case .system(let failure) = end else {
        Issue.record("\(end)")
        return
      }
      #expect(failure.errno == ENOMEM)
    }
  }
}
