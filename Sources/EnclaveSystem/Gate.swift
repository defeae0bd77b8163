// An arena's gate, as Swift sees it: who has windows open, and the protection key.

public import CEnclaveSystem

/// What the gate of an arena lets in. See CEnclaveGate.h for how it works.
@safe
package struct Gate: BitwiseCopyable {
  package enum Access: UInt32, Sendable {
    case open = 0
    case frozen = 1
    case destroyed = 2
    /// Somebody is changing it: wait.
    case changing = 3
  }

  /// The answer to an attempt to get in.
  package enum Entry: Int32, Sendable {
    case open = 0
    /// The first window of this thread, or of this label in this thread: `makeShard`, then again.
    case noShard = 1
    case forked = 2
    case frozen = 3
    case destroyed = 4
    case changing = 5
  }

  /// Windows of all threads.
  package struct Windows: Equatable, Sendable {
    package var reads = 0
    package var writes = 0
    package var wiping = 0
    package var opens: UInt64 = 0
    package var opensForWriting: UInt64 = 0
    /// The label of a window that is open.
    package var label: UInt16?
    package var open: Int { reads + writes }
    package init() {}
  }

  @usableFromInline let raw: UnsafeMutablePointer<ces_gate>

  package init(generation: UInt64) {
    unsafe raw = .allocate(capacity: 1)
    unsafe raw.initialize(to: ces_gate())
    unsafe raw.pointee.generation = generation
  }

  package func free() {
    unsafe ces_shards_free(raw)
    unsafe raw.deallocate()
  }

  // MARK: - Windows

  @inlinable @inline(__always)
  package func enter(writing: Bool, label: UInt16) -> Entry {
    unsafe Entry(rawValue: ces_window_enter(raw, writing, UInt32(label))).unsafelyUnwrapped
  }

  @inlinable @inline(__always)
  package func leave(writing: Bool, label: UInt16) {
    unsafe ces_window_leave(raw, writing, UInt32(label))
  }

  /// The window could not be opened after all.
  package func undo(writing: Bool, label: UInt16) {
    unsafe ces_window_undo(raw, writing, UInt32(label))
  }

  @inlinable @inline(__always)
  package func enterWipe() -> Entry {
    unsafe Entry(rawValue: ces_wipe_enter(raw)).unsafelyUnwrapped
  }

  @inlinable @inline(__always)
  package func leaveWipe() { unsafe ces_wipe_leave(raw) }

  /// Opens the key for this thread; returns what `closeKey` puts back.
  @inlinable @inline(__always)
  package func openKey(writing: Bool) -> UInt32 {
    unsafe ces_key_open(raw.pointee.key_bits, writing)
  }

  @inlinable @inline(__always)
  package func closeKey(_ found: UInt32) { unsafe ces_key_close(raw.pointee.key_bits, found) }

  /// Whether this process made the arena. Two loads.
  @inlinable @inline(__always)
  package var isOwn: Bool { unsafe ces_is_own(raw) }

  /// This thread's number, 0 to 63.
  @inlinable @inline(__always)
  package static var thread: Int { Int(ces_thread_number()) }

  // MARK: - Changing

  @inlinable @inline(__always)
  package var access: Access {
    get { unsafe Access(rawValue: ces_load_relaxed32(&raw.pointee.access)).unsafelyUnwrapped }
    nonmutating set { unsafe ces_store_release32(&raw.pointee.access, newValue.rawValue) }
  }

  /// Frozen, also while the access is being changed.
  package var isFrozen: Bool {
    get { unsafe ces_load_relaxed32(&raw.pointee.frozen) != 0 }
    nonmutating set { unsafe ces_store_release32(&raw.pointee.frozen, newValue ? 1 : 0) }
  }

  /// The key; nil without one. It changes while no window is open.
  package var key: Int? {
    get {
      let bits = unsafe raw.pointee.key_bits
      return bits == 0 ? nil : bits.trailingZeroBitCount / 2
    }
    nonmutating set { unsafe raw.pointee.key_bits = newValue.map { 3 << UInt32(2 * $0) } ?? 0 }
  }

  /// Has every thread see the access that was set, and this one see every window that was counted
  /// before. membarrier(2).
  package func order() throws(SystemFailure) {
    try perform(.barrier) { ces_barrier() }
  }

  /// Room for this thread's counts. The caller holds the arena's lock.
  package func makeShard(labels: Int) {
    unsafe precondition(ces_shard_make(raw, UInt64(labels)) == 0, "out of memory")
  }

  /// The sum over all threads; exact after `order`. The caller holds the arena's lock.
  package var windows: Windows {
    var sum = Windows()
    for index in 0..<Int(CES_THREADS) {
      guard let shard = unsafe ces_gate_shard(raw, Int32(index)) else { continue }
      let reads = unsafe Int(ces_load_relaxed32(&shard.pointee.reads))
      let writes = unsafe Int(ces_load_relaxed32(&shard.pointee.writes))
      sum.reads += reads
      sum.writes += writes
      unsafe sum.wiping += Int(ces_load_relaxed32(&shard.pointee.wiping))
      unsafe sum.opens &+= ces_load_relaxed(&shard.pointee.opens)
      unsafe sum.opensForWriting &+= ces_load_relaxed(&shard.pointee.opens_for_writing)
      if reads + writes > 0 { sum.label = unsafe UInt16(ces_load_relaxed32(&shard.pointee.label)) }
    }
    return sum
  }

  /// A label's opens (wrapping at 2³²) and open windows, over all threads. The caller holds the
  /// arena's lock.
  package func label(_ label: UInt16) -> (opens: UInt32, openNow: UInt32) {
    var opens: UInt32 = 0
    var openNow: UInt32 = 0
    for index in 0..<Int(CES_THREADS) {
      guard let shard = unsafe ces_gate_shard(raw, Int32(index)),
        unsafe UInt64(label) < shard.pointee.label_count,
        let counts = unsafe shard.pointee.label_opens
      else { continue }
      unsafe opens &+= ces_load_relaxed32(counts + 2 * Int(label))
      unsafe openNow &+= ces_load_relaxed32(counts + 2 * Int(label) + 1)
    }
    return (opens, openNow)
  }
}

package enum Barrier {
  /// Prepares `Gate.order`, once a process. Where the kernel has no private expedited barrier,
  /// every window pays for a fence instead.
  package static func prepare() {
    do throws(SystemFailure) { try perform(.registerBarrier) { ces_barrier_register() } } catch {
      ces_windows_need_fence()
    }
  }
}

/// The process' protection keys, as the kernel gives them. Keys are never given back to the
/// kernel: it would hand the same key out again opened, over pages that still carry it.
package enum ProtectionKey {
  /// pkey_alloc(2): a key that is closed for every thread.
  package static func allocate() throws(SystemFailure) -> Int {
    let key = try perform(.allocateKey) { ces_key_allocate() }
    ces_pool_add(3 << UInt32(2 * key))
    return Int(key)
  }
}

/// Adds to a counter that several threads share; returns the new value.
@inlinable @inline(__always) @discardableResult
package func addRelaxed(_ value: UInt64, to word: UnsafeMutablePointer<UInt64>) -> UInt64 {
  unsafe ces_add_relaxed(word, value)
}

/// Brings a line of memory into the cache; never faults, and works through a closed key.
@inlinable @inline(__always)
package func prefetch(_ address: UnsafeRawPointer) { unsafe ces_prefetch(address) }
