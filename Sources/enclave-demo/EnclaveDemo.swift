// A process worth watching: a simulated TLS gateway that keeps its secrets in arenas. Uses only the
// public API of Enclave.
//
//   tls-keys        isolated  written once at start and sealed, then read for each handshake; without
//                             protection keys it is a cipher that closes it
//   db-password     isolated  one secret, encrypted while it is idle
//   vault-main      isolated  the key that it is encrypted under
//   session-tokens  slab      thousands that come and go; outgrows the memlock limit
//   webhooks        slab      a few, opened for moments; one is held open for too long now and then
//   scratch         slab      no lock asked for, no gate; one label of it leaks
//
// It lowers its own memlock limit and drops CAP_IPC_LOCK, so that the kernel really refuses a lock.

import Enclave
import Glibc

#if Sodium
  import EnclaveVault
#endif

/// SplitMix64 (Steele, Lea, Flood, OOPSLA 2014): the same seed gives the same run.
struct SeededGenerator: RandomNumberGenerator {
  var state: UInt64
  mutating func next() -> UInt64 {
    state &+= 0x9e37_79b9_7f4a_7c15
    var z = state
    z = (z ^ (z >> 30)) &* 0xbf58_476d_1ce4_e5b9
    z = (z ^ (z >> 27)) &* 0x94d0_49bb_1331_11eb
    return z ^ (z >> 31)
  }
}

struct Arguments {
  var seed: UInt64 = 1
  var seconds: Double?

  init(_ arguments: [String]) {
    var rest = arguments.dropFirst()[...]
    while let option = rest.popFirst() {
      switch option {
      case "--seed":
        guard let text = rest.popFirst(), let seed = UInt64(text) else {
          Self.fail("--seed takes a number from 0 to 2^64 - 1")
        }
        self.seed = seed
      case "--seconds":
        guard let text = rest.popFirst(), let seconds = Double(text), seconds > 0 else {
          Self.fail("--seconds takes a number above 0")
        }
        self.seconds = seconds
      case "--help", "-h":
        print(Self.usage)
        exit(0)
      default:
        Self.fail("unknown option \(option)")
      }
    }
  }

  static let usage = """
    usage: enclave-demo [--seed N] [--seconds S]

    Keeps made-up secrets in Enclave arenas and publishes a stats page for memwatch.
      --seed N      the same seed gives the same run (default 1)
      --seconds S   ends after S seconds (default: runs until it is ended)
    """

  static func fail(_ message: String) -> Never {
    _ = unsafe (message + "\n" + usage + "\n").withCString { unsafe write(2, $0, strlen($0)) }
    exit(64)
  }
}

@main
struct EnclaveDemo {
  static let memlockLimit: UInt64 = 1 << 20

  static func main() {
    let arguments = Arguments(CommandLine.arguments)
    do {
      restrictLocking()
      try startPublishing()
      var gateway = try Gateway(seed: arguments.seed)
      try gateway.run(for: arguments.seconds)
    } catch {
      complain("enclave-demo: \(error)\n")
      exit(1)
    }
  }

  /// Publishes under this name, whatever the binary is called. Must run before the first arena:
  /// with ENCLAVE_STATS=1 that would start publishing under the command's name.
  static func startPublishing() throws {
    var options = StatsPublisher.Options()
    options.name = "enclave-demo"
    try StatsPublisher.start(options).keepUntilExit()
  }

  /// Lowers RLIMIT_MEMLOCK (soft and hard) and drops the capability that overrides it.
  static func restrictLocking() {
    var limit = rlimit()
    let resource = __rlimit_resource_t(__RLIMIT_MEMLOCK.rawValue)
    guard unsafe getrlimit(resource, &limit) == 0 else { return }
    limit.rlim_max = min(limit.rlim_max, rlim_t(memlockLimit * 4))
    limit.rlim_cur = min(limit.rlim_max, rlim_t(memlockLimit))
    _ = unsafe setrlimit(resource, &limit)
    // Swift cannot import a header for capset(2).
    typealias CapabilityCall =
      @convention(c) (UnsafeMutableRawPointer, UnsafeMutableRawPointer) ->
      Int32
    guard let get = unsafe dlsym(nil, "capget"), let set = unsafe dlsym(nil, "capset") else {
      return
    }
    var header: (version: UInt32, pid: Int32) = (0x2008_0522, 0)
    // Effective, permitted and inheritable sets, low words first.
    var sets: (UInt32, UInt32, UInt32, UInt32, UInt32, UInt32) = (0, 0, 0, 0, 0, 0)
    guard unsafe unsafeBitCast(get, to: CapabilityCall.self)(&header, &sets) == 0 else { return }
    let others = ~(UInt32(1) << 14)
    sets.0 &= others
    sets.1 &= others
    sets.2 &= others
    _ = unsafe unsafeBitCast(set, to: CapabilityCall.self)(&header, &sets)
  }
}

/// Writes to standard error.
func complain(_ message: String) {
  let bytes = Array(message.utf8)
  _ = unsafe bytes.withUnsafeBytes { unsafe write(2, $0.baseAddress, $0.count) }
}

struct Gateway {
  var random: SeededGenerator
  let tlsKeys: Arena
  let database: Arena
  let sessions: Arena
  let webhooks: Arena
  let scratch: Arena
  let keys: [SecretReference]
  #if Sodium
    let vault: Vault
    let password: ParkedSecret
  #else
    let password: SecretReference
  #endif
  var tokens: [SecretReference] = []
  let signing: [SecretReference]
  var buffers: [SecretReference] = []
  /// The leak: allocated, never opened, never freed.
  var forgotten: [SecretReference] = []

