// Process-wide functions: bytes, wiping, violations, publishing, the active arena.
// swift-format-ignore-file: AlwaysUseLowerCamelCase

public import CEnclave
import Enclave

@c @implementation
public func enclave_equal(_ a: UnsafeRawPointer?, _ b: UnsafeRawPointer?, _ size: Int) -> Bool {
  guard let a = unsafe a, let b = unsafe b else { return size == 0 }
  return unsafe isEqual(a, b, byteCount: size)
}

@c @implementation
public func enclave_wipe(_ start: UnsafeMutableRawPointer?, _ size: Int) {
  if let start = unsafe start { unsafe Enclave.wipe(start, byteCount: size) }
}

@c @implementation
public func enclave_fill_random(_ start: UnsafeMutableRawPointer?, _ size: Int) -> enclave_status {
  cenclave_enter()
  defer { cenclave_leave() }
  guard size != 0 else { return ENCLAVE_OK }
  guard let start = unsafe start else { return failedArgument("the start is NULL") }
  guard size > 0 else { return failedSize(size, 1) }
  do throws(SystemFailure) {
    unsafe try Enclave.fillRandom(start, byteCount: size)
    return ENCLAVE_OK
  } catch { return failed(.system(error)) }
}

@c @implementation
public func enclave_wipe_everything() -> enclave_status {
  cenclave_enter()
  defer { cenclave_leave() }
  let failures = Registry.wipeEverything()
  guard let first = failures.first else { return ENCLAVE_OK }
  return failed(
    ENCLAVE_ERROR_SYSTEM, failures.map(\.description).joined(separator: "; "),
    errno: first.reason.errno)
}

@c @implementation
public func enclave_wipe_on_signals() -> enclave_status {
  cenclave_enter()
  defer { cenclave_leave() }
  do throws(EnclaveError) {
    try EmergencyWipe.install()
    return ENCLAVE_OK
  } catch { return failed(error) }
}

// MARK: - Violations

extension Violation {
  func withC(_ body: (UnsafePointer<enclave_violation>) -> Void) {
    let code =
      switch kind {
      case .overflow: ENCLAVE_VIOLATION_OVERFLOW
      case .underflow: ENCLAVE_VIOLATION_UNDERFLOW
      case .writeAfterFree: ENCLAVE_VIOLATION_WRITE_AFTER_FREE
      case .doubleFree: ENCLAVE_VIOLATION_DOUBLE_FREE
      case .foreignPointer: ENCLAVE_VIOLATION_FOREIGN_POINTER
      case .freedWhileOpen: ENCLAVE_VIOLATION_FREED_WHILE_OPEN
      case .tampered: ENCLAVE_VIOLATION_TAMPERED
      }
    unsafe arena.withCString { arena in
      unsafe (label ?? "").withCString { label in
        unsafe description.withCString { description in
          var violation = unsafe enclave_violation(
            kind: code, arena: arena, label: self.label == nil ? nil : label,
            description: description, size: byteCount ?? 0, offset: offset ?? 0)
          unsafe withUnsafePointer(to: &violation) { unsafe body($0) }
        }
      }
    }
  }
}

/// A C handler and its context; the caller ensures that threads may share them.
@safe
private struct CHandler: @unchecked Sendable {
  let function:
    @convention(c) (UnsafePointer<enclave_violation>?, UnsafeMutableRawPointer?) -> enclave_response
  let context: UnsafeMutableRawPointer?
}

@c @implementation
public func enclave_set_violation_handler(
  _ handler: (
    @convention(c) (UnsafePointer<enclave_violation>?, UnsafeMutableRawPointer?) -> enclave_response
  )?, _ context: UnsafeMutableRawPointer?
) {
  cenclave_enter()
  defer { cenclave_leave() }
  guard let handler = unsafe handler else { return ViolationHandler.set(nil) }
  let called = unsafe CHandler(function: handler, context: context)
  ViolationHandler.set { violation in
    var answer = ENCLAVE_END_PROCESS
    unsafe violation.withC { answer = unsafe called.function($0, called.context) }
    return answer == ENCLAVE_CONTINUE ? .continueExecution : .endProcess
  }
}

// MARK: - Publishing

@c @implementation
public func enclave_publish_start(_ name: UnsafePointer<CChar>?) -> enclave_status {
  cenclave_enter()
  defer { cenclave_leave() }
  return attempt { () throws(EnclaveError) in
    var options = StatsPublisher.Options()
    if let name = unsafe name { options.name = unsafe Label(unowned: name) }
    try StatsPublisher.start(options).keepUntilExit()
  }
}

