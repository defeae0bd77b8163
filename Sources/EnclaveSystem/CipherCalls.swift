// What windows under a cipher gate do to the state of an encrypted secret and to scratch memory.
// CEnclaveCipher.h documents the protocol. These are free functions because Swift 6.3 does not inline
// methods of another module's structures; `Enclave` wraps them in methods.

public import CEnclaveSystem

// MARK: - The state of an encrypted secret

/// Bytes of state per slot.
@inlinable @inline(__always)
package func cipherSlotBytes() -> Int { Int(CES_CIPHER_SLOT_BYTES) }

/// Resets the state for a newly allocated secret, which is all zeros.
@inlinable @inline(__always)
package func cipherBegin(_ slot: UnsafeMutableRawPointer) { unsafe ces_cipher_begin(slot) }

/// Clears nonce and tag when the secret is freed.
@inlinable @inline(__always)
package func cipherEnd(_ slot: UnsafeMutableRawPointer) { unsafe ces_cipher_end(slot) }

/// Copies the ciphertext, and 32 bytes of nonce, state and tag. Returns the sequence; odd while a writer is
/// replacing them.
@inlinable @inline(__always)
package func cipherRead(
  _ slot: UnsafeRawPointer, _ source: UnsafeRawPointer, _ target: UnsafeMutableRawPointer,
  byteCount: Int, _ nonceAndTag: UnsafeMutableRawPointer
) -> UInt64 {
  unsafe ces_cipher_read(slot, source, target, byteCount, nonceAndTag)
}

@inlinable @inline(__always)
package func cipherIsUnchanged(_ slot: UnsafeRawPointer, since sequence: UInt64) -> Bool {
  unsafe ces_cipher_is_unchanged(slot, sequence)
}

/// Replaces the ciphertext, nonce and tag. Only the current writer may call this.
@inlinable @inline(__always)
package func cipherReplace(
  _ slot: UnsafeMutableRawPointer, _ target: UnsafeMutableRawPointer, _ source: UnsafeRawPointer,
  byteCount: Int, _ nonceAndTag: UnsafeRawPointer
) {
  unsafe ces_cipher_replace(slot, target, source, byteCount, nonceAndTag)
}

@inlinable @inline(__always)
package func cipherMarkTampered(_ slot: UnsafeMutableRawPointer, _ sequence: UInt64) {
  unsafe ces_cipher_mark_tampered(slot, sequence)
}

/// Who has the secret open for writing; 0: nobody.
@inlinable @inline(__always)
package func cipherWriter(_ slot: UnsafeRawPointer) -> UInt64 { unsafe ces_cipher_writer(slot) }

/// Becomes the writer; false if there is one.
@inlinable @inline(__always)
package func cipherClaim(_ slot: UnsafeMutableRawPointer, _ writer: UInt64) -> Bool {
  unsafe ces_cipher_claim(slot, writer)
}

@inlinable @inline(__always)
package func cipherSetBusy(_ slot: UnsafeMutableRawPointer, _ writer: UInt64, _ isBusy: Bool) {
  unsafe ces_cipher_set_busy(slot, writer, isBusy)
}

@inlinable @inline(__always)
package func cipherUnclaim(_ slot: UnsafeMutableRawPointer) { unsafe ces_cipher_unclaim(slot) }

/// The next counter for a nonce; never returns the same value twice.
@inlinable @inline(__always)
package func nextCounter(_ counter: UnsafeMutablePointer<UInt64>) -> UInt64 {
  unsafe ces_next_counter(counter)
}

// MARK: - Residue

/// Clears what a cipher leaves in vector registers, and on the stack up to `stackBytes` below the caller: a multiple of
/// 256, and not 0.
@inlinable @inline(__always)
package func clearResidue(stackBytes: Int) { ces_clear_residue(stackBytes) }

// MARK: - Scratch memory

/// Takes adjacent pieces of this thread's scratch page. Returns 0 if there is no room, or no page yet.
@inlinable @inline(__always)
package func scratchTake(pieces: Int, for owner: UInt64) -> UInt32 {
  ces_scratch_take(UInt32(truncatingIfNeeded: pieces), owner)
}

/// The address of such pieces.
@inlinable @inline(__always)
package func scratchBase(_ run: UInt32) -> UnsafeMutableRawPointer {
  unsafe ces_scratch_base(run).unsafelyUnwrapped
}

/// Whether these pieces still belong to this owner.
@inlinable @inline(__always)
package func scratchBelongs(_ run: UInt32, to owner: UInt64) -> Bool {
  ces_scratch_belongs(run, owner)
}

/// Releases pieces, which contain zeros. Any thread may call it.
@inlinable @inline(__always)
package func scratchGive(_ run: UInt32) { ces_scratch_give(run) }

/// Bytes of a piece, which is also its alignment.
@inlinable @inline(__always)
package func scratchPieceBytes() -> Int { Int(CES_SCRATCH_PIECE) }
