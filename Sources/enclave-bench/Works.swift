// The measured operations, with the public API only.

import Enclave
import Glibc

/// The properties of the measured arena.
struct Variant {
  var name: String
  var layout = Arena.Layout.slab
  var gate = Arena.Gate.automatic
  var publishes = true
  /// Through the C interface.
  var isC = false

  static let all: [Variant] = [
    Variant(name: "enclave"),
    Variant(name: "enclave_unpublished", publishes: false),
    Variant(name: "enclave_key", gate: .key),
    Variant(name: "enclave_pages", gate: .pages),
    Variant(name: "enclave_cipher", gate: .cipher),
    Variant(name: "enclave_nogate", gate: .none),
    Variant(name: "enclave_nogate_unpublished", gate: .none, publishes: false),
    Variant(name: "enclave_c", isC: true),
    Variant(name: "enclave_c_cipher", gate: .cipher, isC: true),
    Variant(name: "enclave_c_nogate", gate: .none, isC: true),
    Variant(name: "enclave_c_nogate_unpublished", gate: .none, publishes: false, isC: true),
    Variant(name: "enclave_isolated", layout: .isolated),
    Variant(name: "enclave_isolated_pages", layout: .isolated, gate: .pages),
    Variant(name: "enclave_isolated_nogate", layout: .isolated, gate: .none),
  ]

  func arena() -> Arena {
    do { return try Arena("bench", .init(layout: layout, lock: .preferred, gate: gate)) } catch {
      fail("\(error)")
    }
  }
}

func complain(_ text: String) { _ = unsafe write(2, text, text.utf8.count) }

func fail(_ text: String) -> Never {
  complain("enclave-bench: \(text)\n")
  exit(7)
}

/// Writes every byte.
@inline(__always)
func fillAll(_ secret: inout Secret) {
  do {
    try secret.withMutableBytes { bytes in
      unsafe bytes.withUnsafeMutableBytes {
        _ = unsafe memset($0.baseAddress!, 0xa5, $0.count)
      }
    }
  } catch { fail("\(error)") }
}

@inline(__always)
func make(_ arena: Arena, _ size: Int) -> Secret {
  do { return try arena.allocate(byteCount: size, label: "bench") } catch { fail("\(error)") }
}

/// Allocate, write every byte, wipe and free.
final class AllocWork: Work {
  let arena: Arena
  let size: Int
  init(_ arena: Arena, _ size: Int) {
    self.arena = arena
    self.size = size
  }
  func step() {
    var secret = make(arena, size)
    fillAll(&secret)
    do { try secret.destroy() } catch { fail("\(error)") }
  }
}

/// Frees one secret, allocates and writes another, with many live.
@safe
final class ChurnWork: Work {
  let arena: Arena
  let size: Int
  let count: Int
  let live: UnsafeMutablePointer<Secret>
  var sequence: Sequence64
  let fillNs: Double

  init(_ arena: Arena, _ size: Int, count: Int, seed: Int) {
    self.arena = arena
    self.size = size
    self.count = count
    sequence = Sequence64(state: 88_172_645_463_325_252 &+ UInt64(seed) &* 7919)
    unsafe live = .allocate(capacity: count)
    let start = now()
    for index in 0..<count {
      var secret = make(arena, size)
      fillAll(&secret)
      unsafe (live + index).initialize(to: secret)
    }
    fillNs = Double(now() - start) / Double(count)
  }

  deinit {
    unsafe live.deinitialize(count: count)
    unsafe live.deallocate()
  }

  func step() {
    let index = Int(sequence.next() % UInt64(count))
    let victim = unsafe (live + index).move()
    do { try victim.destroy() } catch { fail("\(error)") }
    var secret = make(arena, size)
    fillAll(&secret)
    unsafe (live + index).initialize(to: secret)
  }
}

/// Open, read one byte, close.
@safe
final class FlipWork: Work {
  // Not a stored Secret, which would measure Swift's exclusivity checks too.
  let secret: UnsafeMutablePointer<Secret>
  let sum: UnsafeMutablePointer<UInt8>

  init(_ arena: Arena, _ size: Int) {
    unsafe secret = .allocate(capacity: 1)
    unsafe secret.initialize(to: make(arena, size))
    // Under a cipher gate, a secret that was never written has no ciphertext to decrypt.
    unsafe fillAll(&secret.pointee)
    unsafe sum = .allocate(capacity: 1)
    unsafe sum.initialize(to: 0)
  }

  deinit {
    unsafe secret.deinitialize(count: 1)
    unsafe secret.deallocate()
    unsafe sum.deallocate()
  }

  func step() {
    do {
      unsafe sum.pointee &+= try secret.pointee.withBytes { unsafe $0.unsafeLoad(as: UInt8.self) }
    } catch { fail("\(error)") }
  }
}
