// Detects that this process is a forked child.

internal import CEnclaveSystem

/// A word that the kernel zeroes in every child (MADV_WIPEONFORK), however the child was created.
/// On kernels without MADV_WIPEONFORK a pthread_atfork(3) handler resets it instead; a raw clone(2)
/// bypasses that handler.
///
/// Arenas and publishers store the generation in which they were created. In a child the word is 0,
/// so nothing created by the parent is current there, and the child starts a new generation when it
/// creates its first arena or publisher.
package enum ForkWatch {
  /// This process's generation; 0 in a child that has created nothing yet. One load.
  @inline(__always)
  package static var current: UInt64 { ces_fork_generation() }

  nonisolated(unsafe) private static var lastGeneration: UInt64 = 0
  nonisolated(unsafe) private static var word: UnsafeMutablePointer<UInt64>? = nil

  /// Sets up fork detection if necessary, and returns the current generation.
  ///
  /// The caller holds the registry's lock.
  package static func prepare() throws(SystemFailure) -> UInt64 {
    if current != 0 { return current }
    if unsafe word == nil {
      let size = Page.size
      let address = try perform(.mapForkPage, byteCount: size) { ces_map_reserve(size) }
      let page = unsafe UnsafeMutableRawPointer(bitPattern: Int(address))!
      do {
        try perform(.openForkPage, byteCount: size) {
          unsafe ces_protect(page, size, Protection.readWrite.rawValue)
        }
        do {
          try perform(.wipeForkPage, byteCount: size) {
            unsafe ces_advise(page, size, Int32(CES_ADVICE_WIPE_ON_FORK))
          }
        } catch {
          // Before Linux 4.14: fall back to the C library's fork handler.
          try perform(.watchFork) { ces_at_fork_child { ces_reset_fork_word() } }
        }
      } catch {
        _ = unsafe ces_unmap(page, size)
        throw error
      }
      unsafe word = page.bindMemory(to: UInt64.self, capacity: 1)
    }
    Barrier.prepare()
    unsafe lastGeneration += 1
    unsafe word!.pointee = lastGeneration
    unsafe ces_set_fork_word(word)
    return unsafe lastGeneration
  }
}
