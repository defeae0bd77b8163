// The labels of an arena's secrets, and the counts by label.
//
// A label is looked up by the address of its text (or of its source file's name) and its line, so
// that finding it is a hash of two words. A new label is copied at once, and the original text is
// never read again: the library that contains the literal may be unloaded.

import EnclaveStats
import EnclaveSystem

@safe
package struct LabelKey: BitwiseCopyable, Equatable {
  package private(set) var address: UInt
  package private(set) var count: UInt32
  package private(set) var line: UInt32  // of the call site; 0: a label from the program

  init(_ label: Label) {
    address = unsafe UInt(bitPattern: label.start)
    count = UInt32(truncatingIfNeeded: label.count)
    line = 0
  }

  init(_ label: Label?, file: StaticString, line: UInt32) {
    self.init(label ?? Label(stringLiteral: file))
    self.line = label == nil ? max(line, 1) : 0
  }

  var hash: UInt {
    ((address ^ (UInt(line) &* 0x9e37_79b9_7f4a_7c15)) &* 0xff51_afd7_ed55_8ccd) >> 32
  }

  private var bytes: UnsafeBufferPointer<UInt8> {
    unsafe UnsafeBufferPointer(start: UnsafePointer(bitPattern: address), count: Int(count))
  }

  /// The same label, keyed by an interned copy of its text.
  var interned: LabelKey {
    var bytes = unsafe self.bytes
    if line > 0, let slash = unsafe bytes.lastIndex(of: UInt8(ascii: "/")) {
      // The stats page shows a call site as `File.swift:118`.
      unsafe bytes = unsafe UnsafeBufferPointer(rebasing: bytes[(slash + 1)...])
    }
    let text = unsafe KeptText(bytes)
    var key = self
    key.address = unsafe UInt(bitPattern: text.start)
    key.count = UInt32(text.count)
    return key
  }

  /// The text of an interned key: the label, or `File.swift:118`.
  fileprivate var text: [UInt8] {
    let bytes = unsafe Array(self.bytes)
    return line == 0 ? bytes : bytes + Array(":\(line)".utf8)
  }
}

/// A label and its last published values.
@safe
struct LabelEntry: BitwiseCopyable {
  /// Points to an interned text, which lives as long as the process.
  let key: LabelKey
  var createdAtMs: UInt64
  var record: UInt32 = PageRecord.none
  /// Last published values.
  var counts = LabelCounts()
  var opens: UInt64 = 0
  var openNow: UInt64 = 0
  var lastOpenedAtMs = StatsPageFormat.unknown

  /// The text on the stats page.
  var text: [UInt8] { key.text }
}

/// A shard's counts for one label.
struct LabelCounts: BitwiseCopyable, Equatable {
  var bytes: UInt64 = 0
  var allocations: UInt64 = 0
  var frees: UInt64 = 0
  var minimumSize: UInt64 = .max
  var maximumSize: UInt64 = 0

  static func + (a: LabelCounts, b: LabelCounts) -> LabelCounts {
    LabelCounts(
      bytes: a.bytes &+ b.bytes,
      allocations: a.allocations &+ b.allocations,
      frees: a.frees &+ b.frees, minimumSize: min(a.minimumSize, b.minimumSize),
      maximumSize: max(a.maximumSize, b.maximumSize))
  }
}

/// A hash table from label key to label number, with open addressing.
@safe
struct LabelIndex {
  private var keys: UnsafeMutablePointer<LabelKey>?
  private var values: UnsafeMutablePointer<UInt16>?
  private var bucketCount = 0
  private var count = 0

  func deallocate() {
    unsafe Metadata.free(keys)
    unsafe Metadata.free(values)
  }

  /// O(1).
  func find(_ key: LabelKey) -> UInt16? {
    guard let keys = unsafe keys, let values = unsafe values else { return nil }
    var bucket = Int(key.hash) & (bucketCount - 1)
    while unsafe values[bucket] != .max {
      if unsafe keys[bucket] == key { return unsafe values[bucket] }
      bucket = (bucket + 1) & (bucketCount - 1)
    }
    return nil
  }

