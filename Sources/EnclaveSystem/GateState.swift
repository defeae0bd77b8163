// An arena's gate, as Swift sees it: who has windows open, and the protection key.

public import CEnclaveSystem

/// What the gate of an arena lets in. See CEnclaveGate.h for how it works.
@safe
package struct GateState: BitwiseCopyable {
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
    /// The first window of this thread, or of this label in this thread: `makeCounters`, then again.
    case noCounters = 1
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
    /// Of those that are open, how many were left open by threads that have ended.
    package var abandoned = 0
    package var open: Int { reads + writes }
    package init() {}
  }

  @usableFromInline package let raw: UnsafeMutableRawPointer
  private var gate: UnsafeMutablePointer<ces_gate> {
    unsafe raw.assumingMemoryBound(to: ces_gate.self)
  }

  package init(generation: UInt64) throws(SystemFailure) {
    let gate = unsafe try Metadata.allocate(
      byteCount: MemoryLayout<ces_gate>.size, alignment: 64
    ).bindMemory(to: ces_gate.self, capacity: 1)
    unsafe gate.initialize(to: ces_gate())
    unsafe gate.pointee.generation = generation
    unsafe ces_gate_list(gate)
    unsafe raw = UnsafeMutableRawPointer(gate)
  }

  /// What it covers is written in windows to any arena.
  func serveAll() { unsafe gate.pointee.serves_all = 1 }

  package func free() {
    unsafe ces_counters_free(gate)
    unsafe Metadata.free(gate)
  }

  // MARK: - Windows

  /// The window could not be opened after all.
  package func undo(writing: Bool, label: UInt16) {
    unsafe ces_window_leave(raw, writing, UInt32(label), true)
  }

  // MARK: - Changing

  package var access: Access { unsafe Access(rawValue: ces_gate_access(raw)).unsafelyUnwrapped }

  /// Replaces an access by another. False when it is not that one any more: a signal's handler, which
  /// waits for nobody, sets `destroyed`, and nothing may undo that.
  package func exchangeAccess(from old: Access, to new: Access) -> Bool {
    unsafe ces_exchange32(&gate.pointee.access, old.rawValue, new.rawValue)
  }

  /// Frozen, also while the access is being changed.
  package func setFrozen() { unsafe ces_store_release32(&gate.pointee.frozen, 1) }

  /// The contents are about to be wiped, whoever has a window.
  package func setWiped() {
    unsafe ces_store_release32(&gate.pointee.wiped, 1)
    fenceAll()
  }

  /// The key; nil without one. It changes while no window is open.
  package var key: Int? {
    get {
      let bits = unsafe gate.pointee.key_bits
      return bits == 0 ? nil : bits.trailingZeroBitCount / 2
    }
    nonmutating set { unsafe gate.pointee.key_bits = newValue.map { 3 << UInt32(2 * $0) } ?? 0 }
  }

  /// Has every thread see the access that was set, and this one see every window that was counted
  /// before. membarrier(2). Where that fails (a seccomp filter that came later, say), the failure is
  /// counted and the other way is taken, from now on: nothing that wipes depends on one call.
  package func order() {
    do { try perform(.barrier) { ces_barrier() } } catch { ces_barrier_replace() }
  }

  /// Room for this thread's counts, and for those of a label. No lock, no malloc(3).
  package func makeCounters(label: UInt16) throws(SystemFailure) {
    try perform(.extendCounts) { unsafe ces_counters_make(gate, UInt32(label)) }
  }

  /// Whether this thread is inside a free to this arena: then a signal handler asks.
  package var isWipingHere: Bool { unsafe ces_is_wiping(raw) }

  /// Counts a window that could not be opened, where no lock can be had to count it elsewhere.
  package func missOpen() { unsafe addRelaxed(1, to: &gate.pointee.missed_opens) }

  /// How many were counted so.
  package var missedOpens: UInt64 { unsafe ces_load_relaxed(&gate.pointee.missed_opens) }

  /// The sum over all threads; exact after `order`.
  package var windows: Windows {
    var sum = Windows()
    for index in 0..<Int(CES_THREADS) {
      guard let counters = unsafe ces_gate_counters(gate, Int32(index)) else { continue }
      let reads = unsafe ces_load_relaxed(&counters.pointee.reads)
      let writes = unsafe ces_load_relaxed(&counters.pointee.writes)
      let (readsNow, writesNow) = (reads & Self.openMask, writes & Self.openMask)
      sum.reads += Int(readsNow)
      sum.writes += Int(writesNow)
      unsafe sum.wiping += Int(ces_load_relaxed32(&counters.pointee.wiping))
      unsafe sum.abandoned += Int(
        ces_load_relaxed32(&counters.pointee.abandoned_reads)
          + ces_load_relaxed32(&counters.pointee.abandoned_writes))
      sum.opens &+= (reads >> Self.opensShift) &+ (writes >> Self.opensShift)
      sum.opensForWriting &+= writes >> Self.opensShift
      if readsNow + writesNow > 0 {
        sum.label = unsafe UInt16(ces_load_relaxed32(&counters.pointee.label))
      }
    }
    return sum
  }

  private static let openMask = UInt64(CES_OPEN_MASK)
  private static let opensShift = UInt64(CES_OPENS_SHIFT)

  /// A label's opens and open windows, over all threads.
  package func label(_ label: UInt16) -> (opens: UInt64, openNow: UInt64) {
    var sum: (opens: UInt64, openNow: UInt64) = (0, 0)
    for index in 0..<Int(CES_THREADS) {
      guard let counters = unsafe ces_gate_counters(gate, Int32(index)) else { continue }
      let word = unsafe ces_counters_label(counters, UInt32(label))
      sum.opens &+= word >> Self.opensShift
      sum.openNow &+= word & Self.openMask
    }
    return sum
  }
}

