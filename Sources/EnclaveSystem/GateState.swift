// Swift's view of an arena's gate: access, window counts and protection key.

public import CEnclaveSystem

/// The gate of an arena. CEnclaveGate.h documents the protocol.
@safe
package struct GateState: BitwiseCopyable {
  package enum Access: UInt32, Sendable {
    case open = 0
    case frozen = 1
    case destroyed = 2
    /// Another thread is changing the access: wait and retry.
    case changing = 3
  }

  /// The result of an attempt to enter the gate.
  package enum Entry: Int32, Sendable {
    case open = 0
    /// This thread's first window, or its first for this label: call `makeCounters`, then retry.
    case noCounters = 1
    case forked = 2
    case frozen = 3
    case destroyed = 4
    case changing = 5
  }

  /// Window counts, summed over all threads.
  package struct Windows: Equatable, Sendable {
    package var reads = 0
    package var writes = 0
    package var wiping = 0
    package var opens: UInt64 = 0
    package var opensForWriting: UInt64 = 0
    /// The label of one of the open windows.
    package var label: UInt16?
    /// How many of the open windows were left open by threads that have ended.
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

  /// Marks a gate that belongs to no arena: the memory behind it is written in windows of any
  /// arena.
  func serveAll() { unsafe gate.pointee.serves_all = 1 }

  package func free() {
    unsafe ces_counters_free(gate)
    unsafe Metadata.free(gate)
  }

  // MARK: - Windows

  /// Ends the count of a window that was counted but could not be opened.
  package func undoEntry(writing: Bool, label: UInt16) {
    unsafe ces_window_leave(raw, writing, UInt32(label), true)
  }

  // MARK: - Changing

  package var access: Access { unsafe Access(rawValue: ces_gate_access(raw)).unsafelyUnwrapped }

  /// Replaces the access if it is still `old`; otherwise returns false. The wipe's signal handler
  /// sets `destroyed` without waiting for anyone, and this must not overwrite that.
  package func exchangeAccess(from old: Access, to new: Access) -> Bool {
    unsafe ces_exchange32(&gate.pointee.access, old.rawValue, new.rawValue)
  }

  /// Marks the arena as frozen, even while `access` is `changing`.
  package func setFrozen() { unsafe ces_store_release32(&gate.pointee.frozen, 1) }

  /// Records that the contents are about to be wiped, even under open windows.
  package func setWiped() {
    unsafe ces_store_release32(&gate.pointee.wiped, 1)
    fenceAll()
  }

  /// The protection key, or nil. It may change only while no window is open.
  package var key: Int? {
    get {
      let bits = unsafe gate.pointee.key_bits
      return bits == 0 ? nil : bits.trailingZeroBitCount / 2
    }
    nonmutating set { unsafe gate.pointee.key_bits = newValue.map { 3 << UInt32(2 * $0) } ?? 0 }
  }

  /// A full barrier on every thread: every thread sees the access set before, and this thread sees
  /// every window counted before (membarrier(2)). If the call fails, for example because of a
  /// seccomp filter installed later, the failure is counted and windows use fences from then on. So
  /// no wipe depends on this call.
  package func runBarrier() {
    do { try perform(.barrier) { ces_barrier() } } catch { ces_barrier_replace() }
  }

  /// Allocates this thread's counters, with room for a label. Takes no lock and calls no malloc(3).
  package func makeCounters(label: UInt16) throws(SystemFailure) {
    try perform(.extendCounts) { unsafe ces_counters_make(gate, UInt32(label)) }
  }

  /// Whether this thread is inside a free of this arena; a signal handler asks.
  package var isWipingHere: Bool { unsafe ces_is_wiping(raw) }

  /// Counts a window that failed to open, where no lock can be taken to record it elsewhere.
  package func countMissedOpen() { unsafe addRelaxed(1, to: &gate.pointee.missed_opens) }

  /// The number of windows counted by `countMissedOpen`.
  package var missedOpens: UInt64 { unsafe ces_load_relaxed(&gate.pointee.missed_opens) }

  /// The sum over all threads. Exact after `runBarrier`.
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

  /// A label's total opens and currently open windows, over all threads.
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
  /// Prepares `GateState.runBarrier`, once per process. Without private expedited membarrier(2), every
  /// window executes a fence instead.
  package static func prepare() {
    do throws(SystemFailure) { try perform(.registerBarrier) { ces_barrier_register() } } catch {
      ces_windows_need_fence()
    }
  }
}

/// The process's protection keys. They are never freed: the kernel could hand out a freed key again,
/// open, while pages still carry it.
package enum ProtectionKey {
  /// pkey_alloc(2): a key that is closed for every thread.
  package static func allocate() throws(SystemFailure) -> Int {
    let key = try perform(.allocateKey) { ces_key_allocate() }
    ces_pool_add(3 << UInt32(2 * key))
    return Int(key)
  }
}

/// Adds to a counter that several threads share, and returns the new value.
@inlinable @inline(__always) @discardableResult
package func addRelaxed(_ value: UInt64, to word: UnsafeMutablePointer<UInt64>) -> UInt64 {
  unsafe ces_add_relaxed(word, value)
}

/// Decrements a reference count and returns what is left. Whoever gets 0 sees everything done
/// through the other references.
package func dropReference(_ word: UnsafeMutablePointer<UInt64>) -> UInt64 {
  unsafe ces_drop_reference(word)
}

/// Whether the contents were wiped while windows were open.
@inlinable @inline(__always)
package func gateIsWiped(_ raw: UnsafeMutableRawPointer) -> Bool {
  unsafe ces_gate_is_wiped(raw) != 0
}

/// Whether this thread has the key open for writing.
package func gateIsKeyOpen(_ raw: UnsafeMutableRawPointer) -> Bool {
  let bits = unsafe raw.assumingMemoryBound(to: ces_gate.self).pointee.key_bits
  return bits != 0 && ces_rdpkru() & bits == 0
}

/// Prefetches a cache line. Never faults, and works through a closed key.
@inlinable @inline(__always)
package func prefetch(_ address: UnsafeRawPointer) { unsafe ces_prefetch(address) }

// What windows and frees do to a gate. These are free functions because Swift 6.3 does not inline
// methods of another module's structures, which costs some 2 ns each. `Enclave` wraps them in
// methods.

/// Enters a window. Returns the raw value of an `Entry`; 0 means open.
@inlinable @inline(__always)
package func gateEnter(_ gate: UnsafeMutableRawPointer, writing: Bool, label: UInt16) -> Int32 {
  unsafe ces_window_enter(gate, writing, UInt32(label))
}

@inlinable @inline(__always)
package func gateLeave(_ gate: UnsafeMutableRawPointer, writing: Bool, label: UInt16) {
  unsafe ces_window_leave(gate, writing, UInt32(label), false)
}

/// Enters a free. Returns the raw value of an `Entry`; 0 means open.
@inlinable @inline(__always)
package func gateEnterWipe(_ gate: UnsafeMutableRawPointer) -> Int32 { unsafe ces_wipe_enter(gate) }

@inlinable @inline(__always)
package func gateLeaveWipe(_ gate: UnsafeMutableRawPointer) { unsafe ces_wipe_leave(gate) }

/// Runs `body` with every arena's key open for this thread. Wiping everything needs this: another
/// arena may now be mapped where an arena was unmapped.
package func withAllKeysOpen(_ body: () -> Void) {
  let bits = ces_pool()
  let found = ces_key_open(bits, true)
  body()
  ces_key_close(bits, found)
}

/// Opens the key for this thread. Returns the previous bits, which `gateCloseKey` restores.
@inlinable @inline(__always)
package func gateOpenKey(_ gate: UnsafeMutableRawPointer, writing: Bool) -> UInt32 {
  unsafe ces_gate_key_open(gate, writing)
}

@inlinable @inline(__always)
package func gateCloseKey(_ gate: UnsafeMutableRawPointer, _ found: UInt32) {
  unsafe ces_gate_key_close(gate, found)
}

/// This thread's serial number; no other thread has or had it.
@inlinable @inline(__always)
package func threadSerial() -> UInt32 { ces_thread_serial() }

/// Whether the gate belongs to this process and not to its parent. Two loads.
@inlinable @inline(__always)
package func gateIsOwn(_ gate: UnsafeMutableRawPointer) -> Bool { unsafe ces_is_own(gate) }

/// The raw value of the `Access`; 0 means open.
@inlinable @inline(__always)
package func gateAccess(_ gate: UnsafeMutableRawPointer) -> UInt32 { unsafe ces_gate_access(gate) }

/// Whether the arena is frozen, even while `access` is `changing`.
@inlinable @inline(__always)
package func gateIsFrozen(_ gate: UnsafeMutableRawPointer) -> Bool {
  unsafe ces_gate_is_frozen(gate) != 0
}

/// This thread's number, 0 to 63.
@inlinable @inline(__always)
package func threadNumber() -> Int { Int(ces_thread_number()) }
