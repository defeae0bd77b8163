// Sleeping for a change of a word.

internal import CEnclaveSystem

/// Sleeps (futex(2)) while a word has a value; may return early.
package func sleep(while word: UnsafeMutablePointer<UInt32>, is seen: UInt32) {
  unsafe ces_word_wait(word, seen)
}

/// Wakes all that sleep for a word, which was changed before.
package func wake(_ word: UnsafeMutablePointer<UInt32>) { unsafe ces_word_wake(word) }
