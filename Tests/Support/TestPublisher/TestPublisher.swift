// A process for tests to watch. It reads commands from standard input, one a line, and answers
// each with `ok …` or `error …` on standard output.
//
//   start [plain] [always|never] [one-arena] [N]
//                                   publish, with addresses, one arena, N secrets listed
//   arena SLOT NAME slab|isolated required|preferred|off pages|none [CAPACITY]
//   alloc SLOT COUNT SIZE [fill]    allocate; `fill` writes the pattern of --pattern
//   free SLOT COUNT                 free the last COUNT
//   hold SLOT [read|write]          open the last secret, and keep it open
//   release                         close it again
//   touch SLOT COUNT                open and close the last secret so often
//   destroy SLOT
//   munlock SLOT                    behind the library's back
//   call NAME ADDRESS LENGTH [ARGUMENT]  munlock, mlock, madvise, mprotect or munmap, as other code
//   nodump                          PR_SET_DUMPABLE 0
//   merge                           PR_SET_MEMORY_MERGE 1
//   limit SOFT HARD                 setrlimit
//   fork                            makes a child that waits; its pid
//   exec PATH ARGUMENT…             execve(2), without an answer
//   setuid ID                       setgid and setuid
//   close-page                      the descriptor of the page
//   stop                            end publishing
//   churn SLOT THREADS              threads that allocate and free until the end
//   fault CALL TIMES                debug builds: makes the next calls fail with ENOMEM
//   overflow SLOT                   one byte behind the last secret (gate none), and frees it
//   exit-on-bus, raise-bus          a SIGBUS handler of the program's own; SIGBUS
//   wipe-on-signals                 EmergencyWipe.install
//   storm SLOT pages|none|key       threads that use the last secret in every way until the end
//   crash SLOT fault|trap|abort|kill|stack  in a window to the last secret
//   exit, exit-at-once              exit(3), _exit(2)
//
// Names come from a pool, since labels are literals; `arena-N`, of any N, is copied. With the argument
// `ask` it does something else: Asker.

import CTestSupport
import Enclave
import EnclaveSystem
import Glibc

#if Vault
  import EnclaveVault
#endif

enum Pool {
  static let arenas: [Label] = [
    "alpha", "bravo", "charlie", "delta", "echo", "foxtrot", "golf", "hotel", "india", "juliett",
    "session-tokens", "tls-keys", "größe", "鍵",
    // 72 bytes, of which the page has room for 64.
    "a-name-that-is-longer-than-the-page-has-room-for-ends-where-it-says-END-",
  ]
  /// `arena-1`, `arena-2`, …: for as many arenas as a measurement wants.
  static func numbered(_ name: String) -> Label? {
    name.hasPrefix("arena-") ? unsafe name.withCString { unsafe Label(copying: $0) } : nil
  }
  static let labels: [Label] = ["first", "second", "third", "fourth", "fifth"]
}

struct Failure: Error { var text: String }

/// 32 bytes that are sought for afterwards; each eight of them are unlike any others.
nonisolated(unsafe) var pattern: [UInt8] = []

final class Holder: @unchecked Sendable {
  let started = Gate()
  let ended = Gate()
  let finished = Gate()
}

/// A condition that one thread sets and another waits for.
final class Gate: @unchecked Sendable {
  private let descriptors: [Int32]
  init() {
    var pair: [Int32] = [0, 0]
    _ = unsafe pipe(&pair)
    descriptors = pair
  }
  func set() {
    var byte: UInt8 = 1
    _ = unsafe write(descriptors[1], &byte, 1)
  }
  func wait() {
    var byte: UInt8 = 0
    _ = unsafe read(descriptors[0], &byte, 1)
  }
}

struct Host: ~Copyable {
  var publisher: StatsPublisher?
  var arenas: [String: Arena] = [:]
  var secrets: [String: [SecretReference]] = [:]
  var holder: Holder?
  #if Vault
    var vaults: [String: (vault: Vault, encrypted: [Encrypted])] = [:]
    var model: Model?
  #endif
}

#if Vault
  /// What an array can hold.
  final class Encrypted {
    let secret: EncryptedSecret
    init(_ secret: consuming EncryptedSecret) { self.secret = secret }
  }
#endif

