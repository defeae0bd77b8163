// The arena's lock: a word in raw memory.

public import CEnclaveSystem

/// Takes a spin word. Held for tens of nanoseconds, or for one system call under a page gate; a
/// waiter pauses, then yields.
@inlinable @inline(__always)
package func lock(_ word: UnsafeMutablePointer<UInt32>) { unsafe ces_spin_lock(word) }

@inlinable @inline(__always)
package func unlock(_ word: UnsafeMutablePointer<UInt32>) { unsafe ces_spin_unlock(word) }

/// Takes a spin word if nobody has it.
@inlinable @inline(__always)
package func tryLock(_ word: UnsafeMutablePointer<UInt32>) -> Bool {
  unsafe ces_spin_try(word)
}

/// Runs a body of the library's own, in which an interposed malloc stays away as it does while the
/// thread holds a lock.
package func asLibrary<R>(_ body: () -> R) -> R {
  ces_enter_library()
  defer { ces_leave_library() }
  return body()
}

/// Frees a word that a thread of the parent may have held when this child was made.
package func forgetLock(_ word: UnsafeMutablePointer<UInt32>) { unsafe ces_spin_reset(word) }
