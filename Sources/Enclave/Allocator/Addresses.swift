// Secrets by address, for languages without ownership: allocating, resizing, freeing, and windows to
// a whole arena. `EnclaveC` is made of these.

import EnclaveStats
import EnclaveSystem

extension ArenaReference {
  package func allocate(
    byteCount: Int, alignment: Int?, label: Label
  ) throws(EnclaveError) -> SecretHandle {
    let handle = try allocate(
      Shard.Request(byteCount: byteCount, alignment: alignment ?? options.alignment),
      key: LabelKey(label))
    countWindows(of: handle)
    return handle
  }

  // MARK: - Resizing

  /// Changes a secret's size, where it lies if that is possible; its handles are stale then.
  package func resize(_ handle: SecretHandle, to byteCount: Int) throws(EnclaveError)
    -> SecretHandle
  {
    // Before any lock: another thread of the parent may have held it when the child was made.
    guard gate.isOwn else { throw .inheritedByFork }
    let request = try Shard.Request(byteCount: byteCount, alignment: options.alignment)
    if let error = openWindows(of: handle) { throw error }
    if fits(handle, request), let resized = try resizeInPlace(handle, to: byteCount) {
      return resized
    }
    let key = withCore { core in core.labels.entries[Int(handle.label)].key }
    let copy: SecretHandle
    do {
      copy = try allocate(request, key: key)
      countWindows(of: copy)
    } catch {
      // Less needs no other place, though a smaller one would do.
      if byteCount <= Int(handle.byteCount), unsafe !handle.slab.pointee.isIsolated, !hasCipherGate,
        let resized = try? resizeInPlace(handle, to: byteCount)
      {
        return resized
      }
      throw error
    }
    do throws(EnclaveError) {
      try handle.copy(into: copy)
    } catch {
      _ = try? free(copy)
      throw error
    }
    try free(handle, isUnique: false)
    return copy
  }

  /// Whether the slot is of the class that the new size would get.
  private func fits(_ handle: SecretHandle, _ request: Shard.Request) -> Bool {
    let slab = unsafe handle.slab
    // (A ciphertext is bound to its size.)
    guard unsafe !slab.pointee.isIsolated, request.isSlab(options.layout), !hasCipherGate else {
      return false
    }
    let start = unsafe slab.pointee.base + Int(handle.slot) * slab.pointee.slotBytes
    let slack = unsafe handle.address - start
    return unsafe slack + request.byteCount <= SizeClass.largest
      && SizeClass.index(for: slack + request.byteCount) == Int(slab.pointee.sizeClass)
  }

  /// Nil when somebody else is freeing the secret.
  private func resizeInPlace(_ handle: SecretHandle, to byteCount: Int) throws(EnclaveError)
    -> SecretHandle?
  {
    while true {
      let entry = gate.enterWipe()
      if entry == 0 { break }
      try waitToWipe(for: entry)
    }
    var isClean = true
    let resized: SecretHandle?
    do throws(EnclaveError) {
      resized = try resizeInPlace(handle, to: byteCount, &isClean)
    } catch {
      gate.leaveWipe()
      throw error
    }
    gate.leaveWipe()
    // Outside of that: the handler may check, destroy or wipe the arena, which wait for it.
    if !isClean { violated(.overflow, handle, offset: Int(handle.byteCount)) }
    return resized
  }

