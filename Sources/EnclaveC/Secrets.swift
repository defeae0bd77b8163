// Secrets, by address and by handle, and windows to them.
// swift-format-ignore-file: AlwaysUseLowerCamelCase

public import CEnclave
import Enclave

private let unnamed: Label = "C"

@inline(__always)
private func allocate(
  _ arena: OpaquePointer?, _ size: Int, _ alignment: Int, _ label: UnsafePointer<CChar>?
) throws(EnclaveError) -> SecretHandle? {
  guard let arena = unsafe arena else {
    _ = failedArgument("the arena is NULL")
    return nil
  }
  guard size >= 0, alignment >= 0 else {
    _ = failedSize(size, alignment)
    return nil
  }
  return unsafe try reference(arena).allocate(
    byteCount: size, alignment: alignment == 0 ? nil : alignment,
    label: unsafe label.map { unsafe Label(copying: $0) } ?? unnamed)
}

@c @implementation
public func enclave_allocate(
  _ arena: OpaquePointer?, _ size: Int, _ alignment: Int, _ label: UnsafePointer<CChar>?
) -> UnsafeMutableRawPointer? {
  cenclave_enter()
  defer { cenclave_leave() }
  do throws(EnclaveError) {
    let handle: SecretHandle? = unsafe try allocate(arena, size, alignment, label)
    return unsafe handle?.address
  } catch {
    _ = failed(error)
    return nil
  }
}

@c @implementation
public func enclave_allocate_array(
  _ arena: OpaquePointer?, _ count: Int, _ size: Int, _ label: UnsafePointer<CChar>?
) -> UnsafeMutableRawPointer? {
  cenclave_enter()
  defer { cenclave_leave() }
  let (bytes, overflow) = UInt(bitPattern: count).multipliedReportingOverflow(
    by: UInt(bitPattern: size))
  guard !overflow else {
    _ = failed(
      ENCLAVE_ERROR_SIZE,
      "\(UInt(bitPattern: count)) times \(UInt(bitPattern: size)) bytes exceed the address "
        + "space")
    return nil
  }
  return unsafe enclave_allocate(arena, Int(bitPattern: bytes), 0, label)
}

@c @implementation
public func enclave_realloc(
  _ address: UnsafeMutableRawPointer?, _ size: Int
) -> UnsafeMutableRawPointer? {
  cenclave_enter()
  defer { cenclave_leave() }
  guard let address = unsafe address else {
    _ = failedArgument("the address is NULL and belongs to no arena: use enclave_allocate")
    return nil
  }
  guard let handle = unsafe SecretHandle.live(startingAt: address) else {
    unsafe misused(address)
    return nil
  }
  guard size >= 0 else {
    _ = failedSize(size, 16)
    return nil
  }
  do throws(EnclaveError) { return unsafe try handle.resize(to: size).address } catch {
    _ = failed(error)
    return nil
  }
}

@c @implementation
public func enclave_free(_ address: UnsafeMutableRawPointer?) -> enclave_status {
  cenclave_enter()
  defer { cenclave_leave() }
  guard let address = unsafe address else { return ENCLAVE_OK }
  do throws(EnclaveError) {
    return unsafe try SecretHandle.free(at: address) ? ENCLAVE_OK : misused(address)
  } catch { return failed(error) }
}

@c @implementation
public func enclave_free_if_owned(_ address: UnsafeMutableRawPointer?) -> Bool {
  cenclave_enter()
  defer { cenclave_leave() }
  guard let address = unsafe address, unsafe SecretHandle.isOwned(address) else { return false }
  _ = unsafe enclave_free(address)
  return true
}

@inline(never) @discardableResult
private func misused(_ address: UnsafeMutableRawPointer) -> enclave_status {
  do throws(EnclaveError) { unsafe try SecretHandle.reportMisuse(of: address) } catch {
    return failed(error)
  }
  return failedNotOurs()
}

@c @implementation
public func enclave_usable_size(_ address: UnsafeRawPointer?) -> Int {
  cenclave_enter()
  defer { cenclave_leave() }
  guard let address = unsafe address,
    let handle = unsafe SecretHandle.live(startingAt: UnsafeMutableRawPointer(mutating: address))
  else { return 0 }
  return Int(handle.byteCount)
}

@c @implementation
public func enclave_owns(_ address: UnsafeRawPointer?) -> Bool {
  cenclave_enter()
  defer { cenclave_leave() }
  return unsafe address.map { unsafe SecretHandle.isOwned($0) } ?? false
}

