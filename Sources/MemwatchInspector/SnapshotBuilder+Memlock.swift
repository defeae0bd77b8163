// RLIMIT_MEMLOCK and vm.max_map_count: used, left, and what still fits.

import EnclaveStats
import MemwatchSystem

extension SnapshotBuilder {
  /// The part of VmLck that arenas account for. Secret memory (memfd_secret) is always locked; some
  /// kernels count it (6.18), others do not (6.12), and then it is left out.
  var claimedLocked: ByteCount {
    let arenas = image?.arenas ?? []
    func sum(_ records: [StatsPageRecord<ArenaWord>]) -> ByteCount {
      saturatingSum(records.map { size($0[.bytesLocked]) ?? 0 })
    }
    // Cipher gates also lock keys and the scratch memory of windows.
    let all = sum(arenas) + scratchBytes
    guard let locked = probe.lockedBytes, ByteCount(locked) < all else { return all }
    return sum(arenas.filter { $0[.backing] != BackingCode.secret.rawValue }) + scratchBytes
  }

  private var scratchBytes: ByteCount { image.flatMap { size($0.process[.scratchBytes]) } ?? 0 }

  var claimsMoreThanLocked: Bool {
    guard state == .live || state == .stopped, let locked = probe.lockedBytes else { return false }
    return ByteCount(locked) < claimedLocked
  }

  func memlock(_ arenas: [ArenaSnapshot]) -> Memlock {
    var memlock = Memlock()
    func limit(_ kernel: UInt64?, _ claimed: UInt64) -> (ByteCount?, Bool) {
      if let kernel { return kernel == .max ? (nil, true) : (ByteCount(kernel), false) }
      if claimed == StatsPageFormat.unlimited { return (nil, true) }
      return (size(claimed).flatMap { $0 == 0 ? nil : $0 }, false)
    }
    let page = image!.process
    (memlock.soft, memlock.softIsUnlimited) = limit(probe.softLimit, page[.memlockSoft])
    (memlock.hard, memlock.hardIsUnlimited) = limit(probe.hardLimit, page[.memlockHard])
    memlock.binds = memlock.softIsUnlimited ? .no : probe.binds
    memlock.locked =
      probe.exists ? probe.lockedBytes.map { ByteCount($0) } : size(page[.lockedBytes])
    memlock.lockedByArenas = claimedLocked
    memlock.lockedByOthers = memlock.locked.flatMap {
      $0 >= memlock.lockedByArenas ? $0 - memlock.lockedByArenas : nil
    }
    if memlock.binds == .yes, let soft = memlock.soft, let locked = memlock.locked {
      memlock.headroom = soft > locked ? soft - locked : 0
    }
    // Scratch memory is kept once it is mapped.
    memlock.peakLockedByArenas = saturatingSum(
      arenas.map { $0.peakBytesLocked ?? 0 } + [scratchBytes])
    memlock.nextChunk = arenas.filter { $0.lockPolicy != .off }.compactMap(\.nextChunkBytes).max()
    if let next = memlock.nextChunk {
      memlock.nextChunkFits =
        memlock.binds == .no ? true : memlock.room(arenas).map { $0 >= next }
    }
    return memlock
  }

  func maps(_ arenas: [ArenaSnapshot]) -> Maps {
    var maps = Maps()
    maps.inUse = mapCount
    maps.limit = InspectedFile.mapLimit.text(limit: 64).flatMap { Int($0.prefix { $0.isNumber }) }
    maps.byArenas = Int(clamping: saturatingSum(arenas.map { $0.mapsUsed ?? 0 }))
    if let inUse = maps.inUse, let limit = maps.limit { maps.headroom = max(0, limit - inUse) }
    return maps
  }

  /// Computes how many more secrets of each size in use would fit into the headroom.
  func addFreeSlotsAfterGrowth(_ snapshot: inout Snapshot) {
    guard let headroom = snapshot.memlock.headroom else { return }
    for arena in snapshot.arenas.indices {
      guard snapshot.arenas[arena].lockPolicy != .off else { continue }
      var room = headroom
      if let capacity = snapshot.arenas[arena].capacityBytes {
        let mapped = snapshot.arenas[arena].bytesMapped ?? 0
        room = min(room, capacity > mapped ? capacity - mapped : 0)
      }
      for size in snapshot.arenas[arena].sizes.indices {
        let payload = snapshot.arenas[arena].sizes[size].payload
        guard let shape = slabShape(payload), shape.slabBytes > 0 else { continue }
        // Words from a hostile page may be any numbers.
        let (more, overflow) = (Int(clamping: room.count) / shape.slabBytes)
          .multipliedReportingOverflow(by: shape.slots)
        guard !overflow, more < 1 << 60 else { continue }
        snapshot.arenas[arena].sizes[size].freeSlotsAfterGrowth =
          snapshot.arenas[arena].sizes[size].freeSlots + more
      }
    }
  }

  func slabShape(_ payload: Int) -> (slabBytes: Int, slots: Int)? {
    guard let header = image?.header else { return nil }
    for sizeClass in 0..<StatsPageFormat.sizeClassCount {
      let index = HeaderWord.sizeClasses.rawValue + sizeClass * 2
      if header[index] == UInt64(payload) {
        let shape = header[index + 1]
        return (Int(shape & 0xffff_ffff), Int(shape >> 32 & 0xffff))
      }
    }
    return nil
  }
}

extension Memlock {
  /// The room for a next chunk: the headroom plus idle locked memory, which is released when a lock
  /// is refused. nil if the headroom is.
  func room(_ arenas: [ArenaSnapshot]) -> ByteCount? {
    headroom.map { headroom in
      saturatingSum(
        [headroom]
          + arenas.filter { $0.sealState == .open }.map {
            min($0.idleBytes ?? 0, $0.bytesLocked ?? 0)
          })
    }
  }

  /// "20 KiB that can still be locked (16 KiB free, 4 KiB idle)".
  package func text(ofRoom total: ByteCount) -> String {
    let text = "\(bytes(total)) that can still be locked"
    guard let headroom, headroom < total else { return text }
    return text + " (\(bytes(headroom)) free, \(bytes(total - headroom)) idle)"
  }
}