func spawnThread(_ body: @escaping @Sendable () -> Void) {
  final class Box {
    let body: @Sendable () -> Void
    init(_ body: @escaping @Sendable () -> Void) { self.body = body }
  }
  var thread = pthread_t()
  let box = unsafe Unmanaged.passRetained(Box(body))
  _ = unsafe pthread_create(
    &thread, nil,
    { context in
      unsafe Unmanaged<Box>.fromOpaque(context!).takeRetainedValue().body()
      return nil
    }, box.toOpaque())
}

/// syscall(2), which Swift does not import.
func syscall4(
  _ number: Int, _ address: UnsafeMutableRawPointer, _ a: Int, _ b: Int, _ c: Int
) -> Int {
  typealias Call = @convention(c) (Int, UnsafeMutableRawPointer, Int, Int, Int) -> Int
  return unsafe unsafeBitCast(dlsym(nil, "syscall")!, to: Call.self)(number, address, a, b, c)
}

func fill(_ secret: inout Secret) throws {
  do {
    try secret.withMutableBytes { bytes in
      for offset in 0..<bytes.byteCount {
        unsafe bytes.storeBytes(
          of: pattern[offset % pattern.count], toByteOffset: offset, as: UInt8.self)
      }
    }
  } catch { throw Failure(text: "\(error)") }
}

