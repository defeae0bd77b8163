// enclave-bench attacks: one list of attacks, run on Enclave and on the installed peers.
//
// Each attack runs in its own process, and the verdict follows from how that ends: `stopped`
// (nothing was read or changed) or `detected` (it happened, and an error or a signal reported it);
// everything else is `silent`. Peers are used as their documentation advises: libsodium's memory is
// closed while nobody uses it.

import Enclave
import Glibc

enum Attacks {
  static let names = [
    "overflow by 1 byte, of 32", "overflow by 1 byte, of 30", "read 1 byte behind 30",
    "overflow by a page", "read while idle", "use after free",
    "read by another thread in a window", "read by a thread created in a window",
    "read in a forked child", "left in a core dump", "lock that fails", "maps used up",
    "discard of write-once pages", "shown in a crash report", "idle contents overwritten",
    "neighbour read during a window", "idle contents found in a core image",
    unlockedPage,
  ]
  static let unlockedPage = "idle contents in an unlocked page"
  static let targets = [
    "enclave", "pages", "cipher", "enclave isolated", "enclave endsAtGuard", "libsodium", "openssl",
    "libgcrypt", "malloc",
  ]

  static let silent: Int32 = 10
  static let detected: Int32 = 11
  static let stopped: Int32 = 12
  static let notInstalled: Int32 = 13
  static let crashes: Int32 = 14
  static let pattern: UInt8 = 0xa5
  nonisolated(unsafe) private static var byteRead: UInt8 = 0

  // MARK: - The table

  static func printTable(_ program: String) {
    print("| attack | " + targets.joined(separator: " | ") + " |")
    print("|---|" + targets.map { _ in "---" }.joined(separator: "|") + "|")
    for attack in names.indices {
      var cells: [String] = []
      for target in targets.indices { cells.append(run(program, attack, target)) }
      print("| \(names[attack]) | " + cells.joined(separator: " | ") + " |")
    }
  }

