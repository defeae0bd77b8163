// Parsing smaps, and recognising whose memory is locked.

import EnclaveStats
import Glibc
import TestSupport
import Testing

@testable import MemwatchInspector

@Suite struct RegionsTests {
  static let text = """
    7f0000000000-7f0000001000 ---p 00000000 00:00 0 
    Size:                  4 kB
    VmFlags: mr mw me sd 
    7f0000001000-7f0000041000 rw-p 00000000 00:00 0                          [anon: a name]
    Size:                256 kB
    Rss:                   4 kB
    Pss:                   4 kB
    Shared_Clean:          0 kB
    Private_Dirty:         4 kB
    Swap:                 12 kB
    SwapPss:               7 kB
    Locked:              256 kB
    ProtectionKey:         3
    VmFlags: rd wr mr mw me lo ac dd wf sl 
    7f0000041000-7f0000042000 ---p 00000000 00:00 0 
    VmFlags: mr mw me gu 
    7f0000050000-7f0000054000 rw-s 00000000 00:01 1029                       /secretmem (deleted)
    VmFlags: rd wr sh mr mw ms lo dd dc 
    7ffd00000000-7ffd00021000 rw-p 00000000 00:00 0                          [stack]
    """

  @Test func smapsIsParsed() {
    let regions = Regions(text: Self.text).all
    #expect(regions.count == 5)
    #expect(regions[0].flags == .areKnown)
    #expect(
      regions[1].flags
        == [.areKnown, .readable, .writable, .locked, .notDumped, .wipedOnFork, .sealed])
    #expect(regions[1].key == 3 && regions[1].swappedKiB == 12 && regions[1].kind == .anonymous)
    #expect(regions[2].flags == [.areKnown, .mayHaveGuards])
    #expect(regions[3].kind == .secretMemory && regions[3].flags.contains(.shared))
    #expect(regions[3].flags.contains([.locked, .notDumped, .absentOnFork]))
    #expect(regions[4].kind == .stack && !regions[4].flags.contains(.areKnown))
  }

  /// Reads may end anywhere in the text. Compares this process's own smaps with its maps.
  @Test func regionsAgreeWithMaps() throws {
    let read = try Regions(pid: getpid()).all
    #expect(read.count > 20)
    #expect(zip(read, read.dropFirst()).allSatisfy { $0.end <= $1.start })
    #expect(read.allSatisfy { $0.kind == .special || $0.flags.contains(.areKnown) })
  }

  @Test func regionsInARangeAreFound() {
    let regions = Regions(text: Self.text)
    let all: Range<UInt64> = 0x7f00_0000_0800..<0x7f00_0005_1000
    #expect(regions.touching(all).count == 4)
    #expect(regions.bytes(in: all) { _ in true } == 0x800 + 0x40000 + 0x1000 + 0x1000)
    #expect(regions.bytes(in: all) { $0.flags.contains(.locked) } == 0x41000)
    #expect(regions.touching(0x7f00_0004_2000..<0x7f00_0005_0000).isEmpty)
  }

  /// A mapping that grew downwards between two reads is reported twice: the second time completely,
  /// or only the part that is already known.
  @Test func nothingIsCountedTwice() {
    let told = """
      7f0000001000-7f0000003000 ---p 00000000 00:00 0
      Swap:                 12 kB
      VmFlags: mr mw me lo dd wf
      7f0000002000-7f0000003000 r--p 00000000 00:00 0
      Swap:                 99 kB
      VmFlags: rd mr mw me
      7f0000001000-7f0000004000 ---p 00000000 00:00 0
      VmFlags: mr mw me lo dd wf
      """
    let regions = Regions(text: told)
    #expect(regions.all.map(\.start) == [0x7f00_0000_1000, 0x7f00_0000_3000])
    #expect(regions.all.map(\.end) == [0x7f00_0000_3000, 0x7f00_0000_4000])
    #expect(regions.all[0].swappedKiB == 12 && !regions.all[0].flags.contains(.readable))
    let chunk = ArenaClaim.ClaimedChunk(data: 0x7f00_0000_1000..<0x7f00_0000_4000, isLocked: true)
    #expect(regions.bytes(in: chunk.data) { _ in true } == 0x3000)
    let claim = ArenaClaim(chunks: [chunk], key: .max)
    let kinds = Comparison(pid: 1, claims: [claim], regions: regions).findings.map(\.kind)
    #expect(!kinds.contains(.notMapped) && !kinds.contains(.notLocked))
  }

  /// For arbitrary bytes there is no trap, and no region that ends before it starts or before
  /// another one.
  @Test func arbitraryTextDoesNotTrap() {
    var random = SeededGenerator()
    var bytes = Array(Self.text.utf8)
    for _ in 0..<2000 {
      for _ in 0..<Int.random(in: 1...20, using: &random) {
        bytes[Int.random(in: 0..<bytes.count, using: &random)] = .random(
          in: 0...255, using: &random)
      }
      let regions = Regions(text: String(decoding: bytes, as: UTF8.self))
      #expect(regions.all.allSatisfy { $0.start < $0.end })
      #expect(zip(regions.all, regions.all.dropFirst()).allSatisfy { $0.end <= $1.start })
      if Bool.random(using: &random) { bytes = Array(Self.text.utf8) }
    }
  }

  /// The recognised owners of regions of programs that are not installed here.
  @Test func surveyGuessesOwners() {
    func survey(_ text: String) -> Survey {
      Survey(pid: 1, regions: Regions(text: text), lockedBytes: nil)
    }
    let framed = """
      7f0000000000-7f0000001000 ---p 00000000 00:00 0
      VmFlags: mr mw me
      7f0000001000-7f0000002000 rw-p 00000000 00:00 0
      VmFlags: rd wr mr mw me lo dd
      7f0000002000-7f0000003000 ---p 00000000 00:00 0
      VmFlags: mr mw me
      """
    let go = "c000000000-c000400000 rw-p 00000000 00:00 0\nVmFlags: rd wr\n"
    #expect(survey(go + framed).groups.map(\.owner) == [.memguard])
    let openssl =
      framed + """
        \n7f0000010000-7f0000020000 r-xp 00000000 fe:00 12     /usr/lib/x86_64-linux-gnu/libcrypto.so.3
        VmFlags: rd ex
        """
    #expect(survey(openssl).groups.map(\.owner) == [.openssl])
    // Without the library in the process, the owner is unknown.
    #expect(survey(framed).groups.map(\.owner) == [.unknown])
    #expect(survey(framed).groups[0].missingProtection == ["inherited by fork"])
    let groups = survey(Self.text).groups
    #expect(groups.map(\.owner) == [.enclave, .secretMemory])
    #expect(
      groups[0].missingProtection == ["12 KiB in swap"]
        && groups[1].missingProtection == ["without guards"])
    // Not locked, and without a known owner.
    let marked = "7f0000001000-7f0000002000 rw-p 00000000 00:00 0\nVmFlags: rd wr dd gu\n"
    #expect(survey(marked).groups.map(\.owner) == [.unknown])
    #expect(survey(marked).groups[0].missingProtection == ["not locked", "inherited by fork"])
    #expect(survey(go).groups.isEmpty)
  }

  /// Every kind of locked memory counts, and locked memory that no mapping explains is reported.
  @Test func everyKindOfLockedMemoryIsReported() {
    let text = """
      7f0000000000-7f0000100000 rw-s 00000000 00:01 5          /dev/zero (deleted)
      VmFlags: rd wr sh mr mw me ms lo
      7f0000200000-7f0000300000 rw-s 00000000 00:01 6          /memfd:keys (deleted)
      VmFlags: rd wr sh mr mw me ms lo
      7f0000400000-7f0000500000 rw-s 00000000 fe:00 7          /var/lib/keys
      VmFlags: rd wr sh mr mw me ms lo
      7f0000600000-7f0000800000 rw-s 00000000 00:01 8          /anon_hugepage (deleted)
      VmFlags: rd wr sh mr mw me ms ht
      7f0000900000-7f0000908000 rw-p 00000000 00:00 0
      VmFlags: rd wr mr mw me lo ac
      7f0000a00000-7f0000a01000 rw-p 00000000 00:00 0
      VmFlags: rd wr mr mw me dd wf dp
      7f0000b00000-7f0000b08000 rw-s 00000000 00:01 1029       /secretmem (deleted)
      VmFlags: rd wr sh mr mw ms lo dd dc
      """
    func survey(_ locked: UInt64) -> Survey {
      Survey(pid: 1, regions: Regions(text: text), lockedBytes: locked)
    }
    let mappings: UInt64 = 3 << 20 + 0x8000
    let groups = survey(mappings).groups
    #expect(
      groups.map(\.owner)
        == [.secretMemory, .sharedMemory, .memoryFile, .hugePages, .file, .unknown])
    #expect(groups.allSatisfy { $0.notLocked == 0 })
    #expect(groups.map(\.bytes) == [0x8000, 1 << 20, 1 << 20, 2 << 20, 1 << 20, 0x8000])
    // Some kernels count secret memory, others do not.
    #expect(survey(mappings).unexplainedBytes == 0)
    #expect(survey(mappings + 0x8000).unexplainedBytes == 0)
    let pinned = survey(mappings + 0x8000 + 65536)
    #expect(pinned.unexplainedBytes == 65536)
    #expect(pinned.text.contains("64 KiB of VmLck belongs to no mapping"))
    let nothing = Survey(pid: 1, regions: Regions(text: ""), lockedBytes: 4096)
    #expect(nothing.text.contains("4 KiB of VmLck belongs to no mapping"))
  }

  /// A pool is only attributed to a library that is mapped.
  @Test func aPoolWithoutItsLibraryIsNotAttributed() {
    let pool = "7f0000900000-7f0000908000 rw-p 00000000 00:00 0\nVmFlags: rd wr mr mw me lo ac\n"
    let library = """
      7f0000a00000-7f0000a08000 r-xp 00000000 fe:00 9    /usr/lib/libgcrypt.so.20.4.1
      VmFlags: rd ex
      """
    func owners(_ text: String) -> [Survey.Owner] {
      Survey(pid: 1, regions: Regions(text: text), lockedBytes: nil).groups.map(\.owner)
    }
    #expect(owners(pool) == [.unknown])
    #expect(owners(pool + library) == [.libgcrypt])
    let other = library.replacing("/usr/lib/libgcrypt.so.20.4.1", with: "/usr/libgcrypt/other.so")
    #expect(owners(pool + other) == [.unknown])
  }

  /// A page may claim overlapping chunks, which cannot exist.
  @Test func overlappingChunksAreNotAudited() {
    func chunk(_ range: Range<UInt64>) -> ArenaClaim.ClaimedChunk {
      .init(data: range, isLocked: true)
    }
    let (first, second) = (chunk(0x10000..<0x20000), chunk(0x20000..<0x30000))
    let (same, across) = (chunk(0x10000..<0x18000), chunk(0x1f000..<0x21000))
    #expect(ArenaClaim.ClaimedChunk.nonOverlapping([second, first]) == [first, second])
    #expect(
      ArenaClaim.ClaimedChunk.nonOverlapping([first, across, second]).contains(across) == false)
    #expect(ArenaClaim.ClaimedChunk.nonOverlapping([first, same]).count == 1)
  }

  /// Swapped pages, which a test cannot produce on every machine.
  @Test func swappedPagesAreAProblem() {
    let chunk = ArenaClaim.ClaimedChunk(data: 0x7f00_0000_1000..<0x7f00_0004_1000, isLocked: true)
    let claim = ArenaClaim(chunks: [chunk], key: 3)
    let findings = Comparison(pid: 1, claims: [claim], regions: Regions(text: Self.text)).findings
    #expect(findings.map(\.kind) == [.swapped])
    #expect(findings.first?.severity == .problem)
    #expect(findings.first?.kernel == "12 KiB in swap")
    let other = ArenaClaim(chunks: [chunk], key: 4)
    let differing = Comparison(pid: 1, claims: [other], regions: Regions(text: Self.text))
    #expect(differing.findings.map(\.kind) == [.keyDiffers, .swapped])
  }
}

extension ArenaClaim.ClaimedChunk {
  fileprivate init(data: Range<UInt64>, isLocked: Bool) {
    self.init(data: data, guardBytes: 4096, isLocked: isLocked)
  }
}

extension ArenaClaim {
  fileprivate init(chunks: Set<ClaimedChunk>, key: UInt64) {
    self.init(
      id: 1, name: SafeText("a"), gate: .key, key: key, seal: .open, fork: .zeros,
      dump: .excluded, backing: .anonymous, lockedBytes: 0x40000, mappedBytes: 0x40000,
      activity: Activity(opens: 0, allocations: 0, frees: 0, openWindows: 0, stuckOpenPages: 0),
      chunks: chunks, isWhole: true)
  }
}
