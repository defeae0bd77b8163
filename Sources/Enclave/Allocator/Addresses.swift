// Secrets by address, for languages without ownership: allocating, resizing, freeing, and windows
// to a whole arena. `EnclaveC` is built on these.

import EnclaveStats
import EnclaveSystem

extension ArenaReference {
  package func allocate(
    byteCount: Int, alignment: Int?, label: Label
  ) throws(EnclaveError) -> SecretHandle {
    let handle = try allocate(
      Shard.Request(byteCount: byteCount, alignment: alignment ?? options.alignment),
      key: LabelKey(label))
    startCountingWindows(of: handle)
    return handle
  }

  // MARK: - Resizing

  /// Changes a secret's size, in place if possible. Existing handles to it become stale.
  package func resize(_ handle: SecretHandle, to byteCount: Int) throws(EnclaveError)
    -> SecretHandle
  {
    // Before any lock: in a forked child, another thread of the parent may have held it.
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
      startCountingWindows(of: copy)
    } catch {
      // A failed move does not matter when shrinking: the secret can stay in its larger slot.
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

  /// Whether the new size belongs to the same size class.
  private func fits(_ handle: SecretHandle, _ request: Shard.Request) -> Bool {
    let slab = unsafe handle.slab
    // A ciphertext is bound to its size.
    guard unsafe !slab.pointee.isIsolated, request.isSlab(options.layout), !hasCipherGate else {
      return false
    }
    let start = unsafe slab.pointee.base + Int(handle.slot) * slab.pointee.slotBytes
    let slack = unsafe handle.address - start
    return unsafe slack + request.byteCount <= SizeClass.largest
      && SizeClass.index(for: slack + request.byteCount) == Int(slab.pointee.sizeClass)
  }

  /// Returns nil if somebody else is freeing the secret.
  private func resizeInPlace(_ handle: SecretHandle, to byteCount: Int) throws(EnclaveError)
    -> SecretHandle?
  {
    while true {
      let entry = gate.enterWipe()
      if entry == 0 { break }
      try retryFreeOrThrow(after: entry)
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
    // Outside the free: the handler may check, destroy or wipe the arena, which waits for frees.
    if !isClean { reportViolation(.overflow, handle, offset: Int(handle.byteCount)) }
    return resized
  }

  /// Sets `isClean` to false if something was written behind the secret.
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

  /// Whether this thread can currently write to the arena without opening a secret.
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

/// A window held by a caller without closures, in 48 bytes of the caller's memory.
@safe
package struct HeldWindow: BitwiseCopyable {
  fileprivate static let open: UInt32 = 1
  fileprivate static let writing: UInt32 = 2
  fileprivate static let wholeArena: UInt32 = 4

  /// A `SecretHandle`; for a window to a whole arena, the arena's header and a label.
  fileprivate var words: (UInt64, UInt64, UInt64, UInt64)
  fileprivate var found: UInt64
  package var flags: UInt32
  /// The serial number of the thread that opened it.
  fileprivate var thread: UInt32

  /// Opens a secret by its address. Returns the address of its bytes, or nil if it is not a live
  /// secret.
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

  /// Closes a window. Returns nil if the contents were intact throughout. Closing it again does
  /// nothing.
  package static func close(_ window: UnsafeMutablePointer<HeldWindow>) -> EnclaveError? {
    let flags = unsafe window.pointee.flags
    guard flags & open != 0 else { return nil }
    // Checked first: what another thread's window points to may have been freed with that thread.
    guard unsafe window.pointee.thread == threadSerial() else { return .windowOfAnotherThread }
    unsafe window.pointee.flags = 0
    let found = unsafe window.pointee.found
    if flags & wholeArena != 0 { return unsafe closeArena(window, flags & writing != 0) }
    // The arena's metadata stays while a window is open.
    let handle = unsafe UnsafeRawPointer(window).load(as: SecretHandle.self)
    let isOwn = handle.arena.gate.isOwn
    if handle.closeWindow(writing: flags & writing != 0, found) { return nil }
    return isOwn ? .destroyed : .inheritedByFork
  }

  /// Opens a whole arena for this thread. Not available under a page gate.
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
      try arena.retryOrThrow(after: entry, label: label)
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
    let isIntact = !gate.isWiped
    unsafe gate.closeKey(UInt32(truncatingIfNeeded: window.pointee.found))
    guard gate.isOwn else { return .inheritedByFork }
    unsafe gate.leave(writing: writing, label: UInt16(window.pointee.words.1))
    return isIntact ? nil : .destroyed
  }
}

extension SecretHandle {
  package init?(words: (UInt64, UInt64, UInt64, UInt64)) {
    guard words.1 != 0 else { return nil }
    self = unsafe withUnsafeBytes(of: words) { unsafe $0.load(as: SecretHandle.self) }
    // A handle from C may outlive its arena; its slab is accessed only if the slab still exists.
    guard slabExists, unsafe slot < slab.pointee.slotCount else { return nil }
  }

  package var words: (UInt64, UInt64, UInt64, UInt64) {
    var words: (UInt64, UInt64, UInt64, UInt64) = (0, 0, 0, 0)
    unsafe withUnsafeMutableBytes(of: &words) {
      unsafe $0.storeBytes(of: self, as: SecretHandle.self)
    }
    return words
  }

  /// Wipes and frees the secret, unless somebody else is freeing it.
  package func free() throws(EnclaveError) { try arena.free(self, isUnique: false) }

  /// Frees a secret by its address. Returns false if the address is not a live secret.
  package static func free(at address: UnsafeMutableRawPointer) throws(EnclaveError) -> Bool {
    guard let handle = unsafe live(startingAt: address) else { return false }
    try handle.free()
    return true
  }

  package func resize(to byteCount: Int) throws(EnclaveError) -> SecretHandle {
    try arena.resize(self, to: byteCount)
  }

  /// Whether the handle's secret still exists.
  package var isLive: Bool {
    unsafe Slot.generation(of: Slab.slots(of: slab) + Int(slot)) == generation
      && arena.gate.accessCode != 2
  }

  /// The arena that owns an address, or nil.
  package static func arena(of address: UnsafeRawPointer) -> ArenaReference? {
    unsafe locate(of: address)?.arena
  }

  /// Reports that an address was freed or resized that is not a live secret.
  package static func reportMisuse(of address: UnsafeRawPointer) throws(EnclaveError) {
    guard let (arena, isLive) = unsafe locate(of: address) else {
      if unsafe isDestroyed(address) { throw .destroyed }
      ViolationHandler.report(
        Violation(kind: .foreignPointer, arena: "", label: nil, byteCount: nil, offset: nil))
      return
    }
    guard arena.gate.isOwn else { throw .inheritedByFork }
    arena.reportMisuse(of: isLive ? .foreignPointer : .doubleFree)
  }
}
