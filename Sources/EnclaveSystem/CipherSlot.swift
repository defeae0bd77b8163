// Swift's view of the state of an encrypted secret. CEnclaveCipher.h documents the protocol.

internal import CEnclaveSystem

/// The state of one slot of an arena with a cipher gate: nonce, tag, sequence and writer.
@safe
package struct CipherSlot: BitwiseCopyable {
  /// Bytes of state per slot.
  package static let byteCount = MemoryLayout<ces_cipher_slot>.stride

  /// The nonce and tag of a ciphertext, and whether it is blank or was tampered with.
  @safe
  package struct NonceAndTag: BitwiseCopyable {
    fileprivate var raw = ces_cipher_slot()

    package init() {}

    /// Nothing has been encrypted yet; the secret is all zeros.
    package var isBlank: Bool { raw.state == CES_CIPHER_BLANK }
    package var isTampered: Bool { raw.state == CES_CIPHER_TAMPERED }
    /// The first half of the nonce; `counter` is the second.
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

  /// Wraps the state at `place`: `byteCount` bytes, aligned to 8.
  package init(at place: UnsafeMutableRawPointer) {
    unsafe raw = place.assumingMemoryBound(to: ces_cipher_slot.self)
  }

  package static func initialize(_ place: UnsafeMutableRawPointer, count: Int) {
    unsafe place.initializeMemory(
      as: ces_cipher_slot.self, repeating: ces_cipher_slot(), count: count)
  }

  /// Resets the state for a newly allocated secret, which is all zeros.
  package func begin() { unsafe ces_cipher_begin(raw) }
  /// Clears nonce and tag when the secret is freed.
  package func end() { unsafe ces_cipher_end(raw) }

  /// Copies the ciphertext with its nonce and tag. Returns nil while a writer is replacing them.
  package func read(
    from slot: UnsafeRawPointer, into target: UnsafeMutableRawPointer, byteCount: Int
  ) -> (sequence: UInt64, nonceAndTag: NonceAndTag)? {
    var nonceAndTag = NonceAndTag()
    let sequence = unsafe ces_cipher_read(raw, slot, target, byteCount, &nonceAndTag.raw)
    return sequence & 1 == 0 ? (sequence, nonceAndTag) : nil
  }

  /// Whether the ciphertext has not been replaced since this sequence was read.
  package func isUnchanged(since sequence: UInt64) -> Bool {
    unsafe ces_cipher_is_unchanged(raw, sequence)
  }

  /// Replaces the ciphertext, nonce and tag. Only the current writer may call this.
  package func replace(
    _ slot: UnsafeMutableRawPointer, with source: UnsafeRawPointer, byteCount: Int,
    _ nonceAndTag: NonceAndTag
  ) {
    var nonceAndTag = nonceAndTag
    unsafe ces_cipher_replace(raw, slot, source, byteCount, &nonceAndTag.raw)
  }

  /// Marks the ciphertext with this sequence number as tampered with.
  package func markTampered(_ sequence: UInt64) { unsafe ces_cipher_mark_tampered(raw, sequence) }

  // MARK: - The writer

  /// What the scratch memory of this thread's own write window holds.
  package enum OwnWindow: Equatable {
    /// The plain contents, in this piece of scratch memory.
    case contents(UInt32)
    /// Not the contents: the window is being opened or closed. Only a signal handler that
    /// interrupted this thread can see this.
    case busy
  }

  /// nil unless this thread has the secret open for writing.
  package var ownWindow: OwnWindow? {
    let writer = unsafe ces_cipher_writer(raw)
    guard writer != 0, UInt32(truncatingIfNeeded: writer >> 32) == ces_thread_serial() else {
      return nil
    }
    return writer & Self.busy != 0 ? .busy : .contents(UInt32(truncatingIfNeeded: writer))
  }

  private static let busy: UInt64 = 1 << 31

  private func writer(_ scratch: UInt32) -> UInt64 {
    UInt64(ces_thread_serial()) << 32 | UInt64(scratch)
  }

  /// Registers this thread as the writer, with scratch memory that does not hold the contents yet.
  /// Returns false when the secret already has a writer.
  package func claim(_ scratch: UInt32) -> Bool {
    unsafe ces_cipher_claim(raw, writer(scratch) | Self.busy)
  }

  /// Sets whether the writer's scratch memory currently holds something other than the contents.
  package func setBusy(_ isBusy: Bool, _ scratch: UInt32) {
    unsafe ces_cipher_set_busy(raw, writer(scratch), isBusy)
  }

  package func unclaim() { unsafe ces_cipher_unclaim(raw) }
}

/// Clears what a cipher leaves in vector registers, and on the stack up to `stackBytes` (at least 1) below the
/// caller.
package func clearResidue(stackBytes: Int) { ces_clear_residue(stackBytes) }

/// The next counter for a nonce; never returns the same value twice.
package func nextCounter(_ counter: UnsafeMutablePointer<UInt64>) -> UInt64 {
  unsafe ces_next_counter(counter)
}
