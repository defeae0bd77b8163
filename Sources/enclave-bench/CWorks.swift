// The same operations through the C interface, to measure its overhead.

import CEnclave
import Enclave
import Glibc

/// An arena of the C interface.
@safe
final class CArena: @unchecked Sendable {
  let arena: OpaquePointer

  init(gate: enclave_gate) {
    var options = enclave_options()
    options.struct_size = MemoryLayout<enclave_options>.size
    options.lock = ENCLAVE_LOCK_PREFERRED
    options.gate = gate
    var made: OpaquePointer?
    guard unsafe enclave_arena_create("bench", &options, &made) == ENCLAVE_OK,
      let made = unsafe made
    else { CArena.failLast() }
    unsafe arena = unsafe made
  }

  deinit { unsafe enclave_arena_release(arena) }

  static func failLast() -> Never { unsafe fail(String(cString: enclave_last_error())) }

  @inline(__always)
  func make(_ size: Int) -> UnsafeMutableRawPointer {
    guard let secret = unsafe enclave_allocate(arena, size, 0, label) else { CArena.failLast() }
    var window = unsafe enclave_window()
    guard unsafe enclave_open(secret, ENCLAVE_READ_WRITE, &window) == ENCLAVE_OK else {
      CArena.failLast()
    }
    unsafe memset(window.bytes, 0xa5, size)
    unsafe enclave_close(&window)
    return unsafe secret
  }

  @inline(__always)
  func free(_ secret: UnsafeMutableRawPointer) {
    guard unsafe enclave_free(secret) == ENCLAVE_OK else { CArena.failLast() }
  }

  private let label = unsafe UnsafeRawPointer(("bench" as StaticString).utf8Start)
    .assumingMemoryBound(to: CChar.self)
}

final class CAllocWork: Work {
  let arena: CArena
  let size: Int
  init(_ arena: CArena, _ size: Int) {
    self.arena = arena
    self.size = size
  }
  func step() { unsafe arena.free(arena.make(size)) }
}

@safe
final class CChurnWork: Work {
  let arena: CArena
  let size: Int
  let count: Int
  let live: UnsafeMutablePointer<UnsafeMutableRawPointer>
  var sequence: Sequence64
  let fillNs: Double

  init(_ arena: CArena, _ size: Int, count: Int, seed: Int) {
    self.arena = arena
    self.size = size
    self.count = count
    sequence = Sequence64(state: 88_172_645_463_325_252 &+ UInt64(seed) &* 7919)
    unsafe live = .allocate(capacity: count)
    let start = now()
    for index in 0..<count { unsafe (live + index).initialize(to: arena.make(size)) }
    fillNs = Double(now() - start) / Double(count)
  }

  deinit {
    for index in 0..<count { unsafe arena.free(live[index]) }
    unsafe live.deallocate()
  }

  func step() {
    let index = Int(sequence.next() % UInt64(count))
    unsafe arena.free(live[index])
    unsafe live[index] = unsafe arena.make(size)
  }
}

@safe
final class CFlipWork: Work {
  let arena: CArena
  let secret: UnsafeMutableRawPointer
  let sum: UnsafeMutablePointer<UInt8>

  init(_ arena: CArena, _ size: Int) {
    self.arena = arena
    unsafe secret = arena.make(size)
    unsafe sum = .allocate(capacity: 1)
    unsafe sum.initialize(to: 0)
  }

  deinit {
    unsafe arena.free(secret)
    unsafe sum.deallocate()
  }

  func step() {
    var window = unsafe enclave_window()
    guard unsafe enclave_open(secret, ENCLAVE_READ, &window) == ENCLAVE_OK else {
      CArena.failLast()
    }
    unsafe sum.pointee &+= window.bytes.load(as: UInt8.self)
    unsafe enclave_close(&window)
  }
}

extension Variant {
  var gateOfC: enclave_gate {
    switch gate {
    case .automatic: ENCLAVE_GATE_AUTOMATIC
    case .key: ENCLAVE_GATE_KEY
    case .pages: ENCLAVE_GATE_PAGES
    case .cipher: ENCLAVE_GATE_CIPHER
    case .none: ENCLAVE_GATE_NONE
    }
  }
}