@c @implementation
public func enclave_contains(_ start: UnsafeRawPointer?, _ size: Int) -> Bool {
  cenclave_enter()
  defer { cenclave_leave() }
  guard let start = unsafe start, size >= 0 else { return false }
  return unsafe SecretHandle.live(at: UnsafeRawBufferPointer(start: start, count: size)) != nil
}

// MARK: - Windows

/// Whether an access writes; nil for an invalid value.
@inline(__always)
private func writes(_ access: enclave_access) -> Bool? {
  // Compare raw values: comparing the type would instantiate metadata, which takes locks and
  // memory, and this may run in a signal handler.
  switch access.rawValue {
  case ENCLAVE_READ.rawValue: false
  case ENCLAVE_READ_WRITE.rawValue: true
  default: nil
  }
}

private func failedAccess() -> enclave_status {
  failedArgument("the access is neither ENCLAVE_READ nor ENCLAVE_READ_WRITE")
}

/// The library's window, stored in the caller's larger one.
@inline(__always)
private func held(_ window: UnsafeMutablePointer<enclave_window>) -> UnsafeMutablePointer<
  HeldWindow
> {
  // (Not a key path's offset, which allocates: this may run in a signal handler.)
  unsafe (UnsafeMutableRawPointer(window) + MemoryLayout<UnsafeMutableRawPointer>.size)
    .assumingMemoryBound(to: HeldWindow.self)
}

@c @implementation
public func enclave_open(
  _ address: UnsafeMutableRawPointer?, _ access: enclave_access,
  _ window: UnsafeMutablePointer<enclave_window>?
) -> enclave_status {
  cenclave_enter()
  defer { cenclave_leave() }
  guard let address = unsafe address, let window = unsafe window else {
    return failedArgument("the address or the window is NULL")
  }
  unsafe held(window).pointee.flags = 0
  guard let writing = writes(access) else { return failedAccess() }
  do throws(EnclaveError) {
    unsafe window.pointee.bytes = unsafe try HeldWindow.open(
      address, writing: writing, held(window))
    return unsafe window.pointee.bytes != nil ? ENCLAVE_OK : failedNotOurs()
  } catch { return failed(error) }
}

@c @implementation
public func enclave_close(_ window: UnsafeMutablePointer<enclave_window>?) -> enclave_status {
  cenclave_enter()
  defer { cenclave_leave() }
  guard let window = unsafe window, let error = unsafe HeldWindow.close(held(window)) else {
    return ENCLAVE_OK
  }
  guard case .destroyed = error else { return failed(error) }
  return failed(ENCLAVE_ERROR_DESTROYED, "everything was wiped while the window was open")
}

@c @implementation
public func enclave_arena_open(
  _ arena: OpaquePointer?, _ access: enclave_access,
  _ window: UnsafeMutablePointer<enclave_window>?
) -> enclave_status {
  cenclave_enter()
  defer { cenclave_leave() }
  guard let arena = unsafe arena, let window = unsafe window else {
    return failedArgument("the arena or the window is NULL")
  }
  unsafe held(window).pointee.flags = 0
  guard let writing = writes(access) else { return failedAccess() }
  let reference = unsafe reference(arena)
  unsafe window.pointee.bytes = nil
  if reference.isEncrypted {
    return failed(
      ENCLAVE_ERROR_UNSUPPORTED,
      "a cipher gate opens one secret at a time: open single secrets, or use a key gate or none")
  }
  if reference.hasPages {
    return failed(
      ENCLAVE_ERROR_UNSUPPORTED,
      "a page gate opens pages to every thread: open single secrets, or use a key gate or none")
  }
  return attempt { () throws(EnclaveError) in
    unsafe try HeldWindow.open(reference, writing: writing, held(window))
  }
}

// MARK: - Handles

private func liveHandle(_ secret: UnsafePointer<enclave_secret>?) -> SecretHandle? {
  guard let secret = unsafe secret, let handle = unsafe SecretHandle(words: secret.pointee.state),
    handle.isLive
  else { return nil }
  return handle
}

