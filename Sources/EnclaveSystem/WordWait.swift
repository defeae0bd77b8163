// Waiting until a word changes.

internal import CEnclaveSystem

/// Sleeps (futex(2)) while the word has this value. May return early.
package func sleep(while word: UnsafeMutablePointer<UInt32>, is seen: UInt32) {
  unsafe ces_word_wait(word, seen)
}

/// Wakes every thread that sleeps on the word. The word must have been changed before.
package func wake(_ word: UnsafeMutablePointer<UInt32>) { unsafe ces_word_wake(word) }
