// Under a page gate each slab is a separate mapping, so that opening one splits no mapping.

#if DEBUG
  import Enclave
  import EnclaveSystem
  import Foundation
  import Glibc
  import TestSupport
  import Testing

  /// The mapping that an address lies in, from /proc/self/maps.
  private func mapping(at address: UInt) throws -> Range<UInt> {
    let text = try #require(ProcessFacts.readText("/proc/self/maps", limit: 64 << 20))
    for line in text.split(separator: "\n") {
      let ends = line.prefix { $0 != " " }.split(separator: "-")
      let (start, end) = (UInt(ends[0], radix: 16)!, UInt(ends[1], radix: 16)!)
      if (start..<end).contains(address) { return start..<end }
    }
    throw Failed("no mapping at \(address)")
  }

  /// The mapping of a secret's first byte while the secret is open.
  private func openMapping(of secret: SecretReference) throws -> (at: UInt, range: Range<UInt>) {
    let (at, found) = try secret.withBytes { bytes in
      let at = bytes.withUnsafeBytes { UInt(bitPattern: $0.baseAddress!) }
      return (at, try? mapping(at: at))
    }
    return (at, try #require(found))
  }

  @Suite struct SeparateMapsTests {
    /// A slab's mapping is exactly the slab, closed or open, next to neighbours in any state.
    @Test(arguments: [(32, 1), (1000, 2), (3000, 4)])
    func openingSplitsNoMapping(size: Int, slabPages: Int) async {
      await #expect(processExitsWith: .success) {
        [size = size as Int, slabBytes = slabPages * 4096 as Int] in
        let arena = try Arena("test", .init(lock: .preferred, gate: .pages))
        var kept: [SecretReference] = []
        for _ in 0..<300 {
          var secret = try arena.allocate(byteCount: size)
          try fill(&secret, from: 1)
          kept.append(SecretReference(secret))
        }
        #expect(arena.statistics.mergedPages == 0, "merged pages")
        let pages = arena.statistics.bytesMapped / Page.size
        #expect(arena.statistics.separatePages == pages, "separate pages")
        let before = ProcessFacts.mapCount()!
        for secret in kept {
          let (at, range) = try openMapping(of: secret)
          #expect(range.count == slabBytes && range.contains(at), "the open mapping")
          #expect(try mapping(at: at) == range, "the closed one")
        }
        #expect(abs(ProcessFacts.mapCount()! - before) < 10, "mappings")
        #expect(try arena.check().isEmpty, "the check")
        kept = []
        try arena.destroy()
        #expect(SeparateMaps.count == 0, "maps that were not returned")
      }
    }

    /// Also if smaller slabs took a part of the chunk before.
    @Test func slabsAreWholeUnits() async {
      await #expect(processExitsWith: .success) {
        let arena = try Arena("test", .init(lock: .preferred, gate: .pages))
        func fill() throws -> [SecretReference] {
          try (0..<60).map { _ in SecretReference(try arena.allocate(byteCount: 3000)) }
        }
        var large = try fill()
        let mapped = arena.statistics.bytesMapped
        large = []
        let small = SecretReference(try arena.allocate(byteCount: 32))
        large = try fill()
        #expect(arena.statistics.bytesMapped <= mapped + 16384, "pages were used again")
        for secret in large {
          let (at, range) = try openMapping(of: secret)
          #expect(range.count == 16384, "the open mapping")
          #expect(try mapping(at: at) == range, "the closed one")
        }
        try small.withBytes { _ in }
      }
    }

    /// The twin: without the advice, a closed page's mapping is the whole chunk.
    @Test func aChunkInOnePieceIsSplit() async {
      await #expect(processExitsWith: .success) {
        FaultPlan.switchOff(.separatePages)
        let arena = try Arena("test", .init(lock: .preferred, gate: .pages))
        let secret = SecretReference(try arena.allocate(byteCount: 32))
        let (at, open) = try openMapping(of: secret)
        #expect(open.count == Page.size, "the open mapping")
        #expect(try mapping(at: at).count > Page.size, "the closed mapping")
      }
    }

    @Test(arguments: [EINVAL, ENOMEM]) func aRefusedAdviceLeavesAMergedChunk(errno: Int32) async {
      await #expect(processExitsWith: .success) { [errno = errno as Int32] in
        FaultPlan.fail(.separatePages, errno: errno)
        let arena = try Arena("test", .init(lock: .preferred, gate: .pages))
        var secret = try arena.allocate(byteCount: 700)
        try fill(&secret, from: 3)
        #expect(try contents(secret) == (0..<700).map { UInt8(truncatingIfNeeded: $0 + 3) })
        #expect(SystemCall.separatePages.failureCount == 1, "failures")
        #expect(SeparateMaps.count == 0, "maps taken")
        let first = arena.statistics
        #expect(first.separatePages == 0, "separate pages")
        #expect(first.mergedPages == first.bytesMapped / Page.size, "merged pages")
        // The next chunk tries again.
        let more = try (0..<30).map { _ in
          SecretReference(try arena.allocate(byteCount: 700))
        }
        let second = arena.statistics
        #expect(second.mergedPages == first.mergedPages, "merged pages later")
        #expect(
          second.separatePages == (second.bytesMapped - first.bytesMapped) / Page.size,
          "separate pages later")
        #expect(more.count == 30 && second.separatePages > 0)
      }
    }

    /// Advice that the kernel refuses half way is undone: the pages are one mapping again.
    @Test func partiallyAppliedAdviceIsUndone() async {
      await #expect(processExitsWith: .success) {
        var chunk = try GuardedMapping(byteCount: 8 * Page.size)
        #expect(munmap(chunk.data + 5 * Page.size, Page.size) == 0, "a hole")
        let start = UInt(bitPattern: chunk.data)
        #expect(!chunk.separate(unit: Page.size) && chunk.dataMaps == 1, "it is not separate")
        #expect(SystemCall.separatePages.failureCount == 1, "failures")
        #expect(SeparateMaps.count == 0, "maps taken")
        #expect(
          try mapping(at: start) == start..<start + UInt(5 * Page.size), "one mapping again")
      }
    }

    /// The bound applies to all arenas of the process together.
    @Test func beyondTheBoundChunksStayMerged() async {
      await #expect(processExitsWith: .success) {
        #expect((256...2048).contains(SeparateMaps.limit), "the bound: \(SeparateMaps.limit)")
        let arenas = try (0..<2).map { _ in
          try Arena("test", .init(lock: .off, gate: .pages))
        }
        var kept: [SecretReference] = []
        // Five secrets per page.
        for index in 0..<SeparateMaps.limit * 6 {
          var secret = try arenas[index % 2].allocate(byteCount: 768)
          if index % 100 == 0 { try fill(&secret, from: 1) }
          kept.append(SecretReference(secret))
        }
        let separate = arenas.map(\.statistics.separatePages)
        let merged = arenas.map(\.statistics.mergedPages)
        let mapped = arenas.map { $0.statistics.bytesMapped / Page.size }
        #expect(separate.reduce(0, +) == SeparateMaps.count, "the sum")
        #expect(SeparateMaps.count <= SeparateMaps.limit, "the bound is kept")
        #expect(SeparateMaps.count > SeparateMaps.limit - 64, "and reached")
        #expect(merged.allSatisfy { $0 > 0 }, "merged pages: \(merged)")
        for index in 0..<2 {
          #expect(separate[index] + merged[index] == mapped[index], "all pages")
        }
        for secret in kept { try secret.withBytes { _ in } }
        // Returned maps are available to others.
        kept = []
        for arena in arenas { try arena.destroy() }
        #expect(SeparateMaps.count == 0, "maps that were not returned")
        let next = try Arena("next", .init(lock: .preferred, gate: .pages))
        let secret = try next.allocate(byteCount: 32)
        #expect(next.statistics.separatePages == 4 && next.statistics.mergedPages == 0)
        try secret.destroy()
      }
    }

    /// Pages are present, locked, and marked so that mprotect(2) does not visit them when they are
    /// opened. If the kernel refuses the mark, they are still locked.
    @Test(arguments: [false, true], mayLockMuch ? [40, 200_000] : [40])
    func mprotectSkipsPagesLockedOnFault(isRefused: Bool, size: Int) async {
      await #expect(processExitsWith: .success) {
        [isRefused = isRefused as Bool, size = size as Int] in
        if isRefused { FaultPlan.fail(.lockOnFault, errno: ENOSYS, times: 1000) }
        let arena = try Arena("test", .init(lock: .required, gate: .pages))
        let secret = SecretReference(try arena.allocate(byteCount: size))
        let before = ProcessFacts.lockedBytes()!
        #expect(Int(before) >= arena.statistics.bytesLocked, "VmLck")
        let (at, _) = try openMapping(of: secret)
        let text = ProcessFacts.readText("/proc/self/smaps", limit: 64 << 20) ?? ""
        let range = try mapping(at: at)
        let start = try #require(
          text.range(of: "\n" + String(range.lowerBound, radix: 16) + "-"), "its lines")
        let lines = text[start.upperBound...].split(separator: "\n").prefix(30)
        func number(_ key: String) -> Int? {
          lines.first { $0.hasPrefix(key) }.flatMap { Int($0.filter(\.isNumber)) }
        }
        let flags = try #require(lines.first { $0.hasPrefix("VmFlags") }, "flags")
        #expect(flags.contains(" lo"), "locked: \(flags)")
        #expect(flags.contains(" lf") == !isRefused, "on fault: \(flags)")
        #expect(number("Rss:") == range.count / 1024, "all of it is there")
        #expect(number("Locked:") == range.count / 1024, "all of it is locked")
        #expect(
          SystemCall.lockOnFault.failureCount == (isRefused ? SystemCall.lockOnFault.count : 0))
      }
    }

    /// The pages of an isolated secret are one mapping between guards, and do not count towards the
    /// bound.
    @Test func isolatedSecretsNeedNoAdvice() async {
      await #expect(processExitsWith: .success) {
        let arena = try Arena("test", .init(layout: .isolated, lock: .preferred, gate: .pages))
        let secrets = try [32, 10_000].map {
          SecretReference(try arena.allocate(byteCount: $0))
        }
        #expect(arena.statistics.separatePages == 4 && arena.statistics.mergedPages == 0)
        #expect(SeparateMaps.count == 0 && SystemCall.separatePages.count == 0)
        for (secret, pages) in zip(secrets, [1, 3]) {
          #expect(try openMapping(of: secret).range.count == pages * Page.size, "its mapping")
        }
      }
    }

    /// Other gates do not need separate mappings.
    @Test(arguments: [Arena.Gate.none] + (keysAreHere ? [.key] : []))
    func onlyPageGatesUseSeparateMappings(gate: Arena.Gate) throws {
      let arena = try Arena("test", .init(lock: .preferred, gate: gate))
      let secret = try arena.allocate(byteCount: 32)
      #expect(arena.statistics.separatePages == 0 && arena.statistics.mergedPages == 0)
      try secret.destroy()
    }
  }
#endif