@c @implementation
public func enclave_secret_allocate(
  _ arena: OpaquePointer?, _ size: Int, _ alignment: Int, _ label: UnsafePointer<CChar>?,
  _ secret: UnsafeMutablePointer<enclave_secret>?
) -> enclave_status {
  cenclave_enter()
  defer { cenclave_leave() }
  guard let secret = unsafe secret else { return failedArgument("the secret is NULL") }
  do throws(EnclaveError) {
    guard let handle: SecretHandle = unsafe try allocate(arena, size, alignment, label) else {
      return enclave_last_status()
    }
    unsafe secret.pointee.state = handle.words
  } catch { return failed(error) }
  return ENCLAVE_OK
}

@c @implementation
public func enclave_secret_find(
  _ address: UnsafeMutableRawPointer?, _ secret: UnsafeMutablePointer<enclave_secret>?
) -> enclave_status {
  cenclave_enter()
  defer { cenclave_leave() }
  guard let address = unsafe address, let secret = unsafe secret else {
    return failedArgument("the address or the secret is NULL")
  }
  guard let handle = unsafe SecretHandle.live(startingAt: address) else { return failedNotOurs() }
  unsafe secret.pointee.state = handle.words
  return ENCLAVE_OK
}

@c @implementation
public func enclave_secret_address(_ secret: UnsafePointer<enclave_secret>?)
  -> UnsafeMutableRawPointer?
{
  cenclave_enter()
  defer { cenclave_leave() }
  return unsafe liveHandle(secret)?.address
}

@c @implementation
public func enclave_secret_size(_ secret: UnsafePointer<enclave_secret>?) -> Int {
  cenclave_enter()
  defer { cenclave_leave() }
  return unsafe liveHandle(secret).map { Int($0.byteCount) } ?? 0
}

@c @implementation
public func enclave_secret_open(
  _ secret: UnsafePointer<enclave_secret>?, _ access: enclave_access,
  _ window: UnsafeMutablePointer<enclave_window>?,
  _ bytes: UnsafeMutablePointer<UnsafeMutableRawPointer?>?
) -> enclave_status {
  cenclave_enter()
  defer { cenclave_leave() }
  guard let window = unsafe window else { return failedArgument("the window is NULL") }
  unsafe held(window).pointee.flags = 0
  guard let writing = writes(access) else { return failedAccess() }
  guard let handle = unsafe liveHandle(secret) else { return failedStale() }
  do throws(EnclaveError) {
    unsafe window.pointee.bytes = unsafe try HeldWindow.open(
      handle, writing: writing, held(window))
  } catch { return failed(error) }
  unsafe bytes?.pointee = unsafe window.pointee.bytes
  return ENCLAVE_OK
}

@c @implementation
public func enclave_secret_free(_ secret: UnsafePointer<enclave_secret>?) -> enclave_status {
  cenclave_enter()
  defer { cenclave_leave() }
  guard let handle = unsafe liveHandle(secret) else { return failedStale() }
  do throws(EnclaveError) { try handle.free() } catch { return failed(error) }
  return ENCLAVE_OK
}

@c @implementation
public func enclave_secret_resize(
  _ secret: UnsafeMutablePointer<enclave_secret>?, _ size: Int
) -> enclave_status {
  cenclave_enter()
  defer { cenclave_leave() }
  guard let handle = unsafe liveHandle(UnsafePointer(secret)) else { return failedStale() }
  guard size >= 0 else { return failedSize(size, 16) }
  do throws(EnclaveError) {
    unsafe secret?.pointee.state = try handle.resize(to: size).words
  } catch { return failed(error) }
  return ENCLAVE_OK
}

@c @implementation
public func enclave_read_passphrase(
  _ arena: OpaquePointer?, _ prompt: UnsafePointer<CChar>?, _ descriptor: Int32, _ limit: Int,
  _ label: UnsafePointer<CChar>?, _ secret: UnsafeMutablePointer<enclave_secret>?
) -> enclave_status {
  cenclave_enter()
  defer { cenclave_leave() }
  guard let arena = unsafe arena, let secret = unsafe secret else {
    return failedArgument("the arena or the secret is NULL")
  }
  guard limit >= 0 else { return failedSize(limit, 1) }
  do throws(EnclaveError) {
    let handle = unsafe try reference(arena).readPassphrase(
      prompt: prompt, from: descriptor, limit: limit == 0 ? 1024 : limit,
      label: label.map { unsafe Label(copying: $0) } ?? unnamed)
    unsafe secret.pointee.state = handle.words
  } catch { return failed(error) }
  return ENCLAVE_OK
}
