// Arenas, as C sees them: an `enclave_arena *` is a reference-counted Arena.
// swift-format-ignore-file: AlwaysUseLowerCamelCase

public import CEnclave
import Enclave

/// The arena behind a pointer, without counting a reference: its holder keeps it.
@inline(__always)
func reference(_ arena: OpaquePointer) -> ArenaReference {
  unsafe object(arena)._withUnsafeGuaranteedRef { $0.reference }
}

@inline(__always)
private func object(_ arena: OpaquePointer) -> Unmanaged<Arena> {
  unsafe Unmanaged.fromOpaque(UnsafeRawPointer(arena))
}

private func withArena(
  _ arena: OpaquePointer?, _ body: (Arena) throws(EnclaveError) -> Void
) -> enclave_status {
  guard let arena = unsafe arena else { return failedArgument("the arena is NULL") }
  let held = unsafe object(arena).takeUnretainedValue()
  return attempt { () throws(EnclaveError) in try body(held) }
}

@c @implementation
public func enclave_probe(_ capability: enclave_capability) -> enclave_status {
  cenclave_enter()
  defer { cenclave_leave() }
  let known: Capability
  switch capability {
  case ENCLAVE_CAPABILITY_PROTECTION_KEYS: known = .protectionKeys
  case ENCLAVE_CAPABILITY_SEALS: known = .seals
  case ENCLAVE_CAPABILITY_SECRET_MEMORY: known = .secretMemory
  case ENCLAVE_CAPABILITY_GUARD_MARKERS: known = .guardMarkers
  case ENCLAVE_CAPABILITY_WIPE_ON_FORK: known = .wipeOnFork
  case ENCLAVE_CAPABILITY_MEMORY_TAGGING: known = .memoryTagging
  case ENCLAVE_CAPABILITY_THREADS_START_CLOSED:
    return ProcessFacts.threadsStartClosed
      ? ENCLAVE_OK
      : failed(
        ENCLAVE_ERROR_UNSUPPORTED,
        "pthread_create does not resolve to this library: link it, or preload it")
  case ENCLAVE_CAPABILITY_INTERPOSER:
    return unsafe cenclave_find_interposer() != nil ? ENCLAVE_OK : failedInterposer()
  default: return failedArgument("unknown capability")
  }
  switch known.availability {
  case .available: return ENCLAVE_OK
  case .unavailable(let failure): return failed(.unsupported(known, failure))
  }
}

@c @implementation
public func enclave_arena_create(
  _ name: UnsafePointer<CChar>?, _ options: UnsafePointer<enclave_options>?,
  _ arena: UnsafeMutablePointer<OpaquePointer?>?
) -> enclave_status {
  cenclave_enter()
  defer { cenclave_leave() }
  guard let name = unsafe name, let arena = unsafe arena else {
    return failedArgument("the name or the arena pointer is NULL")
  }
  var swiftOptions = Arena.Options()
  if let options = unsafe options {
    guard unsafe options.pointee.struct_size >= MemoryLayout<enclave_options>.size else {
      return failedArgument("options.struct_size is too small: set it to sizeof(enclave_options)")
    }
    let given = unsafe options.pointee
    guard let layout = Arena.Layout(given.layout), let lock = Arena.Lock(given.lock),
      let gate = Arena.Gate(given.gate),
      given.flags & ~knownFlags == 0,
      given.capacity >= 0
    else { return failedArgument("an option has an unknown value") }
    swiftOptions = Arena.Options(
      layout: layout, lock: lock, gate: gate,
      capacity: given.capacity == 0 ? nil : given.capacity,
      keySharing: given.flags & UInt32(ENCLAVE_FLAG_OWN_KEY) != 0 ? .never : .allowed,
      backing: given.flags & UInt32(ENCLAVE_FLAG_SECRET_MEMORY) != 0 ? .secret : .anonymous,
      isTagged: given.flags & UInt32(ENCLAVE_FLAG_TAGGED) != 0)
    swiftOptions.isInheritedByFork = given.flags & CENCLAVE_INHERITED_BY_FORK != 0
    if swiftOptions.isInheritedByFork {
      // Keys and ciphertexts are never inherited, and secret memory would be shared.
      guard gate == .none || gate == .pages, swiftOptions.backing == .anonymous else {
        return failedArgument("an arena with such a gate or backing is not inherited by fork")
      }
      watchForks()
    }
    swiftOptions.isLockedOnFault = given.flags & CENCLAVE_LOCKED_ON_FAULT != 0
    swiftOptions.endsAtGuard = given.flags & UInt32(ENCLAVE_FLAG_ENDS_AT_GUARD) != 0
    swiftOptions.isKeptAtExit = given.flags & UInt32(ENCLAVE_FLAG_KEPT_AT_EXIT) != 0
  }
  swiftOptions.isHeldByAddress = true
  return attempt { () throws(EnclaveError) in
    let made = try Arena(unsafe Label(unowned: name), swiftOptions)
    unsafe arena.pointee = unsafe OpaquePointer(Unmanaged.passRetained(made).toOpaque())
  }
}