package enum Barrier {
  /// Prepares `GateState.order`, once a process. Where the kernel has no private expedited barrier,
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

/// Takes one from a count of references; returns how many are left. What was done through the others
/// is seen by whoever gets 0.
package func dropReference(_ word: UnsafeMutablePointer<UInt64>) -> UInt64 {
  unsafe ces_drop_reference(word)
}

/// Whether the contents were wiped under windows that were open.
@inlinable @inline(__always)
package func gateIsWiped(_ raw: UnsafeMutableRawPointer) -> Bool {
  unsafe ces_gate_is_wiped(raw) != 0
}

/// Whether this thread has the key open for writing.
package func gateIsKeyOpen(_ raw: UnsafeMutableRawPointer) -> Bool {
  let bits = unsafe raw.assumingMemoryBound(to: ces_gate.self).pointee.key_bits
  return bits != 0 && ces_rdpkru() & bits == 0
}

/// Brings a line of memory into the cache; never faults, and works through a closed key.
@inlinable @inline(__always)
package func prefetch(_ address: UnsafeRawPointer) { unsafe ces_prefetch(address) }

// What windows and frees do to a gate. Functions and not methods: those of a structure of another
// module were not inlined (Swift 6.3), at some 2 ns each. `Enclave` has the methods.

/// Counts a window in: an `Entry` as a number, 0 is open.
@inlinable @inline(__always)
package func gateEnter(_ gate: UnsafeMutableRawPointer, writing: Bool, label: UInt16) -> Int32 {
  unsafe ces_window_enter(gate, writing, UInt32(label))
}

@inlinable @inline(__always)
package func gateLeave(_ gate: UnsafeMutableRawPointer, writing: Bool, label: UInt16) {
  unsafe ces_window_leave(gate, writing, UInt32(label), false)
}

/// Counts a free in: an `Entry` as a number.
@inlinable @inline(__always)
package func gateEnterWipe(_ gate: UnsafeMutableRawPointer) -> Int32 { unsafe ces_wipe_enter(gate) }

@inlinable @inline(__always)
package func gateLeaveWipe(_ gate: UnsafeMutableRawPointer) { unsafe ces_wipe_leave(gate) }

/// Runs a body with the keys of all arenas open for this thread, as a wipe of everything needs them:
/// where an arena's pages were unmapped, another one's may lie by now.
package func withAllKeysOpen(_ body: () -> Void) {
  let bits = ces_pool()
  let found = ces_key_open(bits, true)
  body()
  ces_key_close(bits, found)
}

/// Opens the key for this thread; returns what `gateCloseKey` puts back.
@inlinable @inline(__always)
package func gateOpenKey(_ gate: UnsafeMutableRawPointer, writing: Bool) -> UInt32 {
  unsafe ces_gate_key_open(gate, writing)
}

@inlinable @inline(__always)
package func gateCloseKey(_ gate: UnsafeMutableRawPointer, _ found: UInt32) {
  unsafe ces_gate_key_close(gate, found)
}

/// This thread's own number, which no other thread has or had.
@inlinable @inline(__always)
package func threadSerial() -> UInt32 { ces_thread_serial() }

/// Whether this process made the arena. Two loads.
@inlinable @inline(__always)
package func gateIsOwn(_ gate: UnsafeMutableRawPointer) -> Bool { unsafe ces_is_own(gate) }

/// The access as a number, 0 is open.
@inlinable @inline(__always)
package func gateAccess(_ gate: UnsafeMutableRawPointer) -> UInt32 { unsafe ces_gate_access(gate) }

/// Frozen, also while the access is being changed.
@inlinable @inline(__always)
package func gateIsFrozen(_ gate: UnsafeMutableRawPointer) -> Bool {
  unsafe ces_gate_is_frozen(gate) != 0
}

/// This thread's number, 0 to 63.
@inlinable @inline(__always)
package func threadNumber() -> Int { Int(ces_thread_number()) }