  /// `isClean`: nothing was written behind the secret.
  private func resizeInPlace(
    _ handle: SecretHandle, to byteCount: Int, _ isClean: inout Bool
  ) throws(EnclaveError) -> SecretHandle? {
    if gate.isFrozen { throw .frozen }
    let slab = unsafe handle.slab
    let slot = unsafe Slab.slots(of: slab) + Int(handle.slot)
    guard unsafe Slot.claim(slot, handle.generation) else { return nil }
    let shardIndex = unsafe Int(slab.pointee.shard)
    let oldCount = Int(handle.byteCount)
    do throws(EnclaveError) {
      if hasPageGate {
        try withShard(shardIndex) { shard throws(EnclaveError) in
          unsafe try openPages(slab, writing: true, shard: &shard)
        }
      }
    } catch {
      unsafe publish(handle.generation, to: &slot.pointee.generation)
      throw error
    }
    let found = gate.openKey(writing: true)
    if byteCount < oldCount {
      unsafe wipe(handle.address + byteCount, byteCount: oldCount - byteCount)
    } else if byteCount > oldCount {
      isClean = unsafe isZero(handle.address + oldCount, byteCount: byteCount - oldCount)
    }
    gate.closeKey(found)
    let resized = unsafe SecretHandle(
      slab: slab, address: handle.address, generation: Slot.next(Slot.next(handle.generation)),
      byteCount: UInt32(byteCount), slot: handle.slot, label: handle.label)
    withShard(shardIndex) { shard in
      if hasPageGate { unsafe closePages(slab, writing: true, shard: &shard) }
      shard.resized(resized, from: oldCount)
    }
    return resized
  }

  /// Whether this thread can write to the arena now without opening a secret.
  package var isOpenHere: Bool {
    guard gate.accessCode == 0 else { return false }
    return switch mechanism {
    case .none: !gate.isFrozen
    case .pages, .cipher: false
    case .key: !gate.isFrozen && gate.isKeyOpen
    }
  }

  package func isSame(as other: ArenaReference) -> Bool { unsafe header == other.header }
  package var hasPages: Bool { hasPageGate }
  package var isEncrypted: Bool { hasCipherGate }
  package var isInherited: Bool { !gate.isOwn }
}

/// A window that a caller without closures holds: in memory of the caller's, 48 bytes.
@safe
package struct HeldWindow: BitwiseCopyable {
  fileprivate static let open: UInt32 = 1
  fileprivate static let writing: UInt32 = 2
  fileprivate static let wholeArena: UInt32 = 4

  /// A place, or an arena's header and a label.
  fileprivate var words: (UInt64, UInt64, UInt64, UInt64)
  fileprivate var found: UInt64
  package var flags: UInt32
  /// The thread that opened it.
  fileprivate var thread: UInt32

  /// Opens a secret by its address: where its bytes are. nil when it is no live secret's.
  package static func open(
    _ address: UnsafeMutableRawPointer, writing: Bool, _ window: UnsafeMutablePointer<HeldWindow>
  ) throws(EnclaveError) -> UnsafeMutableRawPointer? {
    guard let handle = unsafe SecretHandle.live(startingAt: address) else {
      if unsafe SecretHandle.isDestroyed(address) { throw .destroyed }
      return nil
    }
    return unsafe try open(handle, writing: writing, window)
  }

  @inline(__always)
  package static func open(
    _ handle: SecretHandle, writing: Bool, _ window: UnsafeMutablePointer<HeldWindow>
  ) throws(EnclaveError) -> UnsafeMutableRawPointer {
    let found = try handle.openWindow(writing: writing)
    unsafe UnsafeMutableRawPointer(window).storeBytes(of: handle, as: SecretHandle.self)
    unsafe window.pointee.found = found
    unsafe window.pointee.thread = threadSerial()
    unsafe window.pointee.flags = open | (writing ? Self.writing : 0)
    return unsafe handle.bytes(found)
  }

  /// Nil when it is closed and its contents were there all the while; one that was closed stays so.
  package static func close(_ window: UnsafeMutablePointer<HeldWindow>) -> EnclaveError? {
    let flags = unsafe window.pointee.flags
    guard flags & open != 0 else { return nil }
    // First: what another thread's window points to may be gone with that thread.
    guard unsafe window.pointee.thread == threadSerial() else { return .windowOfAnotherThread }
    unsafe window.pointee.flags = 0
    let found = unsafe window.pointee.found
    if flags & wholeArena != 0 { return unsafe closeArena(window, flags & writing != 0) }
    // While a window is open its arena's metadata stays.
    let handle = unsafe UnsafeRawPointer(window).load(as: SecretHandle.self)
    let isOwn = handle.arena.gate.isOwn
    if handle.closeWindow(writing: flags & writing != 0, found) { return nil }
    return isOwn ? .destroyed : .inheritedByFork
  }

  /// Opens all of an arena to this thread. Not under a page gate.
  package static func open(
    _ arena: ArenaReference, writing: Bool, _ window: UnsafeMutablePointer<HeldWindow>
  ) throws(EnclaveError) {
    guard arena.gate.isOwn else { throw .inheritedByFork }
    let key = LabelKey("the whole arena")
    let label: UInt16
    do throws(SystemFailure) {
      label = try arena.withCore { core throws(SystemFailure) in
        let (label, isNew) = try core.labels.find(key)
        if isNew { core.publishNewLabel(label) }
        return label
      }
    } catch { throw .system(error) }
    while true {
      let entry = arena.gate.enter(writing: writing, label: label)
      if entry == 0 { break }
      try arena.wait(for: entry, label: label)
    }
    unsafe window.pointee.words.0 = UInt64(UInt(bitPattern: arena.header))
    unsafe window.pointee.words.1 = UInt64(label)
    unsafe window.pointee.found = UInt64(arena.gate.openKey(writing: writing))
    unsafe window.pointee.thread = threadSerial()
    unsafe window.pointee.flags = open | wholeArena | (writing ? Self.writing : 0)
  }

  private static func closeArena(
    _ window: UnsafeMutablePointer<HeldWindow>, _ writing: Bool
  ) -> EnclaveError? {
    guard
      let header = unsafe UnsafeMutablePointer<ArenaHeader>(
        bitPattern: UInt(window.pointee.words.0))
    else { return nil }
    let gate = unsafe header.pointee.gate
    let isWhole = !gate.isWiped
    unsafe gate.closeKey(UInt32(truncatingIfNeeded: window.pointee.found))
    guard gate.isOwn else { return .inheritedByFork }
    unsafe gate.leave(writing: writing, label: UInt16(window.pointee.words.1))
    return isWhole ? nil : .destroyed
  }
}