  /// Makes room for two more entries, so that inserting them cannot fail.
  mutating func reserve() throws(SystemFailure) {
    guard (count + 2) * 2 > bucketCount else { return }
    let (oldKeys, oldValues, oldCount) = unsafe (keys, values, bucketCount)
    let room = max(32, bucketCount * 2)
    let newKeys = unsafe try Metadata.allocate(LabelKey.self, count: room)
    let newValues: UnsafeMutablePointer<UInt16>
    do { unsafe newValues = unsafe try Metadata.allocate(UInt16.self, count: room) } catch {
      unsafe Metadata.free(newKeys)
      throw error
    }
    unsafe newValues.initialize(repeating: .max, count: room)
    bucketCount = room
    unsafe keys = unsafe newKeys
    unsafe values = unsafe newValues
    for bucket in 0..<oldCount where unsafe oldValues.unsafelyUnwrapped[bucket] != .max {
      unsafe place(
        oldKeys.unsafelyUnwrapped[bucket], oldValues.unsafelyUnwrapped[bucket])
    }
    unsafe Metadata.free(oldKeys)
    unsafe Metadata.free(oldValues)
  }

  mutating func insert(_ key: LabelKey, _ value: UInt16) {
    place(key, value)
    count += 1
  }

  private func place(_ key: LabelKey, _ value: UInt16) {
    let (keys, values) = unsafe (keys.unsafelyUnwrapped, values.unsafelyUnwrapped)
    var bucket = Int(key.hash) & (bucketCount - 1)
    while unsafe values[bucket] != .max { bucket = (bucket + 1) & (bucketCount - 1) }
    unsafe (keys + bucket).initialize(to: key)
    unsafe values[bucket] = value
  }
}

/// An arena's labels, in order of first use.
@safe
struct LabelTable {
  /// Labels beyond this number are counted under the last one.
  static let limit = 65_000

  private(set) var entries = RawList<LabelEntry>()
  private var index = LabelIndex()

  func deallocate() {
    entries.deallocate()
    index.deallocate()
  }

  /// The label's number, and whether it is new.
  mutating func find(_ key: LabelKey) throws(SystemFailure) -> (label: UInt16, isNew: Bool) {
    if let label = index.find(key) { return (label, false) }
    try index.reserve()
    let interned = key.interned
    if let label = index.find(interned) {
      index.insert(key, label)
      return (label, false)
    }
    if entries.count >= Self.limit { return (UInt16(entries.count - 1), false) }
    let label = UInt16(entries.count)
    try entries.append(LabelEntry(key: interned, createdAtMs: ProcessFacts.bootMilliseconds))
    index.insert(interned, label)
    if interned != key { index.insert(key, label) }
    return (label, true)
  }
}

/// A shard's view of the arena's labels: their numbers, and its own counts.
@safe
struct ShardLabels {
  private var index = LabelIndex()
  private(set) var counts = RawList<LabelCounts>()
  /// The result of the last lookup: allocations with one label tend to come in groups.
  private var last: (key: LabelKey, label: UInt16)?

  func deallocate() {
    index.deallocate()
    counts.deallocate()
  }

  mutating func find(_ key: LabelKey) -> UInt16? {
    if let last, last.key == key { return last.label }
    guard let label = index.find(key) else { return nil }
    last = (key, label)
    return label
  }

  mutating func add(_ key: LabelKey, _ label: UInt16) throws(SystemFailure) {
    try index.reserve()
    while counts.count <= Int(label) { try counts.append(LabelCounts()) }
    index.insert(key, label)
  }

  func allocated(_ label: UInt16, byteCount: Int) {
    let counts = unsafe counts.pointer(at: Int(label))
    let size = UInt64(byteCount)
    unsafe counts.pointee.bytes &+= size
    unsafe counts.pointee.allocations &+= 1
    if unsafe size < counts.pointee.minimumSize { unsafe counts.pointee.minimumSize = size }
    if unsafe size > counts.pointee.maximumSize { unsafe counts.pointee.maximumSize = size }
  }

  func resized(_ label: UInt16, by growth: Int) {
    let counts = unsafe counts.pointer(at: Int(label))
    unsafe counts.pointee.bytes &+= UInt64(bitPattern: Int64(growth))
  }

  func freed(_ label: UInt16, byteCount: Int) {
    let counts = unsafe counts.pointer(at: Int(label))
    unsafe counts.pointee.bytes &-= UInt64(byteCount)
    unsafe counts.pointee.frees &+= 1
  }
}
