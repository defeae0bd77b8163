// Memory for bookkeeping outside the secret pages. Running out of it throws instead of ending the
// process.

internal import CEnclaveSystem

/// malloc(3) for bookkeeping data.
package enum Metadata {
  /// Memory for `count` values, uninitialised.
  package static func allocate<T: BitwiseCopyable>(
    _ type: T.Type, count: Int, alignment: Int = 16
  ) throws(SystemFailure) -> UnsafeMutablePointer<T> {
    let byteCount = max(1, count) * MemoryLayout<T>.stride
    let address = unsafe try allocate(byteCount: byteCount, alignment: alignment)
    return unsafe address.bindMemory(to: T.self, capacity: count)
  }

  package static func allocate(
    byteCount: Int, alignment: Int = 16
  ) throws(SystemFailure) -> UnsafeMutableRawPointer {
    let address = try perform(.allocateMetadata, byteCount: byteCount) {
      ces_metadata_allocate(byteCount, alignment)
    }
    return unsafe UnsafeMutableRawPointer(bitPattern: Int(address)).unsafelyUnwrapped
  }

  package static func free(_ address: UnsafeMutableRawPointer?) {
    unsafe ces_metadata_free(address)
  }

  /// Throws unless there is room for what the Swift runtime allocates by itself (objects, arrays,
  /// strings): the runtime aborts the process when malloc(3) returns NULL. Call it before each step
  /// that allocates.
  ///
  /// When there is no room, it releases a reserve so that the error can be reported.
  package static func requireRoom() throws(SystemFailure) {
    try perform(.allocateMetadata, byteCount: Int(CES_METADATA_ROOM)) { ces_metadata_room() }
  }
}