extension SecretHandle {
  package init?(words: (UInt64, UInt64, UInt64, UInt64)) {
    guard words.1 != 0 else { return nil }
    self = unsafe withUnsafeBytes(of: words) { unsafe $0.load(as: SecretHandle.self) }
    // What C holds may be older than the arena, and is looked at only when its slab is still there.
    guard isKnown, unsafe slot < slab.pointee.slotCount else { return nil }
  }

  package var words: (UInt64, UInt64, UInt64, UInt64) {
    var words: (UInt64, UInt64, UInt64, UInt64) = (0, 0, 0, 0)
    unsafe withUnsafeMutableBytes(of: &words) {
      unsafe $0.storeBytes(of: self, as: SecretHandle.self)
    }
    return words
  }

  /// Wipes and frees the secret, unless somebody else does.
  package func free() throws(EnclaveError) { try arena.free(self, isUnique: false) }

  /// The same by its address. False when it is no live secret's.
  package static func free(at address: UnsafeMutableRawPointer) throws(EnclaveError) -> Bool {
    guard let handle = unsafe live(startingAt: address) else { return false }
    try handle.free()
    return true
  }

  package func resize(to byteCount: Int) throws(EnclaveError) -> SecretHandle {
    try arena.resize(self, to: byteCount)
  }

  /// Whether the handle's secret is still there.
  package var isLive: Bool {
    unsafe Slab.slots(of: slab)[Int(slot)].generation == generation && arena.gate.accessCode != 2
  }

  /// The arena of an address; nil when there is none.
  package static func arena(of address: UnsafeRawPointer) -> ArenaReference? {
    unsafe whereabouts(of: address)?.arena
  }

  /// Reports that an address was freed, or resized, that is no live secret's.
  package static func misused(_ address: UnsafeRawPointer) throws(EnclaveError) {
    guard let (arena, isLive) = unsafe whereabouts(of: address) else {
      if unsafe isDestroyed(address) { throw .destroyed }
      ViolationHandler.report(
        Violation(kind: .foreignPointer, arena: "", label: nil, byteCount: nil, offset: nil))
      return
    }
    guard arena.gate.isOwn else { throw .inheritedByFork }
    arena.misused(address: isLive ? .foreignPointer : .doubleFree)
  }
}
