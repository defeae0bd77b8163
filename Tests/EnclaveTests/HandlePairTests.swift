// Two threads end lifetimes at the same time: the last reference to an arena, secrets that outlive
// it, wiping everything, and publishing that starts and stops.

import Enclave
import EnclaveSystem
import Foundation
import Synchronization
import TestSupport
import Testing

@Suite struct HandlePairTests {
  /// References that two threads share, and that either may drop.
  private final class Handles: Sendable {
    let arena: Mutex<Arena?>
    let secret: Mutex<SecretReference?>

    init(gate: Arena.Gate, layout: Arena.Layout) throws {
      let arena = try Arena("test", .init(layout: layout, lock: .preferred, gate: gate))
      secret = Mutex(SecretReference(try arena.allocate(byteCount: 48)))
      self.arena = Mutex(arena)
    }

    // Copy the reference, so that the work is done without the lock.
    var anArena: Arena? { arena.withLock { $0 } }
    var aSecret: SecretReference? { secret.withLock { $0 } }
    func dropArena() { _ = arena.withLock { $0.take() } }
    func dropSecret() { _ = secret.withLock { $0.take() } }
  }

  private static let steps: [@Sendable (Handles) throws -> Void] = [
    { $0.dropArena() },
    { $0.dropSecret() },
    { try $0.aSecret?.withBytes { _ in } },
    {
      // A secret that outlives the reference to its arena.
      guard let arena = $0.anArena else { return }
      let own = SecretReference(try arena.allocate(byteCount: 48))
      $0.dropArena()
      try own.withBytes { _ in }
    },
    { _ in Registry.wipeEverything() },
    { _ in
      let publisher = try StatsPublisher.start()
      publisher.refresh()
      publisher.stop()
    },
    { try $0.anArena?.destroy() },
    {
      guard let arena = $0.anArena else { return }
      let found = try arena.check()
      #expect(found == [], "\(found)")
    },
  ]

  private static func run(_ step: Int, _ handles: Handles, _ pair: String) {
    do { try steps[step](handles) } catch let error as EnclaveError {
      switch error {
      case .destroyed, .windowsOpen, .alreadyPublishing: break
      default: Issue.record(error, "steps \(pair)")
      }
    } catch let error as AccessError<Never> {
      switch error {
      case .access(.destroyed): break
      default: Issue.record(error, "steps \(pair)")
      }
    } catch { Issue.record(error, "steps \(pair)") }
  }

  /// Every pair at many offsets: no crash, no hang, only typed errors, and no leak.
  @Test(arguments: allGates, [Arena.Layout.slab, .isolated])
  func everyPairOfReleasesMayRunConcurrently(gate: Arena.Gate, layout: Arena.Layout) async {
    let (number, isSlab) = (allGates.firstIndex(of: gate)!, layout == .slab)
    await #expect(processExitsWith: .success) {
      [number = number as Int, isSlab = isSlab as Bool] in
      let stats = try Scratch(onTmpfs: true)
      setenv("ENCLAVE_STATS_DIR", stats.path, 1)
      let before = ProcessFacts.lockedBytes()!
      for (first, second) in Self.steps.indices.flatMap({ a in Self.steps.indices.map { (a, $0) } })
      {
        for round in 0..<12 {
          let handles = try Handles(
            gate: allGates[number], layout: isSlab ? .slab : .isolated)
          let start = DispatchSemaphore(value: 0)
          let done = DispatchSemaphore(value: 0)
          let turns = round * 40
          Thread {
            start.wait()
            for _ in 0..<(round % 2 == 0 ? turns : 0) { sched_yield() }
            Self.run(second, handles, "\(first) and \(second)")
            done.signal()
          }.start()
          start.signal()
          for _ in 0..<(round % 2 == 0 ? 0 : turns) { sched_yield() }
          Self.run(first, handles, "\(first) and \(second)")
          done.wait()
          handles.dropArena()
          handles.dropSecret()
        }
      }
      let locked = ProcessFacts.lockedBytes()! - UInt64(ScratchMemory.lockedBytes)
      #expect(locked == before, "locked bytes in the end")
      try #expect(FileManager.default.contentsOfDirectory(atPath: stats.path) == [])
    }
  }
}
