// What libenclave-adopt.so needs beyond enclave.h: see CEnclaveInternal.h.
// swift-format-ignore-file: AlwaysUseLowerCamelCase

public import CEnclave
import Enclave

private func withHandle(
  _ address: UnsafeMutableRawPointer?, _ body: (SecretHandle) throws(EnclaveError) -> Void
) -> enclave_status {
  guard let address = unsafe address,
    let handle = unsafe SecretHandle.live(startingAt: address)
  else { return failedNotOurs() }
  return attempt { () throws(EnclaveError) in try body(handle) }
}

@c @implementation
public func enclave_private_hold(
  _ address: UnsafeMutableRawPointer?, _ protection: Int32
) -> enclave_status {
  cenclave_enter()
  defer { cenclave_leave() }
  var isHeld = true
  let status = unsafe withHandle(address) { handle throws(EnclaveError) in
    isHeld = try handle.hold(protection)
  }
  return isHeld
    ? status
    : failedArgument(
      "the protection is none, or the secret's arena is not isolated with a page gate")
}

@c @implementation
public func enclave_private_free_held(_ address: UnsafeMutableRawPointer?) -> enclave_status {
  cenclave_enter()
  defer { cenclave_leave() }
  return unsafe withHandle(address) { handle throws(EnclaveError) in try handle.freeHeld() }
}

@c @implementation
public func enclave_private_wipe(_ arena: OpaquePointer?) {
  cenclave_enter()
  defer { cenclave_leave() }
  guard let arena = unsafe arena else { return }
  unsafe reference(arena).wipeAtExit()
}