@c @implementation
public func enclave_publish_start_with(
  _ options: UnsafePointer<enclave_publish_options>?
) -> enclave_status {
  cenclave_enter()
  defer { cenclave_leave() }
  var swiftOptions = StatsPublisher.Options()
  if let options = unsafe options {
    guard unsafe options.pointee.struct_size >= MemoryLayout<enclave_publish_options>.size else {
      return failedArgument(
        "options.struct_size is too small: set it to sizeof(enclave_publish_options)")
    }
    let given = unsafe options.pointee
    guard let addresses = unsafe StatsPublisher.Addresses(given.addresses) else {
      return failedArgument("an option has an unknown value")
    }
    let tick = unsafe given.tick_milliseconds
    guard (10...10_000).contains(tick) else {
      return failedArgument("invalid tick of \(tick) ms: it must be from 10 to 10,000 ms")
    }
    if let name = unsafe given.name { swiftOptions.name = unsafe Label(unowned: name) }
    swiftOptions.addresses = addresses
    swiftOptions.tickMilliseconds = tick
    swiftOptions.listedSecrets = unsafe Int(given.listed_secrets)
    swiftOptions.listedArenas = unsafe Int(given.listed_arenas)
  }
  return attempt { () throws(EnclaveError) in
    try StatsPublisher.start(swiftOptions).keepUntilExit()
  }
}

extension StatsPublisher.Addresses {
  init?(_ value: enclave_addresses) {
    switch value {
    case ENCLAVE_ADDRESSES_WHILE_DUMPABLE: self = .whileDumpable
    case ENCLAVE_ADDRESSES_ALWAYS: self = .always
    case ENCLAVE_ADDRESSES_NEVER: self = .never
    default: return nil
    }
  }
}

@c @implementation
public func enclave_publish_stop() {
  cenclave_enter()
  defer { cenclave_leave() }
  Registry.stopPublishing()
}

@c @implementation
public func enclave_publish_refresh() {
  cenclave_enter()
  defer { cenclave_leave() }
  Registry.refresh()
}

// MARK: - Call sites bound to an arena

func failedInterposer() -> enclave_status {
  failed(
    ENCLAVE_ERROR_NO_INTERPOSER,
    "libenclave-malloc.so is not in this process: link it before libc, or set LD_PRELOAD")
}

@c @implementation
public func enclave_set_active(
  _ arena: OpaquePointer?, _ before: UnsafeMutablePointer<OpaquePointer?>?
) -> enclave_status {
  cenclave_enter()
  defer { cenclave_leave() }
  guard let interposer = unsafe cenclave_find_interposer() else { return failedInterposer() }
  if let foreign = unsafe cenclave_foreign_allocator(interposer) {
    unsafe enclave_private_foreign_allocator(foreign)
  }
  if let arena = unsafe arena {
    let reference = unsafe reference(arena)
    if reference.isInherited { return failed(.inheritedByFork) }
    guard reference.isOpenHere else {
      return failed(
        ENCLAVE_ERROR_CLOSED,
        "the arena is closed to this thread, but code that allocates writes to its memory: use "
          + "gate none, or a key gate and enclave_arena_open")
    }
  }
  let former = unsafe interposer.pointee.set_active(arena)
  unsafe before?.pointee = former
  return ENCLAVE_OK
}

@c @implementation
public func enclave_arena_call(
  _ arena: OpaquePointer?, _ allocator: (@convention(c) (Int) -> UnsafeMutableRawPointer?)?,
  _ size: Int
) -> UnsafeMutableRawPointer? {
  // The runtime's own allocations must not go to the arena.
  cenclave_enter()
  defer { cenclave_leave() }
  guard let arena = unsafe arena, let allocator = unsafe allocator else {
    _ = failedArgument("the arena or the allocator is NULL")
    return nil
  }
  var before: OpaquePointer?
  guard unsafe enclave_set_active(arena, &before) == ENCLAVE_OK else { return nil }
  cenclave_leave()
  let result = unsafe allocator(size)
  cenclave_enter()
  // The previous arena may be closed to this thread by now; restore it anyway, or the thread would
  // stay bound to this one.
  _ = unsafe cenclave_find_interposer()?.pointee.set_active(before)
  guard let result = unsafe result else {
    // If this library was out of memory, the error is stored already.
    return nil
  }
  guard
    unsafe SecretHandle.arena(of: result).map({ unsafe $0.isSame(as: reference(arena)) }) ?? false
  else {
    unsafe enclave_private_foreign_allocator("the allocator that was called")
  }
  return unsafe result
}