/// From now on children get such arenas as their own.
private func watchForks() {
  cenclave_set_fork_handlers(
    cenclave_fork_handlers(
      prepare: { asHandler { ForkInheritance.prepare() } },
      parent: { asHandler { ForkInheritance.parent() } },
      child: { asHandler { ForkInheritance.child() } }))
}

private func asHandler<R>(_ body: () -> R) -> R {
  cenclave_enter()
  defer { cenclave_leave() }
  return body()
}

private let knownFlags =
  UInt32(
    ENCLAVE_FLAG_OWN_KEY | ENCLAVE_FLAG_SECRET_MEMORY | ENCLAVE_FLAG_TAGGED
      | ENCLAVE_FLAG_KEPT_AT_EXIT
      | ENCLAVE_FLAG_ENDS_AT_GUARD)
  | CENCLAVE_INHERITED_BY_FORK | CENCLAVE_LOCKED_ON_FAULT

extension Arena.Layout {
  init?(_ value: enclave_layout) {
    switch value {
    case ENCLAVE_LAYOUT_SLAB: self = .slab
    case ENCLAVE_LAYOUT_ISOLATED: self = .isolated
    default: return nil
    }
  }
}

extension Arena.Lock {
  init?(_ value: enclave_lock) {
    switch value {
    case ENCLAVE_LOCK_REQUIRED: self = .required
    case ENCLAVE_LOCK_PREFERRED: self = .preferred
    case ENCLAVE_LOCK_OFF: self = .off
    default: return nil
    }
  }
}

extension Arena.Gate {
  init?(_ value: enclave_gate) {
    switch value {
    case ENCLAVE_GATE_AUTOMATIC: self = .automatic
    case ENCLAVE_GATE_KEY: self = .key
    case ENCLAVE_GATE_PAGES: self = .pages
    case ENCLAVE_GATE_CIPHER: self = .cipher
    case ENCLAVE_GATE_NONE: self = .none
    default: return nil
    }
  }
}

@c @implementation
public func enclave_arena_retain(_ arena: OpaquePointer?) -> OpaquePointer? {
  cenclave_enter()
  defer { cenclave_leave() }
  if let arena = unsafe arena { _ = unsafe object(arena).retain() }
  return unsafe arena
}

@c @implementation
public func enclave_arena_release(_ arena: OpaquePointer?) {
  cenclave_enter()
  defer { cenclave_leave() }
  if let arena = unsafe arena { unsafe object(arena).release() }
}

@c @implementation
public func enclave_arena_freeze(_ arena: OpaquePointer?) -> enclave_status {
  cenclave_enter()
  defer { cenclave_leave() }
  return unsafe withArena(arena) { arena throws(EnclaveError) in try arena.freeze() }
}

