// What the page tells of a shard's secrets, one by one.

import EnclaveStats
import EnclaveSystem

/// What the page needs of a shard.
@safe
struct ShardPublication {
  let pageWriter: Unmanaged<StatsPageWriter>
  let secrets: TableWriter<SecretWord>
  /// Records that are free, kept here: taken from the page and given back in batches.
  var spare = RawList<UInt32>()
  static let batch = 64
  /// What is listed one by one: the slab, and the slot.
  var listed = RawList<ListedSecret>()
  var unlistedSecrets: UInt64 = 0
  /// Windows that were opened when the listed secrets were last looked at.
  var seenOpens: UInt64 = 0
  var serial: UInt64
  let shard: Int
  let clock: UnsafeRawPointer

  init(_ writer: StatsPageWriter, shard: Int) {
    unsafe pageWriter = unsafe .passUnretained(writer)
    secrets = writer.table(SecretWord.self)
    serial = UInt64(shard) << 48
    self.shard = shard
    unsafe clock = unsafe writer.clockWord
  }

  /// Milliseconds since boot, as of the last tick.
  var now: UInt64 { unsafe loadRelaxed(clock) }

  /// A writer lives until its arenas are detached.
  var writer: StatsPageWriter { unsafe pageWriter.takeUnretainedValue() }

  mutating func takeRecord() -> UInt32? {
    if spare.isEmpty {
      if (try? spare.reserve(2 * Self.batch)) == nil { return nil }
      var taken = spare
      // Room for twice as many was made before.
      writer.takeSecrets(Self.batch, shard: shard) { _ = try? taken.append($0) }
      spare = taken
    }
    return spare.popLast()
  }

  mutating func giveBack(_ record: UInt32) {
    guard (try? spare.append(record)) != nil else { return writer.giveBackSecret(record) }
    if spare.count >= 2 * Self.batch { giveBack(leaving: Self.batch) }
  }

  mutating func giveBack(leaving count: Int) {
    while spare.count > count, let record = spare.popLast() { writer.giveBackSecret(record) }
  }
}

@safe
struct ListedSecret: BitwiseCopyable {
  var slab: UnsafeMutablePointer<Slab>
  var slot: UInt16
  var count: UInt64
}

extension Shard {
  mutating func list(_ slab: UnsafeMutablePointer<Slab>, _ slotIndex: UInt16) {
    guard let listings = unsafe slab.pointee.listings else { return }
    let listing = unsafe listings + Int(slotIndex)
    guard (try? page!.listed.reserve(page!.listed.count + 1)) != nil,
      let index = page!.takeRecord()
    else {
      page!.unlistedSecrets += 1
      return
    }
    let slot = unsafe Slab.slots(of: slab) + Int(slotIndex)
    unsafe listing.pointee.record = index
    unsafe listing.pointee.position = UInt32(page!.listed.count)
    unsafe try? page!.listed.append(ListedSecret(slab: slab, slot: slotIndex, count: 0))
    page!.serial &+= 1
    unsafe page!.secrets[Int(index)].list(
      owner: (arena.id & 0xffff_ffff) | UInt64(slot.pointee.label) << 32, serial: page!.serial,
      size: UInt64(slot.pointee.byteCount), now: page!.now)
  }

  mutating func unlist(_ slab: UnsafeMutablePointer<Slab>, _ slotIndex: UInt16) {
    guard let listings = unsafe slab.pointee.listings else { return }
    let listing = unsafe listings + Int(slotIndex)
    let index = unsafe listing.pointee.record
    guard index != PublishedSecret.none else {
      page!.unlistedSecrets -= 1
      return
    }
    page!.secrets[Int(index)].unlist()
    page!.giveBack(index)
    unsafe listing.pointee.record = PublishedSecret.none
    // The last one takes its place.
    let position = unsafe Int(listing.pointee.position)
    guard let last = page!.listed.popLast(), position < page!.listed.count else { return }
    page!.listed[position] = last
    unsafe last.slab.pointee.listings![Int(last.slot)].position = UInt32(position)
  }

  /// Writes what windows changed since the last time.
  mutating func refreshListed(opens: UInt64) {
    guard page != nil, page!.seenOpens != opens else { return }
    page!.seenOpens = opens
    let now = page!.now
    for index in 0..<page!.listed.count {
      let entry = unsafe page!.listed.pointer(at: index)
      let listing = unsafe entry.pointee.slab.pointee.listings! + Int(entry.pointee.slot)
      let count = unsafe loadRelaxed(&listing.pointee.count)
      guard unsafe count != entry.pointee.count else { continue }
      let isNew = unsafe count >> 24 != entry.pointee.count >> 24
      unsafe entry.pointee.count = count
      let record = unsafe page!.secrets[Int(listing.pointee.record)]
      record.begin()
      record.set(.opens, count >> 24)
      record.set(.openNow, count & 0xff_ffff)
      if isNew { record.set(.lastOpenedAtMs, now) }
      record.end()
    }
  }
}