  /// A gate whose arenas this machine can seal; with a protection key they are closed, too.
  static var sealable: Arena.Gate {
    #if Sodium
      Capability.protectionKeys.isAvailable ? .key : .cipher
    #else
      .automatic
    #endif
  }

  init(seed: UInt64) throws {
    random = SeededGenerator(state: seed)
    tlsKeys = try Arena("tls-keys", .init(layout: .isolated, lock: .preferred, gate: Self.sealable))
    database = try Arena("db-password", .init(layout: .isolated, lock: .preferred))
    webhooks = try Arena("webhooks", .init(lock: .preferred))
    scratch = try Arena("scratch", .init(lock: .off, gate: .none))
    sessions = try Arena("session-tokens", .init(lock: .preferred))
    var generator = random
    func filled(_ arena: Arena, _ byteCount: Int, _ label: Label) throws -> SecretReference {
      var secret = try arena.allocate(byteCount: byteCount, label: label)
      try fill(&secret, &generator)
      return SecretReference(secret)
    }
    keys = try [
      filled(tlsKeys, 1192, "certificate key"), filled(tlsKeys, 121, "certificate key"),
      filled(tlsKeys, 48, "session ticket key"), filled(tlsKeys, 48, "session ticket key"),
    ]
    // Written once: sealed if this machine can, otherwise frozen.
    do throws(EnclaveError) { try tlsKeys.seal() } catch { try tlsKeys.freeze() }
    #if Sodium
      vault = try Vault("vault-main", lock: .preferred)
      password = ParkedSecret(
        try vault.encrypt(filled(database, 24, "database password")))
    #else
      password = try filled(database, 24, "database password")
    #endif
    signing = try [
      filled(webhooks, 32, "webhook signing"), filled(webhooks, 32, "webhook signing"),
      filled(webhooks, 64, "webhook signing"),
    ]
    random = generator
  }

  mutating func run(for seconds: Double?) throws {
    print("enclave-demo: pid \(getpid()); memlock limit lowered; press ^C to end")
    fflush(nil)
    let clock = ContinuousClock()
    let start = clock.now
    // A mistake worth seeing: a secret that stays open for minutes.
    let holder = HeldSecret(signing[1])
    defer { holder.stop() }
    // Start as if the gateway had been up for a while. The leak comes first: the page lists secrets
    // one by one only until its table is full.
    for _ in 0..<64 { try leak() }
    for _ in 0..<18_000 { try addSession() }
    var round = 0
    while seconds.map({ clock.now - start < .seconds($0) }) ?? true {
      try work(round)
      round += 1
    }
  }

  /// Simulates a twentieth of a second.
  private mutating func work(_ round: Int) throws {
    // Sessions are created faster than they end, up to 20,000.
    for _ in 0..<120 {
      try open(keys[Int(random.next() % 4)])
      try addSession()
    }
    let leaving = tokens.count > 20_000 ? 140 : 90
    for _ in 0..<min(leaving, tokens.count) {
      tokens.swapAt(Int(random.next() % UInt64(tokens.count)), tokens.count - 1)
      tokens.removeLast()
    }
    #if Sodium
      // Decrypted only while it is used; a new key every minute.
      if round % 10 == 0 {
        try open(SecretReference(vault.decrypt(password.secret, into: database)))
      }
      if round % 1200 == 1199 { try vault.rotate() }
    #else
      if round % 10 == 0 { try open(password) }
    #endif
    buffers = try (0..<8).map { _ in
      SecretReference(try scratch.allocate(byteCount: 512, label: "handshake buffer"))
    }
    if round % 10 == 0, forgotten.count < 10_000 { try leak() }
    // Every other second a signature takes a while, with the secret open.
    if round % 40 >= 20 {
      do {
        try signing[0].withBytes { _ in _ = usleep(50_000) }
      } catch { throw error.failure }
    } else {
      _ = usleep(50_000)
    }
  }

  private mutating func leak() throws {
    forgotten.append(SecretReference(try scratch.allocate(byteCount: 32, label: "one-time code")))
  }

  private mutating func addSession() throws {
    let isRefresh = random.next() % 8 == 0
    var token = try sessions.allocate(
      byteCount: isRefresh ? 64 : 32, label: isRefresh ? "oauth refresh" : "http session")
    try fill(&token, &random)
    tokens.append(SecretReference(token))
  }

  private func open(_ secret: SecretReference) throws {
    do {
      try secret.withBytes { bytes in _ = bytes.byteCount }
    } catch { throw error.failure }
  }
}

#if Sodium
  /// A reference to a parked secret, so that a copyable struct can hold it.
  final class ParkedSecret {
    let secret: EncryptedSecret
    init(_ secret: consuming EncryptedSecret) { self.secret = secret }
  }
#endif

func fill(_ secret: inout Secret, _ random: inout SeededGenerator) throws {
  do {
    try secret.withMutableBytes { bytes in
      for offset in 0..<bytes.byteCount {
        bytes.storeBytes(
          of: UInt8(truncatingIfNeeded: random.next()), toByteOffset: offset, as: UInt8.self)
      }
    }
  } catch { throw error.failure }
}

extension AccessError where Body == Never {
  var failure: EnclaveError {
    switch self {
    case .access(let error): error
    }
  }
}
