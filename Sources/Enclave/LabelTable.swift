// Labels of an arena's secrets, and the counts by label.
//
// A label is known by the address of its literal (or of its source file's name) and its line, so
// that finding it is a hash of two words; text is only touched when a label is new.

import EnclaveStats
import EnclaveSystem

@safe
struct LabelKey: BitwiseCopyable, Equatable {
  var address: UInt
  var count: UInt32
  var line: UInt32  // 0: a label that the program gave

  init(_ label: Label?, file: StaticString, line: UInt32) {
    let text = label?.text ?? file
    let bytes = unsafe text.bytes
    address = UInt(bitPattern: bytes.baseAddress)
    count = UInt32(bytes.count)
    self.line = label == nil ? max(line, 1) : 0
  }

  var hash: UInt {
    ((address ^ (UInt(line) &* 0x9e37_79b9_7f4a_7c15)) &* 0xff51_afd7_ed55_8ccd) >> 32
  }
}

@safe
struct LabelEntry: BitwiseCopyable {
  var key: LabelKey
  var createdAtMs: UInt64
  var live: UInt64 = 0
  var bytes: UInt64 = 0
  var allocations: UInt64 = 0
  var frees: UInt64 = 0
  var opens: UInt64 = 0
  var openNow: UInt64 = 0
  var lastOpenedAtMs = PageFormat.unknown
  var minimumSize: UInt64 = .max
  var maximumSize: UInt64 = 0
  var record: UInt32 = Listing.none

  /// What the page shows: the label, or `File.swift:118`.
  var text: [UInt8] {
    guard let base = unsafe UnsafePointer<UInt8>(bitPattern: key.address) else { return [] }
    let bytes = unsafe UnsafeBufferPointer(start: base, count: Int(key.count))
    guard key.line > 0 else { return unsafe Array(bytes) }
    let name = unsafe bytes.split(separator: UInt8(ascii: "/")).last.map(Array.init) ?? []
    return name + Array(":\(key.line)".utf8)
  }
}

@safe
struct LabelTable {
  /// Beyond this many, further labels are counted under the last.
  static let limit = 65_000

  private(set) var entries = RawList<LabelEntry>()
  private var buckets: UnsafeMutablePointer<UInt16>
  private var bucketCount = 32

  init() {
    unsafe buckets = .allocate(capacity: bucketCount)
    unsafe buckets.initialize(repeating: .max, count: bucketCount)
  }

  func deallocate() {
    entries.deallocate()
    unsafe buckets.deallocate()
  }

  /// The label's index, and whether it is new. O(1).
  mutating func find(_ key: LabelKey) -> (index: UInt16, isNew: Bool) {
    var bucket = Int(key.hash) & (bucketCount - 1)
    while unsafe buckets[bucket] != .max {
      let index = unsafe buckets[bucket]
      if entries[Int(index)].key == key { return (index, false) }
      bucket = (bucket + 1) & (bucketCount - 1)
    }
    if entries.count >= Self.limit { return (UInt16(entries.count - 1), false) }
    entries.append(LabelEntry(key: key, createdAtMs: ProcessFacts.bootMilliseconds))
    let index = UInt16(entries.count - 1)
    unsafe buckets[bucket] = index
    if entries.count * 2 > bucketCount { grow() }
    return (index, true)
  }

  private mutating func grow() {
    unsafe buckets.deallocate()
    bucketCount *= 2
    unsafe buckets = .allocate(capacity: bucketCount)
    unsafe buckets.initialize(repeating: .max, count: bucketCount)
    for index in 0..<entries.count {
      var bucket = Int(entries[index].key.hash) & (bucketCount - 1)
      while unsafe buckets[bucket] != .max { bucket = (bucket + 1) & (bucketCount - 1) }
      unsafe buckets[bucket] = UInt16(index)
    }
  }

  func allocated(_ label: UInt16, byteCount: Int) {
    let entry = unsafe entries.place(Int(label))
    let size = UInt64(byteCount)
    unsafe entry.pointee.live += 1
    unsafe entry.pointee.bytes += size
    unsafe entry.pointee.allocations &+= 1
    unsafe entry.pointee.minimumSize = unsafe min(entry.pointee.minimumSize, size)
    unsafe entry.pointee.maximumSize = unsafe max(entry.pointee.maximumSize, size)
  }

  func freed(_ label: UInt16, byteCount: Int) {
    let entry = unsafe entries.place(Int(label))
    unsafe entry.pointee.live -= 1
    unsafe entry.pointee.bytes -= UInt64(byteCount)
    unsafe entry.pointee.frees &+= 1
  }
}
