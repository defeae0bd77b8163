// The memory that threads decrypt into: for each thread a locked page between guards, cut into
// pieces, and separate pages for larger secrets. Unused scratch memory is all zeros.

internal import CEnclaveSystem

/// The calling thread's scratch memory. Always locked, kept out of core dumps and forked children,
/// and wiped by signals. Allocated when a thread first needs it, and reused by later threads.
package enum ScratchMemory {
  /// The scratch memory of one window.
  @safe
  package struct Piece: BitwiseCopyable {
    /// Thread (6 bits), first piece or index of its pages (6 bits), pieces (7 bits; 0: separate
    /// pages).
    package let bits: UInt32

    package init(bits: UInt32) { self.bits = bits }

    fileprivate init(thread: Int, first: Int32, pieces: Int) {
      bits = UInt32(thread) | UInt32(first) << 6 | UInt32(pieces) << 12
    }

    fileprivate var pages: UnsafeMutablePointer<ces_scratch_pages> {
      unsafe ces_scratch_pages_of(ces_scratch_of(Int32(bits & 63)), Int32(bits >> 6 & 63))
    }

    /// Whether it has separate pages. Then the bytes end at a guard page, with a canary before
    /// them; otherwise the canary follows them.
    package var isPages: Bool { bits >> 12 == 0 }

    /// The start of all of it.
    package var base: UnsafeMutableRawPointer {
      unsafe isPages ? pages.pointee.data.unsafelyUnwrapped : scratchBase(bits)
    }
    package var byteCount: Int {
      isPages ? unsafe pages.pointee.length : Int(bits >> 12) * Int(CES_SCRATCH_PIECE)
    }
  }

  private static let canaryBytes = 16
  /// The largest secret that is served from a page, in pieces: half a page.
  private static let largestPieces = 32
  /// Larger page runs are unmapped at the end of their window; smaller ones are kept for the next.
  private static let keptBytes = 64 << 10

  nonisolated(unsafe) private static let lockWord: UnsafeMutablePointer<UInt32> =
    unsafe makeLockWord()
  nonisolated(unsafe) private static var gate: GateState?
  nonisolated(unsafe) private static var gateGeneration: UInt64 = 0

  /// Allocates what the first window needs. Any thread may call it, before the first window, which
  /// may be in a signal handler.
  package static func prepare() throws(SystemFailure) {
    unsafe lockInProcess(lockWord)
    defer { unsafe unlock(lockWord) }
    guard unsafe gateGeneration != ForkWatch.current else { return }
    unsafe gate = try GateState(generation: ForkWatch.current)
    unsafe gate.unsafelyUnwrapped.serveAll()
    unsafe gateGeneration = ForkWatch.current
    unsafe storeRelaxed(0, at: keyBytes)
  }

  /// Allocates room for a secret and its canary. Returns nil when the thread has too many windows
  /// open.
  ///
  /// Never calls malloc(3). Makes system calls if the thread has no scratch page yet, and for large
  /// secrets.
  package static func allocate(
    byteCount: Int, isIsolated: Bool, mayMap: Bool, for owner: UInt64
  ) throws(SystemFailure) -> Piece? {
    let thread = Int(ces_thread_number())
    let scratch = unsafe ces_scratch_of(Int32(thread)).unsafelyUnwrapped
    if unsafe scratch.pointee.generation != ForkWatch.current {
      guard mayMap else { return nil }
      unsafe reset(scratch)
    }
    let pieces = (byteCount + canaryBytes + Int(CES_SCRATCH_PIECE) - 1) / Int(CES_SCRATCH_PIECE)
    if !isIsolated, pieces <= largestPieces {
      if unsafe ces_scratch_page(scratch) == nil {
        guard mayMap else { return nil }
        unsafe try makePage(scratch)
      }
      let bits = scratchTake(pieces: pieces, for: owner)
      if bits != 0 { return Piece(bits: bits) }
    }
    guard mayMap else { return nil }
    let needed = Page.roundUp(byteCount + (isIsolated ? 0 : canaryBytes)) ?? Page.size
    return unsafe try allocatePages(scratch, byteCount: max(needed, Page.size), owner).map {
      Piece(thread: thread, first: $0, pieces: 0)
    }
  }

  /// Wipes a piece and releases it. Does nothing if it no longer belongs to this arena.
  package static func release(_ piece: Piece, of owner: UInt64) {
    guard piece.isPages else {
      guard scratchBelongs(piece.bits, to: owner) else { return }
      unsafe wipeSlot(piece.base, byteCount: piece.byteCount)
      return scratchGive(piece.bits)
    }
    let pages = unsafe piece.pages
    guard unsafe loadRelaxed(&pages.pointee.owner) == owner, unsafe claimInUse(pages) else {
      return
    }
    unsafe EnclaveSystem.wipe(pages.pointee.data, byteCount: pages.pointee.length)
    unsafe storeRelaxed(0, at: &pages.pointee.owner)
    // During a signal's wipe nothing is unmapped: the process is ending.
    if unsafe pages.pointee.length <= keptBytes || WipeTable.hasBegun {
      unsafe setState(pages, CES_SCRATCH_FREE)
    } else {
      unsafe unmap(pages)
      unsafe setState(pages, CES_SCRATCH_ABSENT)
    }
  }

  /// Claims pages in use for a moment; false if they are no longer in use.
  private static func claimInUse(_ pages: UnsafeMutablePointer<ces_scratch_pages>) -> Bool {
    var tries: UInt32 = 0
    while unsafe !ces_exchange32(&pages.pointee.state, CES_SCRATCH_USED, CES_SCRATCH_CHANGING) {
      if unsafe ces_load_acquire32(&pages.pointee.state) != CES_SCRATCH_CHANGING { return false }
      ces_back_off(tries)
      tries += 1
    }
    return true
  }

  /// Unmaps the pages of threads that have ended, and idle runs of more than one page. Returns whether
  /// there were any. Single pages of live threads stay, so that a secret that was opened once can be
  /// opened again even if the lockable memory has run out since.
  @discardableResult
  package static func trim() -> Bool {
    var isMore = false
    unsafe forEachScratch { thread, scratch in
      // Then no thread gets the number meanwhile.
      let hasEnded = ces_thread_number_take(Int32(thread))
      defer { if hasEnded { ces_thread_number_return(Int32(thread)) } }
      if hasEnded, let page = unsafe ces_scratch_take_page(scratch) {
        unsafe unmap(page, byteCount: Page.size, entry: scratch.pointee.entry)
        isMore = true
      }
      unsafe forEachPages(of: scratch) { pages in
        guard unsafe ces_exchange32(&pages.pointee.state, CES_SCRATCH_FREE, CES_SCRATCH_CHANGING)
        else { return }
        guard unsafe hasEnded || pages.pointee.length > Page.size else {
          return unsafe setState(pages, CES_SCRATCH_FREE)
        }
        unsafe unmap(pages)
        unsafe setState(pages, CES_SCRATCH_ABSENT)
        isMore = true
      }
    }
    return isMore
  }

  private static func forEachScratch(_ body: (Int, UnsafeMutablePointer<ces_scratch>) -> Void) {
    for thread in 0..<Int(CES_THREADS) {
      let scratch = unsafe ces_scratch_of(Int32(thread)).unsafelyUnwrapped
      if unsafe scratch.pointee.generation == ForkWatch.current { unsafe body(thread, scratch) }
    }
  }

  private static func forEachPages(_ body: (UnsafeMutablePointer<ces_scratch_pages>) -> Void) {
    unsafe forEachScratch { _, scratch in unsafe forEachPages(of: scratch, body) }
  }

  private static func forEachPages(
    of scratch: UnsafeMutablePointer<ces_scratch>,
    _ body: (UnsafeMutablePointer<ces_scratch_pages>) -> Void
  ) {
    for index in 0..<Int32(CES_SCRATCH_LARGE) {
      unsafe body(ces_scratch_pages_of(scratch, index).unsafelyUnwrapped)
    }
  }

  /// Releases what an arena's windows still hold and nobody can close any more, because their
  /// threads have ended or jumped out of them.
  package static func releaseAll(of owner: UInt64) {
    unsafe forEachScratch { thread, scratch in
      var count: UInt32 = 0
      while case let first = unsafe ces_scratch_find(scratch, owner, 0, &count), first >= 0 {
        release(Piece(thread: thread, first: first, pieces: Int(count)), of: owner)
      }
      for index in 0..<Int32(CES_SCRATCH_LARGE) {
        release(Piece(thread: thread, first: index, pieces: 0), of: owner)
      }
    }
  }

  /// Overwrites with zeros what the windows of an arena show, in every thread.
  package static func wipe(of owner: UInt64) {
    ces_scratch_start_wiping()
    defer { ces_scratch_end_wiping() }
    unsafe forEachScratch { _, scratch in
      guard let page = unsafe ces_scratch_page(scratch) else { return }
      var (from, count): (Int32, UInt32) = (0, 0)
      while case let first = unsafe ces_scratch_find(scratch, owner, from, &count), first >= 0 {
        unsafe EnclaveSystem.wipe(
          page + Int(first) * Int(CES_SCRATCH_PIECE),
          byteCount: Int(count) * Int(CES_SCRATCH_PIECE))
        from = first + 1
      }
    }
    unsafe forEachPages { pages in
      guard unsafe loadRelaxed(&pages.pointee.owner) == owner, unsafe claimInUse(pages) else {
        return
      }
      unsafe EnclaveSystem.wipe(pages.pointee.data, byteCount: pages.pointee.length)
      unsafe setState(pages, CES_SCRATCH_USED)
    }
  }

  /// Bytes of scratch memory of all threads, used or idle, and of the arenas' keys. Excludes page
  /// runs larger than 64 KiB, which are unmapped with their window.
  package static var lockedBytes: Int {
    // A forked child has none of its parent's.
    var sum = unsafe gateGeneration == ForkWatch.current ? Int(loadRelaxed(keyBytes)) : 0
    unsafe forEachScratch { _, scratch in
      if unsafe ces_scratch_page(scratch) != nil { sum += Page.size }
    }
    unsafe forEachPages { pages in
      let state = unsafe ces_load_acquire32(&pages.pointee.state)
      guard state == CES_SCRATCH_USED || state == CES_SCRATCH_FREE else { return }
      let byteCount = unsafe pages.pointee.length
      if byteCount <= keptBytes { sum += byteCount }
    }
    return sum
  }

  nonisolated(unsafe) private static let keyBytes: UnsafeMutablePointer<UInt64> = {
    let bytes = UnsafeMutablePointer<UInt64>.allocate(capacity: 1)
    unsafe bytes.initialize(to: 0)
    return unsafe bytes
  }()

  /// Adds to the locked bytes of arenas' keys; negative when a key is freed.
  package static func addKeyBytes(byteCount: Int) {
    unsafe addRelaxed(UInt64(bitPattern: Int64(byteCount)), to: keyBytes)
  }

  // MARK: - Making it

  /// In a forked child the inherited scratch memory is zeroed, unlocked, and no longer usable.
  private static func reset(_ scratch: UnsafeMutablePointer<ces_scratch>) {
    unsafe lockInProcess(lockWord)
    defer { unsafe unlock(lockWord) }
    guard unsafe scratch.pointee.generation != ForkWatch.current else { return }
    unsafe scratch.initialize(to: ces_scratch())
    unsafe scratch.pointee.generation = ForkWatch.current
  }

  private static func map(_ byteCount: Int) throws(SystemFailure) -> (GuardedMapping, WipeEntry) {
    let mapping = try GuardedMapping(byteCount: byteCount)
    do throws(SystemFailure) {
      try mapping.excludeFromDumps()
      try mapping.optOutOfPageMerging()
      _ = try mapping.protectFromFork()
      do throws(SystemFailure) { try mapping.lock() } catch {
        // Idle scratch memory may make room.
        guard trim() else { throw error }
        try mapping.lock()
      }
      let entry = unsafe try WipeEntry(data: mapping.data, gate: gate.unsafelyUnwrapped)
      entry.setUsed(byteCount)
      return (mapping, entry)
    } catch {
      _ = try? mapping.unmap()
      throw error
    }
  }

  private static func makePage(_ scratch: UnsafeMutablePointer<ces_scratch>) throws(SystemFailure) {
    let (mapping, entry) = try map(Page.size)
    // Threads that share the last number may race here; the first to set the page wins.
    guard unsafe !ces_scratch_set_page(scratch, mapping.data) else {
      unsafe scratch.pointee.entry = unsafe entry.raw
      return
    }
    entry.remove()
    _ = try? mapping.unmap()
  }

  /// Reuses idle pages of this size, or else maps new ones in a free entry, or else replaces idle
  /// ones.
  private static func allocatePages(
    _ scratch: UnsafeMutablePointer<ces_scratch>, byteCount: Int, _ owner: UInt64
  ) throws(SystemFailure) -> Int32? {
    for index in 0..<Int32(CES_SCRATCH_LARGE) {
      let pages = unsafe ces_scratch_pages_of(scratch, index).unsafelyUnwrapped
      if unsafe pages.pointee.length == byteCount,
        unsafe ces_exchange32(&pages.pointee.state, CES_SCRATCH_FREE, CES_SCRATCH_USED)
      {
        // Another thread may have replaced the pages before this one took them.
        guard unsafe pages.pointee.length == byteCount else {
          unsafe setState(pages, CES_SCRATCH_FREE)
          continue
        }
        unsafe storeRelaxed(owner, at: &pages.pointee.owner)
        return index
      }
    }
    for turn in 0..<2 {
      let state = turn == 0 ? CES_SCRATCH_ABSENT : CES_SCRATCH_FREE
      for index in 0..<Int32(CES_SCRATCH_LARGE) {
        let pages = unsafe ces_scratch_pages_of(scratch, index).unsafelyUnwrapped
        guard unsafe ces_exchange32(&pages.pointee.state, state, CES_SCRATCH_CHANGING) else {
          continue
        }
        if state == CES_SCRATCH_FREE { unsafe unmap(pages) }
        do throws(SystemFailure) {
          let (mapping, entry) = try map(byteCount)
          unsafe pages.pointee.data = unsafe mapping.data
          unsafe pages.pointee.length = mapping.byteCount
          unsafe pages.pointee.entry = unsafe entry.raw
        } catch {
          unsafe setState(pages, CES_SCRATCH_ABSENT)
          throw error
        }
        unsafe storeRelaxed(owner, at: &pages.pointee.owner)
        unsafe setState(pages, CES_SCRATCH_USED)
        return index
      }
    }
    return nil
  }

  private static func unmap(_ pages: UnsafeMutablePointer<ces_scratch_pages>) {
    unsafe unmap(
      pages.pointee.data.unsafelyUnwrapped, byteCount: pages.pointee.length,
      entry: pages.pointee.entry)
  }

  private static func unmap(
    _ data: UnsafeMutableRawPointer, byteCount: Int, entry: UnsafeMutableRawPointer?
  ) {
    if let entry = unsafe entry { unsafe WipeEntry(raw: entry).remove() }
    _ = unsafe try? GuardedMapping(data: data, byteCount: byteCount).unmap()
  }

  private static func setState(
    _ pages: UnsafeMutablePointer<ces_scratch_pages>, _ state: UInt32
  ) { unsafe ces_store_release32(&pages.pointee.state, state) }
}
