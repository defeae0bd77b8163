// What the kernel shows of an arena's pages, whatever the page claims.

/// The kernel's answer for one arena: bytes of its chunks' data by what their mappings show.
package struct KernelAnswer: Equatable, Sendable {
  package var arenaID: UInt64
  package var mappedBytes: ByteCount = 0
  /// In mappings with a VmFlags line; nothing is known of the flags of others.
  package var knownBytes: ByteCount = 0
  package var lockedBytes: ByteCount = 0
  package var dumpedBytes: ByteCount = 0
  /// Zeros in a forked child.
  package var wipedOnForkBytes: ByteCount = 0
  package var absentOnForkBytes: ByteCount = 0
  /// nil: the kernel does not tell.
  package var sealedBytes: ByteCount? = 0
  package var readableBytes: ByteCount = 0
  package var writableBytes: ByteCount = 0
  package var swappedBytes: ByteCount = 0
  /// The protection keys of its mappings; empty: the kernel tells none.
  package var keyNumbers: [UInt8] = []

  init(arenaID: UInt64) { self.arenaID = arenaID }
}

extension KernelAnswer {
  init(_ claim: ArenaClaim, _ regions: Regions) {
    self.init(arenaID: claim.id)
    for chunk in claim.chunks {
      for region in regions.touching(chunk.data) {
        let end = min(region.end, chunk.data.upperBound)
        add(region, ByteCount(end - max(region.start, chunk.data.lowerBound)))
      }
    }
  }

  private mutating func add(_ region: Region, _ size: ByteCount) {
    let flags = region.flags
    mappedBytes = mappedBytes + size
    if !flags.isDisjoint(with: [.readable, .writable]) { readableBytes = readableBytes + size }
    if flags.contains(.writable) { writableBytes = writableBytes + size }
    swappedBytes = swappedBytes + ByteCount(UInt64(region.swappedKiB) * 1024)
    if let key = region.key, !keyNumbers.contains(key) {
      keyNumbers.append(key)
      keyNumbers.sort()
    }
    guard flags.contains(.areKnown) else { return }
    knownBytes = knownBytes + size
    if flags.contains(.locked) { lockedBytes = lockedBytes + size }
    if !flags.contains(.notDumped) { dumpedBytes = dumpedBytes + size }
    if flags.contains(.wipedOnFork) { wipedOnForkBytes = wipedOnForkBytes + size }
    if flags.contains(.absentOnFork) { absentOnForkBytes = absentOnForkBytes + size }
    if flags.contains(.sealed) {
      sealedBytes = sealedBytes.map { $0 + size }
    } else if flags.contains(.mayBeSealed) {
      sealedBytes = nil
    }
  }

  package static let columns = [
    "MAPPED", "LOCKED", "ACCESS", "KEY", "SEALED", "IN A FORK", "DUMPED", "SWAPPED",
  ]

  /// The cells of its row, under `columns`.
  package var cells: [String] {
    [
      mappedBytes.text, share(lockedBytes), access,
      keyNumbers.isEmpty ? "n/a" : keyNumbers.map { "\($0)" }.joined(separator: ", "),
      sealedBytes.map { share($0) } ?? "n/a", fork, share(dumpedBytes), swappedBytes.text,
    ]
  }

  /// `all`, `none` or a size.
  private func share(_ part: ByteCount) -> String {
    if knownBytes == 0 { return "n/a" }
    return part == 0 ? "none" : part == mappedBytes ? "all" : part.text
  }

  private var access: String {
    if mappedBytes == 0 { return "n/a" }
    let (size, word) = writableBytes > 0 ? (writableBytes, "r-w") : (readableBytes, "read")
    return size == 0 ? "none" : size == mappedBytes ? word : "\(size.text) \(word)"
  }

  private var fork: String {
    if knownBytes == 0 { return "n/a" }
    if wipedOnForkBytes == mappedBytes { return "zeros" }
    if absentOnForkBytes == mappedBytes { return "absent" }
    let copied = mappedBytes - wipedOnForkBytes - absentOnForkBytes
    return copied == mappedBytes
      ? "copied" : copied == 0 ? "zeros, absent" : "\(copied.text) copied"
  }

  var document: Value {
    .object([
      ("arenaId", Value(arenaID)), ("mappedBytes", Value(mappedBytes)),
      ("knownBytes", Value(knownBytes)), ("lockedBytes", Value(lockedBytes)),
      ("dumpedBytes", Value(dumpedBytes)), ("wipedOnForkBytes", Value(wipedOnForkBytes)),
      ("absentOnForkBytes", Value(absentOnForkBytes)), ("sealedBytes", Value(sealedBytes)),
      ("readableBytes", Value(readableBytes)), ("writableBytes", Value(writableBytes)),
      ("swappedBytes", Value(swappedBytes)),
      ("keyNumbers", .list(keyNumbers.map { Value($0) })),
    ])
  }
}
