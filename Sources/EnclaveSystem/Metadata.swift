// Memory for what is known about secrets, outside of their pages. It may run out, and then the
// answer is an error and not the end of the process.

internal import CEnclaveSystem

/// malloc(3) of metadata.
package enum Metadata {
  /// Memory for `count` values, not initialised.
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

  /// Whether there is room for what the Swift runtime allocates by itself (objects, arrays, texts):
  /// it ends the process where malloc(3) answers NULL. Asked before each step that needs some.
  ///
  /// A reserve is given up when there is none, so that the error can be told.
  package static func expectRoom() throws(SystemFailure) {
    try perform(.allocateMetadata, byteCount: Int(CES_METADATA_ROOM)) { ces_metadata_room() }
  }
}
