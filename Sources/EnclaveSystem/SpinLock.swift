// The library's spin lock: a word in raw memory.

public import CEnclaveSystem

/// Acquires a spin lock. It is held for tens of nanoseconds, or for one system call under a page
/// gate; a waiter pauses, then sleeps (futex(2)) until it is released.
///
/// No window may be opened while it is held: if `holdsLocks` is true when a window opens, the
/// window belongs to a signal handler. Use `lockAcrossCalls` where windows must be opened under a
/// lock.
@inlinable @inline(__always)
package func lock(_ word: UnsafeMutablePointer<UInt32>) { unsafe ces_spin_lock(word) }

/// Allocates an unlocked word that is never freed.
package func makeLockWord() -> UnsafeMutablePointer<UInt32> {
  let word = UnsafeMutablePointer<UInt32>.allocate(capacity: 16)
  unsafe word.initialize(repeating: 0, count: 16)
  return unsafe word
}

/// Acquires a lock that is never left locked in a forked child by another thread of the parent.
/// Release it with `unlock`.
package func lockInProcess(_ word: UnsafeMutablePointer<UInt32>) { unsafe ces_process_lock(word) }

@inlinable @inline(__always)
package func unlock(_ word: UnsafeMutablePointer<UInt32>) { unsafe ces_spin_unlock(word) }

/// Acquires a spin lock if it is free.
@inlinable @inline(__always)
package func tryLock(_ word: UnsafeMutablePointer<UInt32>) -> Bool {
  unsafe ces_spin_try(word)
}

/// Acquires a spin lock under which windows may be opened and closed.
package func lockAcrossCalls(_ word: UnsafeMutablePointer<UInt32>) {
  unsafe lock(word)
  ces_lock_spans_calls()
}

package func unlockAcrossCalls(_ word: UnsafeMutablePointer<UInt32>) {
  ces_lock_spans_no_calls()
  unsafe unlock(word)
}

/// Acquires such a lock if it is free.
package func tryLockAcrossCalls(_ word: UnsafeMutablePointer<UInt32>) -> Bool {
  guard unsafe tryLock(word) else { return false }
  ces_lock_spans_calls()
  return true
}

/// Whether this thread holds one of the library's locks. If so when a window opens, a signal
/// handler has interrupted the library and must not wait for anything.
package var holdsLocks: Bool { ces_holds_locks() }

/// Calls application code, outside all of the library's locks, with the application's own
/// allocator.
package func asApplication<R>(_ body: () -> R) -> R {
  let held = ces_step_out_of_library()
  defer { ces_return_to_library(held) }
  return body()
}

/// Runs library code during which an interposed malloc does not use an arena, just as while the
/// thread holds a lock.
package func asLibrary<R, E: Error>(_ body: () throws(E) -> R) throws(E) -> R {
  ces_enter_library()
  defer { ces_leave_library() }
  return try body()
}
