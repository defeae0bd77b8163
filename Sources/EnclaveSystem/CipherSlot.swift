// What is known of an encrypted secret, and the memory that threads decrypt into, as Swift sees them.
// See CEnclaveCipher.h for how they work.

internal import CEnclaveSystem

/// One slot of an arena with a cipher gate.
@safe
package struct CipherSlot: BitwiseCopyable {
  /// So many bytes are known of a slot.
  package static let byteCount = MemoryLayout<ces_cipher_slot>.stride

  /// A ciphertext's nonce and tag.
  @safe
  package struct Known: BitwiseCopyable {
    fileprivate var raw = ces_cipher_slot()

    package init() {}

    /// Nothing was encrypted yet: the secret is zeros.
    package var isBlank: Bool { raw.state == CES_CIPHER_BLANK }
    package var isTampered: Bool { raw.state == CES_CIPHER_TAMPERED }
    /// The nonce's first half, and its second.
    package var shard: UInt32 {
      get { raw.shard }
      set { raw.shard = newValue }
    }
    package var counter: UInt64 {
      get { raw.counter }
      set { raw.counter = newValue }
    }
    package var tag: (UInt64, UInt64) {
      get { raw.tag }
      set { raw.tag = newValue }
    }
  }

  private let raw: UnsafeMutablePointer<ces_cipher_slot>

  /// The slot at a place of `byteCount` bytes, aligned to 8.
  package init(at place: UnsafeMutableRawPointer) {
    unsafe raw = place.assumingMemoryBound(to: ces_cipher_slot.self)
  }

  package static func initialize(_ place: UnsafeMutableRawPointer, count: Int) {
    unsafe place.initializeMemory(
      as: ces_cipher_slot.self, repeating: ces_cipher_slot(), count: count)
  }

  /// A secret of zeros was allocated in it.
  package func begin() { unsafe ces_cipher_begin(raw) }
  /// Its secret goes: nonce and tag are forgotten.
  package func end() { unsafe ces_cipher_end(raw) }

  /// Copies the ciphertext and what is known of it; nil while a writer replaces them.
  package func take(
    from slot: UnsafeRawPointer, into target: UnsafeMutableRawPointer, byteCount: Int
  ) -> (sequence: UInt64, known: Known)? {
    var known = Known()
    let sequence = unsafe ces_cipher_take(raw, slot, target, byteCount, &known.raw)
    return sequence & 1 == 0 ? (sequence, known) : nil
  }

  /// Whether nothing was replaced since.
  package func isStill(_ sequence: UInt64) -> Bool { unsafe ces_cipher_is_still(raw, sequence) }

  /// Replaces the ciphertext. The caller is the writer.
  package func replace(
    _ slot: UnsafeMutableRawPointer, with source: UnsafeRawPointer, byteCount: Int, _ known: Known
  ) {
    var known = known
    unsafe ces_cipher_replace(raw, slot, source, byteCount, &known.raw)
  }

  /// Marks the ciphertext of this sequence as wrong.
  package func condemn(_ sequence: UInt64) { unsafe ces_cipher_condemn(raw, sequence) }

  // MARK: - The writer

  /// What this thread's own window for writing has.
  package enum OwnWindow: Equatable {
    /// The contents, in this scratch memory.
    case contents(UInt32)
    /// Something that is no contents: the window is being opened or closed, and a signal handler asks.
    case working
  }

  /// nil when this thread does not have it open for writing.
  package var own: OwnWindow? {
    let writer = unsafe ces_cipher_writer(raw)
    guard writer != 0, UInt32(truncatingIfNeeded: writer >> 32) == ces_thread_serial() else {
      return nil
    }
    return writer & Self.working != 0 ? .working : .contents(UInt32(truncatingIfNeeded: writer))
  }

  private static let working: UInt64 = 1 << 31

  private func writer(_ scratch: UInt32) -> UInt64 {
    UInt64(ces_thread_serial()) << 32 | UInt64(scratch)
  }

  /// Becomes the writer, whose scratch memory does not hold the contents yet; false when there is one.
  package func claim(_ scratch: UInt32) -> Bool {
    unsafe ces_cipher_claim(raw, writer(scratch) | Self.working)
  }

  /// The writer's scratch memory holds the contents from now on, or does not any more.
  package func setWorking(_ isWorking: Bool, _ scratch: UInt32) {
    unsafe ces_cipher_set_working(raw, writer(scratch), isWorking)
  }

  package func unclaim() { unsafe ces_cipher_unclaim(raw) }
}

/// Clears what a cipher leaves in the vector registers and on the stack.
package func clearResidue() { ces_clear_residue() }

/// The next counter of a nonce: never the same twice.
package func nextCounter(_ counter: UnsafeMutablePointer<UInt64>) -> UInt64 {
  unsafe ces_next_counter(counter)
}
