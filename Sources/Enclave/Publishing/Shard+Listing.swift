// The individual secrets of a shard on the stats page.

import EnclaveStats
import EnclaveSystem

/// A shard's access to the page.
@safe
struct ShardPublication {
  let pageWriter: Unmanaged<StatsPageWriter>
  let secrets: TableWriter<SecretWord>
  /// What each record says, in the format of `Slot.windows`.
  let listedWindows: UnsafeMutablePointer<UInt64>
  /// Secrets without a record, minus those of slabs that have moved to another shard.
  var unlistedSecrets = 0
  var serial: UInt64
  let shard: Int
  let clock: UnsafeRawPointer

  init(_ writer: StatsPageWriter, shard: Int) {
    unsafe pageWriter = unsafe .passUnretained(writer)
    secrets = writer.table(SecretWord.self)
    unsafe listedWindows = unsafe writer.listedWindows
    serial = UInt64(shard) << 48
    self.shard = shard
    unsafe clock = unsafe writer.clockWord
  }

  /// Milliseconds since boot, as of the last tick.
  var now: UInt64 { unsafe loadRelaxed(clock) }

  /// The writer lives until its arenas are detached.
  var writer: StatsPageWriter { unsafe pageWriter.takeUnretainedValue() }
}

/// The index of a record in one of the page's tables.
enum PageRecord { static let none = UInt32.max }

extension Shard {
  /// Marks a slab whose secrets changed, for the next tick.
  @inline(__always)
  mutating func markChanged(_ slab: UnsafeMutablePointer<Slab>) {
    guard page != nil else { return }
    unsafe slab.pointee.hasUnpublishedChanges = true
    hasUnpublishedChanges = true
  }

  /// Publishes the changes in a slab's secrets. Returns false if a secret found no free record: it
  /// is tried again unless `isLast`.
  mutating func publishSecrets(of slab: UnsafeMutablePointer<Slab>, isLast: Bool) -> Bool {
    var unlisted = 0
    var listed: InlineArray<2, UInt64> = [0, 0]
    var isComplete = true
    let slots = unsafe Slab.slots(of: slab)
    for index in unsafe 0..<Int(slab.pointee.slotCount) {
      let slot = unsafe slots + index
      let current = unsafe Slot.generation(of: slot)
      let isOccupied = Slot.isOccupied(current)
      if !isOccupied, unsafe slot.pointee.record != PageRecord.none { unsafe unlist(slot) }
      let generation = Slot.unclaimed(current)
      if isOccupied, unsafe slot.pointee.listedGeneration != generation {
        if unsafe list(slot) || isLast {
          unsafe slot.pointee.listedGeneration = generation
        } else {
          isComplete = false
        }
      }
      if unsafe slot.pointee.record != PageRecord.none {
        listed[index / 64 % 2] |= 1 << UInt64(index % 64)
        unsafe publishWindows(slot)
      } else if isOccupied {
        unlisted += 1
      }
    }
    unsafe slab.pointee.listed = listed
    unsafe page!.unlistedSecrets += unlisted - Int(slab.pointee.unlisted)
    unsafe slab.pointee.unlisted = UInt16(unlisted)
    unsafe slab.pointee.hasUnpublishedChanges = !isComplete
    return isComplete
  }

  /// The same when publishing begins. It is unknown when windows were opened before.
  mutating func publishBeginning(of slab: UnsafeMutablePointer<Slab>) {
    let slots = unsafe Slab.slots(of: slab)
    _ = unsafe publishSecrets(of: slab, isLast: true)
    for index in unsafe 0..<Int(slab.pointee.slotCount)
    where unsafe slots[index].record != PageRecord.none {
      unsafe page!.secrets[Int(slots[index].record)].clearLastOpened()
    }
  }

  /// Removes a slab's secrets from the page.
  mutating func unpublishSecrets(of slab: UnsafeMutablePointer<Slab>) {
    let slots = unsafe Slab.slots(of: slab)
    for index in unsafe 0..<Int(slab.pointee.slotCount) {
      unsafe uncountListedOpens(slots + index)
      unsafe slots[index].listedGeneration = 0
      if unsafe slots[index].record != PageRecord.none { unsafe unlist(slots + index) }
    }
    unsafe slab.pointee.listed = [0, 0]
    unsafe slab.pointee.unlisted = 0
    unsafe slab.pointee.hasUnpublishedChanges = false
  }

  /// Publishes changes in the windows to a slab's listed secrets.
  func publishWindows(of slab: UnsafeMutablePointer<Slab>) {
    let slots = unsafe Slab.slots(of: slab)
    for word in 0..<2 {
      var left = unsafe slab.pointee.listed[word]
      while left != 0 {
        let first = word * 64 + left.trailingZeroBitCount
        for index in unsafe stride(from: first, to: Int(slab.pointee.slotCount), by: 128)
        where unsafe slots[index].record != PageRecord.none {
          unsafe publishWindows(slots + index)
        }
        left &= left - 1
      }
    }
  }

  /// Returns false if there is no free record.
  private mutating func list(_ slot: UnsafeMutablePointer<Slot>) -> Bool {
    if unsafe slot.pointee.record == PageRecord.none {
      guard let record = page!.writer.takeSecret(shard: page!.shard) else { return false }
      unsafe slot.pointee.record = record
    }
    page!.serial &+= 1
    unsafe page!.listedWindows[Int(slot.pointee.record)] = 0
    unsafe page!.secrets[Int(slot.pointee.record)].list(
      owner: (arena.id & 0xffff_ffff) | UInt64(slot.pointee.label) << 32, serial: page!.serial,
      size: UInt64(slot.pointee.byteCount), now: page!.now)
    return true
  }

  /// Makes the next record of a listed secret count its opens from the allocation, like this one.
  func uncountListedOpens(_ slot: UnsafeMutablePointer<Slot>) {
    if let page { unsafe Slot.uncountListedOpens(slot, page.listedWindows) }
  }

  private mutating func unlist(_ slot: UnsafeMutablePointer<Slot>) {
    unsafe page!.secrets[Int(slot.pointee.record)].unlist()
    unsafe page!.writer.releaseSecret(slot.pointee.record)
    unsafe slot.pointee.record = PageRecord.none
  }

  private func publishWindows(_ slot: UnsafeMutablePointer<Slot>) {
    let windows = unsafe loadRelaxed(&slot.pointee.windows)
    let openNow = windows & Slot.openNow
    let newOpens = unsafe Slot.opensSince(slot.pointee.listedOpens, windows)
    let index = unsafe Int(slot.pointee.record)
    let listed = unsafe page!.listedWindows[index]
    guard newOpens != 0 || openNow != listed & Slot.openNow else { return }
    let opens = UInt64(max(0, Int(listed >> 24) + newOpens))
    unsafe slot.pointee.listedOpens = Slot.opens(windows)
    unsafe page!.listedWindows[index] = opens << 24 | openNow
    let record = page!.secrets[index]
    record.begin()
    record.set(.opens, opens)
    record.set(.openNow, openNow)
    if newOpens > 0 { record.set(.lastOpenedAtMs, page!.now) }
    record.end()
  }
}