  private static func run(_ program: String, _ attack: Int, _ target: Int) -> String {
    var arguments = [program, "attack", "\(attack)", "\(target)"]
    if names[attack] == "lock that fails", geteuid() == 0 {
      // Drop CAP_IPC_LOCK, with which locks never fail.
      arguments = ["setpriv", "--bounding-set=-ipc_lock", "--inh-caps=-all"] + arguments
    }
    var pointers = unsafe arguments.map { unsafe strdup($0) }
    unsafe pointers.append(nil)
    var actions = unsafe posix_spawn_file_actions_t()
    unsafe posix_spawn_file_actions_init(&actions)
    unsafe posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0)
    let isReported = names[attack] == "shown in a crash report"
    unsafe setenv("SWIFT_BACKTRACE", isReported ? "enable=yes,color=no" : "enable=no", 1)
    var ends: (read: Int32, write: Int32) = (-1, -1)
    if isReported {
      let opened = unsafe withUnsafeMutableBytes(of: &ends) {
        unsafe pipe($0.bindMemory(to: Int32.self).baseAddress!)
      }
      guard opened == 0 else { return "n/a" }
      unsafe posix_spawn_file_actions_addclose(&actions, ends.read)
      unsafe posix_spawn_file_actions_adddup2(&actions, ends.write, 2)
      unsafe posix_spawn_file_actions_addclose(&actions, ends.write)
    } else {
      unsafe posix_spawn_file_actions_addopen(&actions, 2, "/dev/null", O_WRONLY, 0)
    }
    var pid: pid_t = 0
    guard unsafe posix_spawnp(&pid, arguments[0], &actions, nil, &pointers, environ) == 0 else {
      return "n/a"
    }
    for index in unsafe pointers.indices { unsafe Glibc.free(pointers[index]) }
    close(ends.write)
    let report = isReported ? everything(from: ends.read) : ""
    close(ends.read)
    var status: Int32 = 0
    unsafe waitpid(pid, &status, 0)
    if isReported { return judge(report, status) }
    let signal = status & 0x7f
    if signal != 0 {
      // abort(3) and traps come from the library, faults from the processor.
      return [SIGSEGV, SIGBUS].contains(signal) ? "stopped" : "detected"
    }
    switch (status >> 8) & 0xff {
    case silent: return "**silent**"
    case detected: return "detected"
    case stopped: return "stopped"
    case crashes: return "**crashes later**"
    default: return "n/a"
    }
  }

  /// Reads a descriptor to its end, as text.
  private static func everything(from descriptor: Int32) -> String {
    var bytes: [UInt8] = []
    var chunk = [UInt8](repeating: 0, count: 65536)
    while true {
      let count = unsafe read(descriptor, &chunk, chunk.count)
      guard count > 0 else { break }
      bytes += chunk[..<count]
    }
    return String(decoding: bytes, as: UTF8.self)
  }

  /// Whether a report contains four consecutive bytes of the secret, as a number or as bytes.
  private static func judge(_ report: String, _ status: Int32) -> String {
    guard status & 0x7f == SIGSEGV, report.contains("Registers:") else { return "n/a" }
    return report.contains("a5a5a5a5") || report.contains("a5 a5 a5 a5") ? "**silent**" : "stopped"
  }

  // MARK: - Attacks

  /// Performs an attack in this process.
  static func perform(_ attack: Int, _ number: Int) -> Never {
    if ["lock that fails", unlockedPage].contains(names[attack]) {
      var limit = rlimit(rlim_cur: 65536, rlim_max: 65536)
      unsafe setrlimit(__rlimit_resource_t(__RLIMIT_MEMLOCK.rawValue), &limit)
    }
    let target = target(number, of: names[attack])
    do { try perform(names[attack], target) } catch { exit(detected) }
    exit(silent)
  }

  private static func spy(_ address: UnsafeMutableRawPointer) -> Bool {
    unsafe UnsafeRawPointer(address + 20).load(as: UInt8.self) == pattern
  }

  private static func onAnotherThread(_ body: @escaping @Sendable () -> Void) {
    final class Box {
      let body: @Sendable () -> Void
      init(_ body: @escaping @Sendable () -> Void) { self.body = body }
    }
    var thread = pthread_t()
    unsafe pthread_create(
      &thread, nil,
      { raw in
        unsafe Unmanaged<Box>.fromOpaque(raw!).takeRetainedValue().body()
        return nil
      }, unsafe Unmanaged.passRetained(Box(body)).toOpaque())
    pthread_join(thread, nil)
  }

  private static func perform(_ attack: String, _ target: AttackedMemory) throws {
    // Attack one secret of several: a heap's first or last may adjoin a guard page by chance.
    var several: [UnsafeMutableRawPointer] = unsafe []
    let size = attack.hasSuffix("30") ? 30 : 32
    for _ in 0..<8 { unsafe several.append(try target.allocate(size)) }
    nonisolated(unsafe) let secret = unsafe several[4]
    switch attack {
    case "read 1 byte behind 30":
      unsafe target.open(secret) { unsafe byteRead = ($0 + size).load(as: UInt8.self) }
    case "overflow by 1 byte, of 32", "overflow by 1 byte, of 30":
      // A fault later than this is damage, not protection.
      unsafe target.open(secret) { shown in
        unsafe (shown + size).storeBytes(
          of: (shown + size).load(as: UInt8.self) ^ 1, as: UInt8.self)
      }
      signal(SIGSEGV) { _ in _exit(Attacks.crashes) }
      unsafe target.free(secret)
    case "overflow by a page":
      // A long run of bytes, like a copy with a wrong length.
      unsafe target.open(secret) { _ = unsafe memset($0, 1, 2 << 20) }
      unsafe target.free(secret)
    case "read while idle":
      if unsafe !spy(secret) { exit(stopped) }
    case "use after free":
      unsafe target.free(secret)
      if unsafe !spy(secret) { exit(stopped) }
    case "read by another thread in a window":
      // A thread that existed before the window, and learns the address of the open contents.
      let ends = UnsafeMutablePointer<Int32>.allocate(capacity: 2)
      unsafe pipe(ends)
      nonisolated(unsafe) let descriptors = unsafe ends
      var thread = pthread_t()
      unsafe pthread_create(
        &thread, nil,
        { raw in
          let ends = unsafe raw!.assumingMemoryBound(to: Int32.self)
          var shown: UInt = 0
          unsafe read(ends[0], &shown, MemoryLayout<UInt>.size)
          let address = unsafe UnsafeMutableRawPointer(bitPattern: shown)!
          unsafe exit(Attacks.spy(address) ? Attacks.silent : Attacks.stopped)
        }, UnsafeMutableRawPointer(ends))
      unsafe target.open(secret) { shown in
        var address = UInt(bitPattern: shown)
        unsafe write(descriptors[1], &address, MemoryLayout<UInt>.size)
        pthread_join(thread, nil)
      }
    case "read by a thread created in a window":
      unsafe target.open(secret) { shown in
        nonisolated(unsafe) let shown = unsafe shown
        onAnotherThread { unsafe exit(spy(shown) ? silent : stopped) }
      }
    case "read in a forked child":
      // A child reads a secret that was open at the fork.
      unsafe target.open(secret) { shown in
        let fork = unsafe unsafeBitCast(dlsym(nil, "fork")!, to: (@convention(c) () -> Int32).self)
        let pid = fork()
        if pid == 0 { unsafe _exit(spy(shown) ? silent : stopped) }
        var status: Int32 = 0
        unsafe waitpid(pid, &status, 0)
        exit(status & 0x7f != 0 ? stopped : (status >> 8) & 0xff)
      }
    case "left in a core dump":
      // The kernel excludes pages with this flag: core(5), VmFlags in proc(5).
      unsafe exit(flags(of: secret).contains("dd") ? stopped : silent)
    case "lock that fails":
      // Half a MiB of secrets under a limit of 64 KiB.
      for _ in 0..<512 { _ = unsafe try target.allocate(1024) }
      exit(status("VmLck") >= 512 * 1024 ? stopped : silent)
    case "maps used up":
      useUpMaps()
      for _ in 0..<2000 {
        let address = unsafe try target.allocate(32)
        // Memory without guard or lock was returned without an error.
        if target.name == "libsodium", unsafe !flags(of: address).contains("lo") { exit(silent) }
      }
      exit(stopped)
    case "discard of write-once pages":
      unsafe target.freeze(secret)
      let page = unsafe UnsafeMutableRawPointer(bitPattern: UInt(bitPattern: secret) & ~4095)!
      // MADV_DONTNEED, and MADV_DONTNEED_LOCKED for locked pages.
      if unsafe madvise(page, 4096, 4) != 0, unsafe madvise(page, 4096, 24) != 0 { exit(stopped) }
      unsafe target.open(secret) { unsafe exit(spy($0) ? stopped : silent) }
      exit(silent)
    case "shown in a crash report":
      // Use each library's own protection: this one has a call, the others have none.
      if target.isOurs { try EmergencyWipe.install() }
      unsafe target.open(secret) { unsafe crash(beside: $0) }
    case "idle contents overwritten":
      unsafe (secret + 20).storeBytes(of: pattern ^ 1, as: UInt8.self)
      // The user of the secret now gets other bytes or an error.
      unsafe target.open(secret) { unsafe exit(spy($0) ? stopped : silent) }
    case "neighbour read during a window":
      unsafe target.open(several[3]) { _ in unsafe exit(spy(secret) ? silent : stopped) }
    case "idle contents found in a core image":
      // A debugger's core dump contains all memory: MADV_DONTDUMP only affects the kernel's dumps.
      unsafe exit(isInMemory(secret) ? silent : stopped)
    case unlockedPage:
      // Two MiB of secrets under a limit of 64 KiB.
      for _ in 0..<2048 { _ = unsafe try target.allocate(1024) }
      let last = unsafe try target.allocate(32)
      let isUnlocked = unsafe !flags(of: last).contains("lo")
      unsafe exit(isUnlocked && isInMemory(last) ? silent : stopped)
    default: exit(notInstalled)
    }
  }

  /// Whether the secret lies at an address, read past every protection.
  private static func isInMemory(_ address: UnsafeMutableRawPointer) -> Bool {
    let file = unsafe Glibc.open("/proc/self/mem", O_RDONLY)
    defer { close(file) }
    var bytes = [UInt8](repeating: 0, count: 32)
    return unsafe pread(file, &bytes, 32, off_t(Int(bitPattern: address))) == 32
      && bytes.allSatisfy { $0 == pattern }
  }

  /// Faults while one register holds the secret's address and another its first bytes.
  @inline(never)
  private static func crash(beside secret: UnsafeMutableRawPointer) {
    let nowhere = unsafe UnsafeMutableRawPointer(bitPattern: 8).unsafelyUnwrapped
    let bytes = unsafe secret.loadUnaligned(as: UInt64.self)
    unsafe nowhere.storeBytes(of: bytes, as: UInt64.self)
    unsafe secret.storeBytes(of: bytes &+ 1, as: UInt64.self)
  }

  private static func useUpMaps() {
    let length = 70_000 * 4096
    let base = unsafe mmap(
      nil, length, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)!
    var offset = 4096
    while offset < length, unsafe mprotect(base + offset, 4096, PROT_NONE) == 0 { offset += 8192 }
    // Leave a few, so that the next calls fail at various places.
    for index in 0..<6 { unsafe mprotect(base + 4096 + index * 8192, 4096, PROT_READ) }
  }

  private static func flags(of address: UnsafeMutableRawPointer) -> [Substring] {
    var isInside = false
    for line in text("/proc/self/smaps").split(separator: "\n") {
      let words = line.split(separator: " ")
      let range = words[0].split(separator: "-")
      if range.count == 2, let low = UInt(range[0], radix: 16), let high = UInt(range[1], radix: 16)
      {
        isInside = (low..<high).contains(UInt(bitPattern: address))
      } else if isInside, line.hasPrefix("VmFlags:") {
        return words
      }
    }
    return []
  }

  private static func status(_ key: String) -> Int {
    for line in text("/proc/self/status").split(separator: "\n") where line.hasPrefix(key + ":") {
      return (Int(line.filter(\.isNumber)) ?? 0) * 1024
    }
    return 0
  }

  private static func text(_ path: String) -> String {
    let file = unsafe Glibc.open(path, O_RDONLY)
    defer { close(file) }
    var bytes: [UInt8] = []
    var buffer = [UInt8](repeating: 0, count: 1 << 16)
    while true {
      let count = unsafe read(file, &buffer, buffer.count)
      if count <= 0 { break }
      bytes += buffer[..<count]
    }
    return String(decoding: bytes, as: UTF8.self)
  }
}
