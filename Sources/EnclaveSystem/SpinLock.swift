// The arena's lock: a word in raw memory.

public import CEnclaveSystem

/// Takes a spin word. Held for tens of nanoseconds, or for one system call under a page gate; a
/// waiter pauses, then sleeps (futex(2)) until it is given back.
///
/// No window is opened while it is held: `holdsLocks` is how a window knows that it is a signal
/// handler's. Where one must be, `lockAcrossCalls`.
@inlinable @inline(__always)
package func lock(_ word: UnsafeMutablePointer<UInt32>) { unsafe ces_spin_lock(word) }

/// A free lock word, which stays for as long as the process runs.
package func makeLockWord() -> UnsafeMutablePointer<UInt32> {
  let word = UnsafeMutablePointer<UInt32>.allocate(capacity: 16)
  unsafe word.initialize(repeating: 0, count: 16)
  return unsafe word
}

/// Takes a word that a forked child never finds taken by a thread of its parent. `unlock` gives it
/// back.
package func lockInProcess(_ word: UnsafeMutablePointer<UInt32>) { unsafe ces_process_lock(word) }

@inlinable @inline(__always)
package func unlock(_ word: UnsafeMutablePointer<UInt32>) { unsafe ces_spin_unlock(word) }

/// Takes a spin word if nobody has it.
@inlinable @inline(__always)
package func tryLock(_ word: UnsafeMutablePointer<UInt32>) -> Bool {
  unsafe ces_spin_try(word)
}

/// Takes a spin word that is held while windows are opened and closed.
package func lockAcrossCalls(_ word: UnsafeMutablePointer<UInt32>) {
  unsafe lock(word)
  ces_lock_spans_calls()
}

package func unlockAcrossCalls(_ word: UnsafeMutablePointer<UInt32>) {
  ces_lock_spans_no_calls()
  unsafe unlock(word)
}

/// Takes such a word if nobody has it.
package func tryLockAcrossCalls(_ word: UnsafeMutablePointer<UInt32>) -> Bool {
  guard unsafe tryLock(word) else { return false }
  ces_lock_spans_calls()
  return true
}

/// Whether this thread holds a lock of the library's. Where a window is opened: a signal handler
/// interrupted the thread there, and can wait for nothing.
package var holdsLocks: Bool { ces_holds_locks() }

/// Calls the application, outside of all locks: what it allocates is its own again.
package func asApplication<R>(_ body: () -> R) -> R {
  let held = ces_step_out_of_library()
  defer { ces_return_to_library(held) }
  return body()
}

/// Runs a body of the library's own, in which an interposed malloc stays away as it does while the
/// thread holds a lock.
package func asLibrary<R, E: Error>(_ body: () throws(E) -> R) throws(E) -> R {
  ces_enter_library()
  defer { ces_leave_library() }
  return try body()
}
