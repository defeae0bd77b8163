// Parses /proc/PID/smaps (proc_pid_smaps(5)) in one pass: the kernel's view of each mapping.

package import EnclaveSystem
import MemwatchSystem

/// The flags of `VmFlags` that matter for secrets, by their letters.
package struct RegionFlags: OptionSet, Sendable, BitwiseCopyable {
  package let rawValue: UInt32
  package init(rawValue: UInt32) { self.rawValue = rawValue }
  /// `lo`: locked (mlock(2)).
  package static let locked = RegionFlags(rawValue: 1)
  /// `dd`: left out of core dumps (MADV_DONTDUMP).
  package static let notDumped = RegionFlags(rawValue: 2)
  /// `wf`: zeros in a forked child (MADV_WIPEONFORK).
  package static let wipedOnFork = RegionFlags(rawValue: 4)
  /// `dc`: absent in a forked child (MADV_DONTFORK).
  package static let absentOnFork = RegionFlags(rawValue: 8)
  /// `sl`: sealed (mseal(2)).
  package static let sealed = RegionFlags(rawValue: 16)
  /// `gu`: may hold guard markers (MADV_GUARD_INSTALL).
  package static let mayHaveGuards = RegionFlags(rawValue: 32)
  package static let readable = RegionFlags(rawValue: 64)
  package static let writable = RegionFlags(rawValue: 128)
  package static let executable = RegionFlags(rawValue: 256)
  package static let shared = RegionFlags(rawValue: 512)
  /// The region had a `VmFlags` line; without it no flag is known.
  package static let areKnown = RegionFlags(rawValue: 1024)
  /// `mg`: may be merged with equal pages (MADV_MERGEABLE, PR_SET_MEMORY_MERGE).
  package static let mergeable = RegionFlags(rawValue: 2048)
  /// `hg`: may use huge pages (MADV_HUGEPAGE).
  package static let hugePages = RegionFlags(rawValue: 4096)
  /// `um`, `uw`, `ui`: a userfaultfd(2) handles faults.
  package static let userfault = RegionFlags(rawValue: 8192)
  /// `??`: a flag that this kernel has no letters for. Linux 6.10 has none for sealed.
  package static let mayBeSealed = RegionFlags(rawValue: 16384)
  /// `ht`: hugetlb pages, which are never swapped and which mlock(2) neither marks nor counts.
  package static let hugeTLB = RegionFlags(rawValue: 32768)
  /// `dp`: the kernel may drop it (the state of the vDSO's getrandom).
  package static let droppable = RegionFlags(rawValue: 65536)

  package static let access: RegionFlags = [.readable, .writable, .executable]
}

/// One mapping of a process.
package struct Region: Equatable, Sendable, BitwiseCopyable {
  package enum Kind: UInt8, Sendable, BitwiseCopyable {
    case anonymous, file, heap, stack, special
    /// mmap(2) MAP_SHARED | MAP_ANONYMOUS, or System V's.
    case sharedMemory
    /// memfd_create(2).
    case memoryFile
    /// memfd_secret(2).
    case secretMemory
  }
  package var start: UInt64
  package var end: UInt64
  package var flags: RegionFlags = []
  package var kind = Kind.anonymous
  /// nil if the kernel or the processor has no protection keys.
  package var key: UInt8?
  package var swappedKiB: UInt32 = 0

  package var byteCount: UInt64 { end - start }

  package init(start: UInt64, end: UInt64) {
    self.start = start
    self.end = end
  }
}

/// A library with its own protected memory, recognised by its file name.
package enum SecretLibrary: String, CaseIterable, Sendable {
  case libgcrypt, libcrypto
}

