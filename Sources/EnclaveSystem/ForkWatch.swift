// Notices that this process is a forked child.

internal import CEnclaveSystem

/// A word that the kernel sets to zero in a child (MADV_WIPEONFORK), whichever way the child was
/// made; where the kernel lacks that, pthread_atfork(3) does, which raw clone(2) goes past.
///
/// Arenas and publishers keep the generation that they were made in. In a child the word is 0, so
/// no generation of the parent is current there, until the child makes something of its own.
package enum ForkWatch {
  /// The generation of this process; 0 in a child that has made nothing yet. One load.
  @inline(__always)
  package static var current: UInt64 { ces_fork_generation() }

  nonisolated(unsafe) private static var lastGeneration: UInt64 = 0
  nonisolated(unsafe) private static var word: UnsafeMutablePointer<UInt64>? = nil

  /// Makes sure that forks are noticed, and returns the current generation.
  ///
  /// The caller holds the process registry's lock.
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
          // The kernel is too old for it: the C library's hook is the next best.
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
