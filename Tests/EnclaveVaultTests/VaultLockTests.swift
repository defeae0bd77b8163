// No thread waits for another thread's cipher, which may take long.

#if Sodium && DEBUG
  import CTestSupport
  import Enclave
  import EnclaveVault
  import Foundation
  import Synchronization
  import TestSupport
  import Testing

  /// Pauses one call of a cipher until it is released.
  private final class Hold: Sendable {
    private let skipped = Atomic<Int>(0)
    private let reached = Atomic<Bool>(false)
    private let isOpen = Atomic<Bool>(false)
    private let which: Int

    /// The number of the call to pause, from 0, over all threads.
    init(call which: Int = 0) { self.which = which }

    func pause() {
      guard skipped.wrappingAdd(1, ordering: .sequentiallyConsistent).oldValue == which else {
        return
      }
      reached.store(true, ordering: .sequentiallyConsistent)
      while !isOpen.load(ordering: .sequentiallyConsistent) { _ = poll(nil, 0, 1) }
    }

    func wait() throws {
      try eventually("a cipher is reached") { reached.load(ordering: .sequentiallyConsistent) }
    }

    func open() { isOpen.store(true, ordering: .sequentiallyConsistent) }
  }

  /// A thread that returns a result.
  private final class Background: Sendable {
    private let outcome = Mutex<Result<Void, any Error>?>(nil)
    private let tid = Mutex<String?>(nil)

    init(_ body: @escaping @Sendable () throws -> Void) {
      Thread.detachNewThread {
        let link = try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/thread-self")
        self.tid.withLock { $0 = link }
        let result = Result { try body() }
        self.outcome.withLock { $0 = result }
      }
    }

    var isDone: Bool { outcome.withLock { $0 != nil } }

    /// Whether the thread sleeps, instead of running or being runnable.
    var isAsleep: Bool {
      guard let tid = tid.withLock({ $0 }), let text = try? procText("/proc/\(tid)/stat"),
        let end = text.lastIndex(of: ")")
      else { return false }
      return text[end...].dropFirst(2).first == "S"
    }

    func join() throws {
      try eventually("the thread ends") { isDone }
      try outcome.withLock { try $0!.get() }
    }
  }

  private func epoch(_ encrypted: borrowing EncryptedSecret) -> UInt64 {
    encrypted.epochAndNonce.epoch
  }

  @Suite struct VaultLockTests {
    /// Starts a thread that decrypts an entry and checks its contents.
    private func reader(of entry: Holder, _ vault: Vault, _ arena: Arena) -> Background {
      Background {
        guard try isRight(vault.decrypt(entry.encrypted!, into: arena), 1) else {
          throw Failed("contents")
        }
      }
    }

    /// While one thread is in a cipher for an entry, others use the vault and the same entry.
    @Test func aDecryptionBlocksNobody() throws {
      let (vault, arena) = (try vault(), try arena())
      let entry = Holder(try vault.encrypt(secret(arena, 64, 1)))
      let other = Holder(try vault.encrypt(secret(arena, 64, 2)))
      let hold = Hold()
      defer { hold.open() }
      vault.setPause { hold.pause() }
      let reader = reader(of: entry, vault, arena)
      try hold.wait()
      let others = Background {
        for number in [1, 2] {
          let holder = number == 1 ? entry : other
          guard try isRight(vault.decrypt(holder.encrypted!, into: arena), number) else {
            throw Failed("contents")
          }
        }
        _ = try vault.encrypt(secret(arena, 64, 3))
        other.encrypted = nil
      }
      try others.join()
      #expect(vault.statistics.entries == 1 && vault.statistics.decryptions == 2)
      #expect(!reader.isDone)
      hold.open()
      try reader.join()
    }

    /// A rotation replaces a ciphertext that a reader is decrypting; only wiping the old key waits
    /// for the reader.
    @Test func aRotationReplacesWhatIsBeingRead() throws {
      let (vault, arena) = (try vault(), try arena())
      let entry = Holder(try vault.encrypt(secret(arena, 64, 1)))
      let hold = Hold()
      defer { hold.open() }
      vault.setPause { hold.pause() }
      let reader = reader(of: entry, vault, arena)
      try hold.wait()
      let rotation = Background { try vault.rotate() }
      try eventually("all has moved") {
        vault.statistics.rotations == 1 && vault.statistics.entriesOfOldEpoch == 0
      }
      #expect(try isRight(vault.decrypt(entry.encrypted!, into: arena), 1))
      try eventually("the rotation sleeps") { rotation.isAsleep }
      #expect(!rotation.isDone && !vault.isOldKeyWiped)
      hold.open()
      try rotation.join()
      try reader.join()
      #expect(vault.isOldKeyWiped && vault.statistics.failures == 0)
    }

    /// An encryption that started under the old key ends under it, and is re-encrypted then.
    @Test func aRotationMovesWhatIsBeingEncrypted() throws {
      let (vault, arena) = (try vault(), try arena())
      let other = try vault.encrypt(secret(arena, 64, 2))
      let hold = Hold()
      defer { hold.open() }
      vault.setPause { hold.pause() }
      let made = Mutex<Holder?>(nil)
      let writer = Background {
        let entry = Holder(try vault.encrypt(secret(arena, 64, 1)))
        made.withLock { $0 = entry }
      }
      try hold.wait()
      let rotation = Background { try vault.rotate() }
      try eventually("the rotation sleeps") {
        vault.statistics.rotations == 1 && rotation.isAsleep
      }
      #expect(try isRight(vault.decrypt(other, into: arena), 2))
      #expect(!rotation.isDone && !vault.isOldKeyWiped)
      hold.open()
      try writer.join()
      try rotation.join()
      let entry = made.withLock { $0! }
      let epoch = epoch(entry.encrypted!)
      #expect(epoch == 2 && vault.isOldKeyWiped)
      #expect(try isRight(vault.decrypt(entry.encrypted!, into: arena), 1))
    }

    /// While a rotation decrypts (0) or re-encrypts (1) an entry, the entry can be read and
    /// dropped.
    @Test(arguments: [0, 1]) func entriesBeingRotatedCanBeReadAndDropped(call: Int) throws {
      let (vault, arena) = (try vault(), try arena())
      let entry = Holder(try vault.encrypt(secret(arena, 64, 1)))
      let last = try vault.encrypt(secret(arena, 64, 2))
      let hold = Hold(call: call)
      defer { hold.open() }
      vault.setPause { hold.pause() }
      let rotation = Background { try vault.rotate() }
      try hold.wait()
      let owner = Background {
        guard try isRight(vault.decrypt(entry.encrypted!, into: arena), 1) else {
          throw Failed("contents")
        }
        entry.encrypted = nil
      }
      try owner.join()
      #expect(vault.statistics.entries == 1 && !rotation.isDone)
      hold.open()
      try rotation.join()
      #expect(vault.statistics.entriesOfOldEpoch == 0 && vault.isOldKeyWiped)
      #expect(try isRight(vault.decrypt(last, into: arena), 2))
    }

    /// In a child that is forked during a rotation, calls are errors, although its copy of the lock
    /// stays locked.
    @Test func aChildOfARotatingProcessDoesNotHang() async {
      await #expect(processExitsWith: .success) {
        let (vault, arena) = (try vault(), try arena())
        let entry = Holder(try vault.encrypt(secret(arena, 64, 1)))
        let hold = Hold()
        vault.setPause { hold.pause() }
        let rotation = Background { try vault.rotate() }
        try hold.wait()
        let report = try ChildReport()
        let child = report.fork()
        if child == 0 {
          report.expect(throws: EnclaveError.inheritedByFork, "rotating") { try vault.rotate() }
          entry.encrypted = nil
          report.expect(vault.statistics.encryptions == 0, "no counts of an inherited vault")
          report.end()
        }
        let failures = report.failures(of: child)  // a child that hangs is killed
        #expect(failures == [], "\(failures)")
        hold.open()
        try rotation.join()
        #expect(
          try isRight(vault.decrypt(entry.encrypted!, into: arena), 1), "the parent's contents")
      }
    }
  }
#endif