/// The regions of a process, by address; none overlap.
package struct Regions: Sendable {
  package private(set) var all: [Region] = []
  /// Known libraries that are mapped; statically linked ones are not recognised.
  package private(set) var libraries: Set<SecretLibrary> = []
  /// The region being parsed is already in `all`.
  private var isRepeated = false

  package init() {}

  /// Reads all of smaps. The kernel holds the target's mmap lock during each read.
  package init(pid: Int32) throws(FileFailure) {
    let file = try InspectedFile.process(.smaps, pid: pid).open()
    var bytes = [UInt8](repeating: 0, count: 65536)
    var (kept, offset) = (0, 0)
    while true {
      var count = 0
      var failure: FileFailure?
      unsafe bytes.withUnsafeMutableBytes { raw in
        do throws(FileFailure) {
          count = unsafe try file.read(
            into: UnsafeMutableRawBufferPointer(rebasing: raw[kept...]), at: offset)
        } catch { failure = error }
      }
      if let failure { throw failure }
      offset += count
      let end = kept + count
      let taken = add(bytes.span.extracting(..<end), isLast: count == 0)
      if count == 0 { break }
      // Keep an incomplete line for the next read; a line longer than the buffer is not smaps.
      kept = end - taken == bytes.count ? 0 : end - taken
      if kept > 0, taken > 0 {
        for index in 0..<kept { bytes[index] = bytes[taken + index] }
      }
    }
  }

  package init(text: String) {
    let bytes = Array(text.utf8)
    _ = add(bytes.span, isLast: true)
  }

  /// Parses complete lines. Returns the number of bytes consumed.
  private mutating func add(_ bytes: Span<UInt8>, isLast: Bool) -> Int {
    var start = 0
    var at = 0
    while at < bytes.count {
      if bytes[at] == UInt8(ascii: "\n") {
        line(bytes, start, at)
        start = at + 1
      }
      at += 1
    }
    if isLast, start < bytes.count {
      line(bytes, start, bytes.count)
      start = bytes.count
    }
    return start
  }

  private mutating func line(_ bytes: Span<UInt8>, _ start: Int, _ end: Int) {
    guard end - start > 4 else { return }
    switch bytes[start] {
    case UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "a")...UInt8(ascii: "f"):
      header(bytes, start, end)
    case UInt8(ascii: "S"):
      // "Swap:", and not "SwapPss:" or "Shared_Clean:".
      guard !all.isEmpty, !isRepeated, bytes[start + 4] == UInt8(ascii: ":"),
        bytes[start + 1] == UInt8(ascii: "w")
      else { return }
      all[all.count - 1].swappedKiB = UInt32(clamping: number(bytes, start + 5, end))
    case UInt8(ascii: "P"):
      // "ProtectionKey:", and not "Pss:" or "Private_Clean:".
      guard !all.isEmpty, !isRepeated, end - start > 14, bytes[start + 13] == UInt8(ascii: ":"),
        bytes[start + 2] == UInt8(ascii: "o")
      else { return }
      all[all.count - 1].key = UInt8(clamping: number(bytes, start + 14, end))
    case UInt8(ascii: "V"):
      guard !all.isEmpty, !isRepeated, bytes[start + 1] == UInt8(ascii: "m"), end - start > 8 else {
        return
      }
      flags(bytes, start + 8, end)
    default: return
    }
  }

  /// `start-end rwxp offset device inode   name`
  private mutating func header(_ bytes: Span<UInt8>, _ start: Int, _ end: Int) {
    var at = start
    let low = hexadecimal(bytes, &at, end)
    guard at < end, bytes[at] == UInt8(ascii: "-") else { return }
    at += 1
    let high = hexadecimal(bytes, &at, end)
    guard high > low, at + 5 <= end, bytes[at] == UInt8(ascii: " ") else { return }
    // The kernel releases its lock between two reads of the file. A mapping that grew downwards in
    // the meantime is listed again in full, overlapping earlier lines. (Seen on Linux 6.18 while
    // another thread changed the protection of pages.)
    let coveredEnd = all.last?.end ?? 0
    isRepeated = high <= coveredEnd
    guard !isRepeated else { return }
    var region = Region(start: max(low, coveredEnd), end: high)
    if bytes[at + 1] == UInt8(ascii: "r") { region.flags.insert(.readable) }
    if bytes[at + 2] == UInt8(ascii: "w") { region.flags.insert(.writable) }
    if bytes[at + 3] == UInt8(ascii: "x") { region.flags.insert(.executable) }
    if bytes[at + 4] == UInt8(ascii: "s") { region.flags.insert(.shared) }
    region.kind = kind(bytes, at + 5, end)
    if region.kind == .file { noteLibrary(bytes, at + 5, end) }
    all.append(region)
  }

  private func kind(_ bytes: Span<UInt8>, _ start: Int, _ end: Int) -> Region.Kind {
    // Offset, device and inode contain neither character.
    var at = start
    while at < end, bytes[at] != UInt8(ascii: "/"), bytes[at] != UInt8(ascii: "[") { at += 1 }
    guard at < end else { return .anonymous }
    func begins(_ text: StaticString) -> Bool {
      let count = text.utf8CodeUnitCount
      guard at + count <= end else { return false }
      return text.withUTF8Buffer { wanted in
        for index in 0..<count where unsafe bytes[at + index] != wanted[index] { return false }
        return true
      }
    }
    if begins("/secretmem") { return .secretMemory }
    if begins("/memfd:") { return .memoryFile }
    if begins("/dev/zero (deleted)") || begins("/SYSV") { return .sharedMemory }
    if bytes[at] == UInt8(ascii: "/") { return .file }
    if begins("[heap]") { return .heap }
    if begins("[stack") { return .stack }
    return begins("[anon") ? .anonymous : .special
  }

  private mutating func noteLibrary(_ bytes: Span<UInt8>, _ start: Int, _ end: Int) {
    guard libraries.count < SecretLibrary.allCases.count,
      let slash = (start..<end).last(where: { bytes[$0] == UInt8(ascii: "/") })
    else { return }
    for library in SecretLibrary.allCases where !libraries.contains(library) {
      let name = library.rawValue.utf8
      if end - slash > name.count, zip(name, slash + 1..<end).allSatisfy({ bytes[$1] == $0 }) {
        libraries.insert(library)
      }
    }
  }

  private mutating func flags(_ bytes: Span<UInt8>, _ start: Int, _ end: Int) {
    var flags: RegionFlags = .areKnown
    var at = start
    while at + 1 < end {
      if bytes[at] == UInt8(ascii: " ") {
        at += 1
        continue
      }
      switch (bytes[at], bytes[at + 1]) {
      case (UInt8(ascii: "l"), UInt8(ascii: "o")): flags.insert(.locked)
      case (UInt8(ascii: "d"), UInt8(ascii: "d")): flags.insert(.notDumped)
      case (UInt8(ascii: "w"), UInt8(ascii: "f")): flags.insert(.wipedOnFork)
      case (UInt8(ascii: "d"), UInt8(ascii: "c")): flags.insert(.absentOnFork)
      case (UInt8(ascii: "s"), UInt8(ascii: "l")): flags.insert(.sealed)
      case (UInt8(ascii: "g"), UInt8(ascii: "u")): flags.insert(.mayHaveGuards)
      case (UInt8(ascii: "m"), UInt8(ascii: "g")): flags.insert(.mergeable)
      case (UInt8(ascii: "h"), UInt8(ascii: "g")): flags.insert(.hugePages)
      case (UInt8(ascii: "u"), UInt8(ascii: "m")), (UInt8(ascii: "u"), UInt8(ascii: "w")),
        (UInt8(ascii: "u"), UInt8(ascii: "i")):
        flags.insert(.userfault)
      case (UInt8(ascii: "?"), UInt8(ascii: "?")): flags.insert(.mayBeSealed)
      case (UInt8(ascii: "h"), UInt8(ascii: "t")): flags.insert(.hugeTLB)
      case (UInt8(ascii: "d"), UInt8(ascii: "p")): flags.insert(.droppable)
      default: break
      }
      at += 3
    }
    all[all.count - 1].flags.formUnion(flags)
  }

  private func hexadecimal(_ bytes: Span<UInt8>, _ at: inout Int, _ end: Int) -> UInt64 {
    var value: UInt64 = 0
    while at < end {
      let byte = bytes[at]
      switch byte {
      case UInt8(ascii: "0")...UInt8(ascii: "9"):
        value = value << 4 | UInt64(byte - UInt8(ascii: "0"))
      case UInt8(ascii: "a")...UInt8(ascii: "f"):
        value = value << 4 | UInt64(byte - UInt8(ascii: "a") + 10)
      default: return value
      }
      at += 1
    }
    return value
  }

  private func number(_ bytes: Span<UInt8>, _ start: Int, _ end: Int) -> UInt64 {
    var value: UInt64 = 0
    for at in start..<end {
      let byte = bytes[at]
      if byte == UInt8(ascii: " "), value == 0 { continue }
      guard (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte) else { break }
      value = value &* 10 &+ UInt64(byte - UInt8(ascii: "0"))
    }
    return value
  }

  // MARK: - Queries

  /// The regions that overlap an address range. O(log regions).
  package func touching(_ range: Range<UInt64>) -> ArraySlice<Region> {
    var (low, high) = (0, all.count)
    while low < high {
      let middle = (low + high) / 2
      if all[middle].end <= range.lowerBound { low = middle + 1 } else { high = middle }
    }
    var end = low
    while end < all.count, all[end].start < range.upperBound { end += 1 }
    return all[low..<end]
  }

  /// The bytes of a range that are in regions matching a condition.
  package func bytes(in range: Range<UInt64>, where condition: (Region) -> Bool) -> UInt64 {
    var sum: UInt64 = 0
    for region in touching(range) where condition(region) {
      sum += min(region.end, range.upperBound) - max(region.start, range.lowerBound)
    }
    return sum
  }

  package func totalBytes(where condition: (Region) -> Bool) -> UInt64 {
    all.reduce(0) { condition($1) ? $0 + $1.byteCount : $0 }
  }
}