@c @implementation
public func enclave_arena_seal(_ arena: OpaquePointer?) -> enclave_status {
  cenclave_enter()
  defer { cenclave_leave() }
  return unsafe withArena(arena) { arena throws(EnclaveError) in try arena.seal() }
}

@c @implementation
public func enclave_arena_destroy(_ arena: OpaquePointer?, _ milliseconds: UInt32) -> enclave_status
{
  cenclave_enter()
  defer { cenclave_leave() }
  return unsafe withArena(arena) { arena throws(EnclaveError) in
    try arena.destroy(waitingUpTo: .milliseconds(Int64(milliseconds)))
  }
}

@c @implementation
public func enclave_arena_statistics(
  _ arena: OpaquePointer?, _ statistics: UnsafeMutablePointer<enclave_statistics>?
) -> enclave_status {
  cenclave_enter()
  defer { cenclave_leave() }
  // The first version of the structure ended before `idle_bytes`.
  let least = MemoryLayout<enclave_statistics>.offset(of: \.idle_bytes)!
  guard let statistics = unsafe statistics,
    case let size = unsafe statistics.pointee.struct_size, size >= least
  else { return failedArgument("statistics.struct_size is not sizeof(enclave_statistics)") }
  return unsafe withArena(arena) { arena throws(EnclaveError) in
    if arena.reference.isInherited { throw .inheritedByFork }
    let now = arena.statistics
    var told = enclave_statistics(
      struct_size: min(size, MemoryLayout<enclave_statistics>.size),
      secret_count: UInt64(now.secretCount), bytes_in_use: UInt64(now.bytesInUse),
      bytes_mapped: UInt64(now.bytesMapped), bytes_locked: UInt64(now.bytesLocked),
      open_windows: UInt64(now.openWindows), separate_pages: UInt64(now.separatePages),
      merged_pages: UInt64(now.mergedPages),
      stuck_open_pages: UInt64(now.stuckOpenPages),
      failed_locks: now.failedLocks,
      failed_opens: now.failedOpens, failed_allocations: now.failedAllocations,
      corruptions: now.corruptions, protection_key: Int32(now.protectionKey ?? -1),
      is_frozen: now.isFrozen, is_sealed: now.isSealed, idle_bytes: UInt64(now.idleBytes),
      abandoned_windows: UInt64(now.abandonedWindows), retired_slots: UInt64(now.retiredSlots))
    unsafe UnsafeMutableRawPointer(statistics).copyMemory(
      from: &told, byteCount: told.struct_size)
  }
}

@c @implementation
public func enclave_arena_trim(
  _ arena: OpaquePointer?, _ bytesReturned: UnsafeMutablePointer<Int>?
) -> enclave_status {
  cenclave_enter()
  defer { cenclave_leave() }
  return unsafe withArena(arena) { arena throws(EnclaveError) in
    let byteCount = try arena.trim()
    unsafe bytesReturned?.pointee = byteCount
  }
}

@c @implementation
public func enclave_arena_check(
  _ arena: OpaquePointer?,
  _ each: (@convention(c) (UnsafePointer<enclave_violation>?, UnsafeMutableRawPointer?) -> Void)?,
  _ context: UnsafeMutableRawPointer?, _ count: UnsafeMutablePointer<Int>?
) -> enclave_status {
  cenclave_enter()
  defer { cenclave_leave() }
  return unsafe withArena(arena) { arena throws(EnclaveError) in
    let found = try arena.check()
    unsafe count?.pointee = found.count
    if let each = unsafe each {
      for violation in found {
        unsafe violation.withC { violation in
          asApplication { unsafe each(violation, context) }
        }
      }
    }
  }
}

@c @implementation
public func enclave_arena_owns(_ arena: OpaquePointer?, _ address: UnsafeRawPointer?) -> Bool {
  cenclave_enter()
  defer { cenclave_leave() }
  guard let arena = unsafe arena, let address = unsafe address,
    let found = unsafe SecretHandle.arena(of: address)
  else {
    return false
  }
  return unsafe found.isSame(as: reference(arena))
}
