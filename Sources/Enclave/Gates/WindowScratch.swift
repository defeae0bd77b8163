// The scratch memory of one window. `ScratchMemory` documents where it lies; this is the part of it that every
// window under a cipher gate runs.

import EnclaveSystem

@safe
struct WindowScratch: BitwiseCopyable {
  /// As in `ScratchMemory.Piece`.
  let bits: UInt32

  @inline(__always)
  init(bits: UInt32) { self.bits = bits }

  @inline(__always)
  init(_ piece: ScratchMemory.Piece) { bits = piece.bits }

  var piece: ScratchMemory.Piece { ScratchMemory.Piece(bits: bits) }

  /// Half a page.
  private static var largestPieces: Int { 32 }

  /// Takes room for a secret of a slab and its canary from this thread's page. Returns nil if there is none; then
  /// `ScratchMemory.allocate` may have more. No system call, no lock.
  @inline(__always)
  static func take(byteCount: Int, for owner: UInt64) -> WindowScratch? {
    let size = scratchPieceBytes()
    let pieces = (byteCount &+ SizeClass.canaryBytes &+ size &- 1) / size
    guard pieces <= largestPieces else { return nil }
    let bits = scratchTake(pieces: pieces, for: owner)
    return bits == 0 ? nil : WindowScratch(bits: bits)
  }

  /// Whether it has separate pages, instead of pieces of the thread's page.
  @inline(__always)
  var isPages: Bool { bits >> 12 == 0 }

  /// The start of the pieces.
  @inline(__always)
  var base: UnsafeMutableRawPointer { unsafe scratchBase(bits) }

  /// Wipes and releases it. Does nothing if it no longer belongs to this arena.
  @inline(__always)
  func release(of owner: UInt64) {
    if isPages { return releasePages(of: owner) }
    guard scratchBelongs(bits, to: owner) else { return }
    unsafe wipeSlot(base, byteCount: Int(bits >> 12) &* scratchPieceBytes())
    scratchGive(bits)
  }

  @inline(never)
  private func releasePages(of owner: UInt64) { ScratchMemory.release(piece, of: owner) }
}
