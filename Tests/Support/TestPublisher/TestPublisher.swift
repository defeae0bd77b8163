// A process for tests to watch. It reads commands from standard input, one per line, and answers
// each with `ok …` or `error …` on standard output.
//
//   start [plain] [always|never] [one-arena] [N]
//                                   publish, with addresses, one arena, N secrets listed
//   arena SLOT NAME slab|isolated required|preferred|off pages|none [CAPACITY]
//   alloc SLOT COUNT SIZE [fill]    allocate; `fill` writes the pattern of --pattern
//   free SLOT COUNT                 free the last COUNT
//   hold SLOT [read|write]          open the last secret, and keep it open
//   release                         close it again
//   abandon SLOT                    open the last secret in a thread that ends
//   touch SLOT COUNT                open and close the last secret COUNT times
//   destroy SLOT
//   munlock SLOT                    unlock without the library's knowledge
//   call NAME ADDRESS LENGTH [ARGUMENT]  munlock, mlock, madvise, mprotect or munmap, as other code
//   refuse NUMBER                   make the kernel refuse a system call with EPERM
//   nodump                          PR_SET_DUMPABLE 0
//   merge                           PR_SET_MEMORY_MERGE 1
//   limit SOFT HARD                 setrlimit
//   fork                            fork a child that waits; returns its pid
//   exec PATH ARGUMENT…             execve(2), without an answer
//   setuid ID                       setgid and setuid
//   close-page                      close the page's descriptor
//   stop                            end publishing
//   churn SLOT THREADS              threads that allocate and free until the end
//   fault CALL TIMES                debug builds: make the next calls fail with ENOMEM
//   overflow SLOT                   change one byte after the last secret (gate none), and free it
//   exit-on-bus, raise-bus          install the program's own SIGBUS handler; raise SIGBUS
//   wipe-on-signals                 EmergencyWipe.install
//   storm SLOT pages|none|key       threads that use the last secret in every way until the end
//   crash SLOT fault|trap|abort|kill|stack  in a window to the last secret
//   exit, exit-at-once              exit(3), _exit(2)
//
// Names come from a pool, because labels are literals; `arena-N` with any N is copied. For the
// argument `ask` see Asker.

import CTestSupport
import Enclave
import EnclaveSystem
import Glibc

#if Sodium
  import EnclaveVault
#endif

enum Pool {
  static let arenas: [Label] = [
    "alpha", "bravo", "charlie", "delta", "echo", "foxtrot", "golf", "hotel", "india", "juliett",
    "session-tokens", "tls-keys", "größe", "鍵",
    // 72 bytes, of which the page has room for 64.
    "a-name-that-is-longer-than-the-page-has-room-for-ends-where-it-says-END-",
  ]
  /// `arena-1`, `arena-2`, …: for any number of arenas.
  static func numbered(_ name: String) -> Label? {
    name.hasPrefix("arena-") ? unsafe name.withCString { unsafe Label(copying: $0) } : nil
  }
  static func gate(_ word: String) throws -> Arena.Gate {
    switch word {
    case "key": .key
    case "pages": .pages
    case "cipher": .cipher
    case "none": .none
    default: throw Failure(text: "no such gate: \(word)")
    }
  }

  static let labels: [Label] = ["first", "second", "third", "fourth", "fifth"]
}

struct Failure: Error { var text: String }

/// 32 bytes to search for afterwards. Any eight of them are unique.
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
  /// The running command.
  var words: [String] = []
  var publisher: StatsPublisher?
  var arenas: [String: Arena] = [:]
  var secrets: [String: [SecretReference]] = [:]
  var holder: Holder?
  #if Sodium
    var vaults: [String: (vault: Vault, encrypted: [Encrypted])] = [:]
    var model: Model?
  #endif
}

#if Sodium
  /// A reference to a secret, for arrays.
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
    self.words = words
    if let answer = try arenaCommand() { return answer }
    if let answer = try processCommand() { return answer }
    #if Sodium
      if let answer = try vaultCommand() { return answer }
    #endif
    throw Failure(text: "unknown command")
  }

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
}

@main
struct TestPublisher {
  static func main() throws {
    if CommandLine.arguments.count > 1, CommandLine.arguments[1] == "ask" {
      return try Asker.run(Array(CommandLine.arguments.dropFirst(2)))
    }
    unsafe setvbuf(fdopen(1, "w"), nil, _IOLBF, 0)
    if CommandLine.arguments.count > 1 {
      // The pattern is given as a seed, so that it is only in the secrets.
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
      // Publish before answering, so that the page is current.
      host.publisher?.refresh()
      print(answer)
      fflush(nil)
    }
  }
}
