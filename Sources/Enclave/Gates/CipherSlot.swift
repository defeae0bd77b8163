// The state of an encrypted secret. CEnclaveCipher.h documents the protocol.

import EnclaveSystem

/// The state of one slot of an arena with a cipher gate: nonce, tag, sequence and writer.
@safe
struct CipherSlot: BitwiseCopyable {
  /// Bytes of state per slot.
  @inline(__always)
  static var byteCount: Int { cipherSlotBytes() }

  /// The nonce and tag of a ciphertext, and whether it is blank or was tampered with.
  ///
  /// In vectors, so that one instruction stores each. The cipher loads 16 bytes at once, which otherwise has to
  /// wait until both halves have reached the cache.
  struct NonceAndTag: BitwiseCopyable {
    /// Shard, counter (low, high), state. The first three are the nonce.
    fileprivate(set) var nonceAndState = SIMD4<UInt32>()
    var tag = SIMD2<UInt64>()

    @inline(__always)
    fileprivate init() {}

    @inline(__always)
    init(shard: UInt32, counter: UInt64) {
      nonceAndState = SIMD4(
        shard, UInt32(truncatingIfNeeded: counter), UInt32(truncatingIfNeeded: counter >> 32), 0)
    }

    /// Nothing has been encrypted yet; the secret is all zeros.
    @inline(__always)
    var isBlank: Bool { nonceAndState[3] == 0 }
    @inline(__always)
    var isWritten: Bool { nonceAndState[3] == 1 }
    @inline(__always)
    var isTampered: Bool { nonceAndState[3] == 2 }
  }

  private let raw: UnsafeMutableRawPointer

  /// Wraps the state at `place`: `byteCount` bytes, aligned to 8.
  @inline(__always)
  init(at place: UnsafeMutableRawPointer) { unsafe raw = unsafe place }

  static func initialize(_ place: UnsafeMutableRawPointer, count: Int) {
    unsafe place.initializeMemory(as: UInt8.self, repeating: 0, count: count * byteCount)
  }

  /// Resets the state for a newly allocated secret, which is all zeros.
  @inline(__always)
  func begin() { unsafe cipherBegin(raw) }
  /// Clears nonce and tag when the secret is freed.
  @inline(__always)
  func end() { unsafe cipherEnd(raw) }

  /// Copies the ciphertext with its nonce and tag. Returns nil while a writer is replacing them.
  @inline(__always)
  func read(
    from slot: UnsafeRawPointer, into target: UnsafeMutableRawPointer, byteCount: Int
  ) -> (sequence: UInt64, nonceAndTag: NonceAndTag)? {
    var nonceAndTag = NonceAndTag()
    let sequence = unsafe cipherRead(raw, slot, target, byteCount: byteCount, &nonceAndTag)
    return sequence & 1 == 0 ? (sequence, nonceAndTag) : nil
  }

  /// Whether the ciphertext has not been replaced since this sequence was read.
  func isUnchanged(since sequence: UInt64) -> Bool {
    unsafe cipherIsUnchanged(raw, since: sequence)
  }

  /// Replaces the ciphertext, nonce and tag. Only the current writer may call this.
  @inline(__always)
  func replace(
    _ slot: UnsafeMutableRawPointer, with source: UnsafeRawPointer, byteCount: Int,
    _ nonceAndTag: NonceAndTag
  ) {
    var nonceAndTag = nonceAndTag
    unsafe cipherReplace(raw, slot, source, byteCount: byteCount, &nonceAndTag)
  }

  /// Marks the ciphertext with this sequence number as tampered with.
  func markTampered(_ sequence: UInt64) { unsafe cipherMarkTampered(raw, sequence) }

  // MARK: - The writer

  /// What the scratch memory of this thread's own write window holds.
  enum OwnWindow: Equatable {
    /// The plain contents, in this piece of scratch memory.
    case contents(UInt32)
    /// Not the contents: the window is being opened or closed. Only a signal handler that
    /// interrupted this thread can see this.
    case busy
  }

  /// nil unless this thread has the secret open for writing.
  @inline(__always)
  var ownWindow: OwnWindow? {
    let writer = unsafe cipherWriter(raw)
    guard writer != 0, UInt32(truncatingIfNeeded: writer >> 32) == threadSerial() else {
      return nil
    }
    return writer & Self.busy != 0 ? .busy : .contents(UInt32(truncatingIfNeeded: writer))
  }

  private static var busy: UInt64 { 1 << 31 }

  @inline(__always)
  private func writer(_ scratch: UInt32) -> UInt64 {
    UInt64(threadSerial()) << 32 | UInt64(scratch)
  }

  /// Registers this thread as the writer, with scratch memory that does not hold the contents yet.
  /// Returns false when the secret already has a writer.
  @inline(__always)
  func claim(_ scratch: UInt32) -> Bool { unsafe cipherClaim(raw, writer(scratch) | Self.busy) }

  /// Sets whether the writer's scratch memory currently holds something other than the contents.
  @inline(__always)
  func setBusy(_ isBusy: Bool, _ scratch: UInt32) {
    unsafe cipherSetBusy(raw, writer(scratch), isBusy)
  }

  @inline(__always)
  func unclaim() { unsafe cipherUnclaim(raw) }
}