extension Host {
  mutating func run(_ words: [String]) throws -> String {
    func word(_ index: Int) throws -> String {
      guard index < words.count else { throw Failure(text: "too few words") }
      return words[index]
    }
    func number(_ index: Int) throws -> Int {
      guard let number = Int(try word(index)) else { throw Failure(text: "no number") }
      return number
    }
    func arena() throws -> Arena {
      guard let arena = arenas[try word(1)] else { throw Failure(text: "no such arena") }
      return arena
    }
    switch words.first ?? "" {
    case "start":
      var options = StatsPublisher.Options()
      // A second name for tests whose pages all viewers of the machine find.
      options.name = words.contains("elsewhere") ? "test-elsewhere" : "test-publisher"
      // More than any process id.
      if words.contains("numbered") { options.name = "2000000000" }
      // 69 bytes; the 64th is the first of two.
      if words.contains("long") {
        options.name = "a-process-whose-name-is-longer-than-a-page-has-room-for-ends-größe-"
      }
      options.tickMilliseconds = 20
      // As most programs do: named after the command, with the tick that is the default.
      if words.contains("plain") { options = StatsPublisher.Options() }
      if words.contains("always") { options.addresses = .always }
      if words.contains("never") { options.addresses = .never }
      if words.contains("one-arena") { options.listedArenas = 1 }
      if let count = words.last.flatMap({ Int($0) }) { options.listedSecrets = count }
      let started = try StatsPublisher.start(options)
      let path = started.path ?? ""
      publisher = consume started
      return path
    case "stop":
      publisher = nil
      return ""
    case "arena":
      guard let name = Pool.arenas.first(where: { "\($0)" == words[2] }) ?? Pool.numbered(words[2])
      else {
        throw Failure(text: "no such name")
      }
      arenas[words[1]] = try Arena(
        name,
        .init(
          layout: try word(3) == "slab" ? .slab : .isolated,
          lock: try word(4) == "required" ? .required : word(4) == "off" ? .off : .preferred,
          gate: try word(5) == "none" ? .none : try word(5) == "key" ? .key : .pages,
          capacity: words.count > 6 ? Int(words[6]) : nil,
          backing: words.contains("secret") ? .secret : .anonymous))
      secrets[words[1]] = []
      return ""
    case "receive":
      // Bytes that this program sees in the secret alone: they come through a FIFO.
      let arena = try arena()
      var secret = try arena.allocate(byteCount: try number(2))
      let file = unsafe open(try word(3), O_RDONLY)
      defer { close(file) }
      try secret.fill(fromDescriptor: file)
      secrets[words[1]]!.append(SecretReference(secret))
      return ""
    case "copy":
      // The last secret of one arena into another.
      guard let to = arenas[try word(2)], let from = secrets[try word(1)]?.last else {
        throw Failure(text: "no such arena")
      }
      secrets[words[2]]!.append(SecretReference(try from.copy(into: to)))
      return ""
    case "compare":
      guard let a = secrets[try word(1)]?.last, let b = secrets[try word(2)]?.last else {
        throw Failure(text: "no such secret")
      }
      return "\(try a.isEqual(to: b))"
    case "check":
      return "\(try arena().check().count)"
    case "plant":
      // Leaks that a search must find.
      guard let secret = secrets[try word(1)]?.last else { throw Failure(text: "no secret") }
      let place = try word(2)
      let count = secret.byteCount
      let ready = Gate()
      if place == "heap" {
        let copy = UnsafeMutableRawPointer.allocate(byteCount: count, alignment: 16)
        try secret.withBytes { bytes in
          unsafe bytes.withUnsafeBytes {
            unsafe copy.copyMemory(from: $0.baseAddress!, byteCount: count)
          }
        }
        return ""
      }
      spawnThread {
        if place == "register" {
          let value = (try? secret.withBytes { unsafe $0.unsafeLoad(as: UInt64.self) }) ?? 0
          let words = UnsafeMutablePointer<Int32>.allocate(capacity: 2)
          unsafe words.initialize(repeating: 0, count: 2)
          ready.set()
          unsafe ct_hold_in_register(value, words, words + 1)
        } else {
          unsafe withUnsafeTemporaryAllocation(byteCount: count, alignment: 16) { raw in
            try? secret.withBytes { bytes in
              unsafe bytes.withUnsafeBytes {
                unsafe raw.baseAddress!.copyMemory(from: $0.baseAddress!, byteCount: count)
              }
            }
            ready.set()
            _ = pause()
          }
        }
      }
      ready.wait()
      return ""
    #if Vault
      case "vault":
        let cipher: Vault.Cipher? =
          try word(2) == "any" ? nil : word(2) == "aes" ? .aes256gcm : .xchacha20poly1305
        vaults[words[1]] = (try Vault("vault", lock: .preferred, cipher: cipher), [])
        return ""
      case "encrypt":
        // The last secret of an arena, so many times.
        guard let secret = secrets[try word(2)]?.last, let vault = vaults[words[1]]?.vault else {
          throw Failure(text: "no such vault or secret")
        }
        for _ in 0..<(try number(3)) {
          vaults[words[1]]!.encrypted.append(Encrypted(try vault.encrypt(secret)))
        }
        return ""
      case "decrypt":
        guard let arena = arenas[try word(2)], let (vault, encrypted) = vaults[words[1]],
          let last = encrypted.last
        else { throw Failure(text: "no such vault or arena") }
        secrets[words[2]]!.append(SecretReference(try vault.decrypt(last.secret, into: arena)))
        return ""
      case "drop":
        vaults[try word(1)]!.encrypted.removeLast(try number(2))
        return ""
      case "rotate":
        try vaults[try word(1)]!.vault.rotate()
        return ""
      case "tamper":
        unsafe vaults[try word(1)]!.encrypted.last!.secret.withStorage { text, _ in
          unsafe text[0] ^= 1
        }
        return ""
    #endif
    case "exit-on-bus":
      ct_exit_on_bus(99)
      return ""
    case "raise-bus":
      raise(SIGBUS)
      return ""
    case "wipe-on-signals":
      try EmergencyWipe.install()
      return ""
    #if Vault
      case "storm":
        // Threads that copy, free, grow, encrypt, decrypt and rotate, whatever they get, until the
        // end: none of them has the bytes anywhere but in the library.
        guard let secret = secrets[try word(1)]?.last else { throw Failure(text: "no secret") }
        let gate: Arena.Gate = try word(2) == "pages" ? .pages : try word(2) == "key" ? .key : .none
        let slabs = try Arena("slabs", .init(lock: .preferred, gate: gate))
        let pages = try Arena("pages", .init(layout: .isolated, lock: .preferred, gate: gate))
        let vault = try Vault("vault", lock: .preferred, gate: gate)
        spawnThread { while true { _ = try? secret.copy(into: pages) } }
        spawnThread {
          while true {
            var copies: [SecretReference] = []
            for _ in 0..<500 {
              if let copy = try? secret.copy(into: slabs) { copies.append(SecretReference(copy)) }
            }
          }
        }
        spawnThread {
          while true {
            guard let encrypted = try? vault.encrypt(secret) else { continue }
            _ = try? vault.decrypt(encrypted, into: slabs)
          }
        }
        spawnThread {
          while true {
            var held: [Encrypted] = []
            for _ in 0..<3 {
              if let one = try? vault.encrypt(secret) { held.append(Encrypted(one)) }
            }
            try? vault.rotate()
            _ = consume held
          }
        }
        return ""
    #endif
    #if Vault
      case "model":
        // none|pages|key STEPS SEED; then `free`, or `wipe` and `use`.
        switch try word(1) {
        case "free": model!.free()
        case "wipe": EmergencyWipe.wipeEverything()
        case "use": return try model!.useAll()
        case let word:
          let gate: Arena.Gate = word == "pages" ? .pages : word == "key" ? .key : .none
          model = try Model(seed: UInt64(try number(3)), gate: gate)
          return try model!.run(steps: try number(2))
        }
        return ""
    #endif
    case "crash":
      // Inside of a window, with the secret wherever it can be.
      guard let secret = secrets[try word(1)]?.last else { throw Failure(text: "no secret") }
      let how = try word(2).utf8.first!
      try secret.withBytes { bytes in
        unsafe bytes.withUnsafeBytes { unsafe ct_crash_with($0.baseAddress!, CChar(how)) }
      }
      return ""
    case "stop-at-exit":
      // Handlers run in the opposite order: this one, which is there before the first arena, after
      // the library's.
      _ = atexit { raise(SIGSTOP) }
      return ""
    case "freeze":
      try arena().freeze()
      return ""
    case "seal":
      try arena().seal()
      return ""
    case "alloc":
      let arena = try arena()
      for index in 0..<(try number(2)) {
        var secret = try arena.allocate(
          byteCount: try number(3), label: Pool.labels[index % Pool.labels.count])
        if words.contains("fill") { try fill(&secret) }
        secrets[words[1]]!.append(SecretReference(secret))
      }
      return ""
    case "free":
      _ = try arena()
      secrets[words[1]]!.removeLast(min(try number(2), secrets[words[1]]!.count))
      return ""
    case "hold":
      guard let secret = secrets[try word(1)]?.last else { throw Failure(text: "no secret") }
      let holder = Holder()
      self.holder = holder
      spawnThread {
        try? secret.withBytes { _ in
          holder.started.set()
          holder.ended.wait()
        }
        holder.finished.set()
      }
      holder.started.wait()
      return ""
    case "release":
      holder?.ended.set()
      holder?.finished.wait()
      holder = nil
      return ""
    case "touch":
      guard let secret = secrets[try word(1)]?.last else { throw Failure(text: "no secret") }
      for _ in 0..<(try number(2)) { try secret.withBytes { _ in } }
      return ""
    case "destroy":
      let arena = try arena()
      try arena.destroy()
      secrets[words[1]] = nil
      arenas[words[1]] = nil
      return ""
    case "munlock":
      guard let secret = secrets[try word(1)]?.last else { throw Failure(text: "no secret") }
      let page = try secret.withBytes { bytes in
        unsafe bytes.withUnsafeBytes { UInt(bitPattern: $0.baseAddress!) & ~4095 }
      }
      guard unsafe Glibc.munlock(UnsafeRawPointer(bitPattern: page)!, 4096) == 0 else {
        throw Failure(text: "munlock")
      }
      return ""
    case "call":
      // A call of other code of this process: NAME ADDRESS LENGTH [ARGUMENT].
      let address = unsafe UnsafeMutableRawPointer(bitPattern: UInt(try number(2)))!
      let length = try number(3)
      let argument = words.count > 4 ? Int32(try number(4)) : 0
      let answer =
        switch words[1] {
        case "munlock": unsafe Glibc.munlock(address, length)
        case "mlock": unsafe Glibc.mlock(address, length)
        case "madvise": unsafe Glibc.madvise(address, length, argument)
        case "mlockall": Glibc.mlockall(argument)
        case "mprotect": unsafe Glibc.mprotect(address, length, argument)
        case "munmap": unsafe Glibc.munmap(address, length)
        case "pkey_mprotect":
          Int32(truncatingIfNeeded: unsafe syscall4(329, address, length, 3, Int(argument)))
        default: throw Failure(text: "unknown call")
        }
      guard answer == 0 else { throw Failure(text: "\(words[1]): \(errno)") }
      return ""
    case "fork":
      typealias Call = @convention(c) () -> Int32
      let child = unsafe unsafeBitCast(dlsym(nil, "fork")!, to: Call.self)()
      if child == 0 { while true { pause() } }
      return "\(child)"
    case "exec":
      let arguments: [UnsafeMutablePointer<CChar>?] =
        unsafe words.dropFirst().map { unsafe strdup($0) } + [nil]
      _ = unsafe execv(try word(1), arguments)
      throw Failure(text: "exec: \(errno)")
    case "close-page":
      // Not those by which Foundation sees that its child lives.
      guard let path = publisher?.path else { throw Failure(text: "no page") }
      var page = stat()
      var other = stat()
      guard unsafe stat(path, &page) == 0 else { throw Failure(text: "stat: \(errno)") }
      for number in 3..<Int32(1024) {
        if unsafe fstat(number, &other) == 0, other.st_ino == page.st_ino { close(number) }
      }
      return ""
    case "setuid":
      let id = uid_t(try number(1))
      guard setgid(id) == 0, setuid(id) == 0 else { throw Failure(text: "setuid: \(errno)") }
      return ""
    case "nodump", "merge":
      guard let set = unsafe dlsym(nil, "prctl") else { throw Failure(text: "prctl") }
      typealias Call = @convention(c) (Int32, UInt, UInt, UInt, UInt) -> Int32
      let (option, value): (Int32, UInt) = words[0] == "merge" ? (67, 1) : (4, 0)
      guard unsafe unsafeBitCast(set, to: Call.self)(option, value, 0, 0, 0) == 0 else {
        throw Failure(text: "prctl")
      }
      return ""
    case "limit":
      var limit = rlimit(rlim_cur: rlim_t(try number(1)), rlim_max: rlim_t(try number(2)))
      guard unsafe setrlimit(__rlimit_resource_t(__RLIMIT_MEMLOCK.rawValue), &limit) == 0 else {
        throw Failure(text: "setrlimit")
      }
      return ""
    case "churn":
      let arena = try arena()
      for _ in 0..<(try number(2)) {
        spawnThread {
          while true {
            guard var secret = try? arena.allocate(byteCount: 48) else { continue }
            try? secret.withMutableBytes { $0.storeBytes(of: 7, toByteOffset: 0, as: UInt8.self) }
          }
        }
      }
      return ""
    #if DEBUG
      case "fault":
        guard let call = SystemCall.allCases.first(where: { "\($0)" == words[1] }) else {
          throw Failure(text: "no such call")
        }
        FaultPlan.fail(call, errno: 12, times: try number(2))
        return ""
      case "overflow":
        // One byte behind the last secret, which is then freed: ends the process, after the
        // event and the count are on the page.
        guard let secret = secrets[try word(1)]?.popLast() else { throw Failure(text: "no secret") }
        try secret.withBytes { bytes in
          unsafe bytes.withUnsafeBytes {
            unsafe UnsafeMutableRawPointer(mutating: $0.baseAddress! + bytes.byteCount)
              .assumingMemoryBound(to: UInt8.self).pointee ^= 1  // never what was there
          }
        }
        return ""
    #endif
    case "stats":
      let statistics = try arena().statistics
      return "\(statistics.secretCount) \(statistics.bytesInUse) \(statistics.bytesLocked)"
    case "exit":
      exit(0)
    case "exit-at-once":
      _exit(0)
    default:
      throw Failure(text: "unknown command")
    }
  }
}

@main
struct TestPublisher {
  static func main() throws {
    if CommandLine.arguments.count > 1, CommandLine.arguments[1] == "ask" {
      return try Asker.run(Array(CommandLine.arguments.dropFirst(2)))
    }
    unsafe setvbuf(fdopen(1, "w"), nil, _IOLBF, 0)
    if CommandLine.arguments.count > 1 {
      // The pattern comes as a seed, so that it is nowhere else than in the secrets.
      var state = UInt64(CommandLine.arguments[1]) ?? 1
      for _ in 0..<32 {
        state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
        unsafe pattern.append(UInt8(truncatingIfNeeded: state >> 33))
      }
    }
    var host = Host()
    while let line = readLine() {
      let words = line.split(separator: " ").map(String.init)
      let answer: String
      do { answer = "ok " + (try host.run(words)) } catch let failure as Failure {
        answer = "error \(failure.text)"
      } catch { answer = "error \(error)" }
      // The page is as it is now when the answer comes.
      host.publisher?.refresh()
      print(answer)
      fflush(nil)
    }
  }
}
