// enclave-bench: measures the library, and prints lines in the format of the peers' harness.
//
//   enclave-bench [--op PREFIX] [--peer SUBSTRING] [--size BYTES] [--batch MS] [--reps N]
//   enclave-bench memory          ordinary and locked memory per secret
//   enclave-bench attacks         the same attacks on this library and on installed peers
//
// Lines: peer<TAB>op<TAB>size<TAB>threads<TAB>ns[<TAB>p99]: nanoseconds per operation and thread.

import CEnclave
import Enclave
import EnclaveC
import Glibc

struct Options {
  var op = ""
  var peer = ""
  var batchMs = 12
  var repetitions = 1
  /// Only this size in bytes; 0: all.
  var size = 0
}

struct Measurement {
  var op: String
  var size: Int
  var threads: Int
  var live = 0
  /// Threads share one arena, but each has its own secrets.
  var sharesArena = true
  /// Runs only if requested by name.
  var isLong = false
  var isVault: Bool { op == "seal" || op.hasPrefix("open") || op.hasPrefix("stream") }

  static let all: [Measurement] = [
    Measurement(op: "alloc", size: 32, threads: 1),
    Measurement(op: "alloc", size: 32, threads: 2),
    Measurement(op: "alloc_two_arenas", size: 32, threads: 2, sharesArena: false),
    Measurement(op: "alloc", size: 4096, threads: 1),
    Measurement(op: "alloc", size: 4096, threads: 2),
    Measurement(op: "alloc", size: 1 << 20, threads: 1),
    Measurement(op: "churn10k", size: 32, threads: 1, live: 10_000),
    Measurement(op: "churn10k", size: 32, threads: 2, live: 10_000),
    Measurement(op: "churn100k", size: 32, threads: 1, live: 100_000, isLong: true),
    Measurement(op: "churn1m", size: 32, threads: 1, live: 1_000_000, isLong: true),
    Measurement(op: "flip", size: 4096, threads: 1),
    // Measured before those with two threads: once a process has run on another processor, closing
    // pages interrupts that processor too.
    Measurement(op: "flip", size: 32, threads: 1),
    Measurement(op: "flip", size: 4096, threads: 2),
    Measurement(op: "flip", size: 32, threads: 2),
    Measurement(op: "seal", size: 32, threads: 1),
    Measurement(op: "seal", size: 4096, threads: 1),
    Measurement(op: "seal", size: 1 << 20, threads: 1),
    Measurement(op: "open", size: 32, threads: 1),
    Measurement(op: "open", size: 4096, threads: 1),
    Measurement(op: "open", size: 1 << 20, threads: 1),
    Measurement(op: "open_over", size: 32, threads: 1),
    Measurement(op: "open_over", size: 4096, threads: 1),
    Measurement(op: "open_over", size: 1 << 20, threads: 1),
    Measurement(op: "stream_write", size: 1 << 20, threads: 1),
    Measurement(op: "stream_read", size: 1 << 20, threads: 1),
  ]
}

#if Sodium
  let hasVaults = true
#else
  let hasVaults = false
#endif

@main
enum EnclaveBench {
  static func main() {
    var options = Options()
    var arguments = Array(CommandLine.arguments.dropFirst())
    if arguments.first == "memory" { return memory() }
    if arguments.first == "attacks" { return Attacks.printTable(CommandLine.arguments[0]) }
    if arguments.count == 3, arguments[0] == "attack", let attack = Int(arguments[1]),
      let target = Int(arguments[2]), Attacks.names.indices.contains(attack),
      Attacks.targets.indices.contains(target)
    {
      Attacks.perform(attack, target)
    }
    while !arguments.isEmpty {
      let name = arguments.removeFirst()
      guard let value = arguments.first else { usage() }
      arguments.removeFirst()
      switch name {
      case "--op": options.op = value
      case "--peer": options.peer = value
      case "--size": options.size = Int(value) ?? 0
      case "--batch": options.batchMs = Int(value) ?? 12
      case "--reps": options.repetitions = Int(value) ?? 1
      default: usage()
      }
    }
    for _ in 0..<options.repetitions { run(options) }
  }

  static func usage() -> Never {
    complain(
      "usage: enclave-bench [--op PREFIX] [--peer SUBSTRING] [--size BYTES] [--batch MS] [--reps N] | memory | attacks\n"
    )
    exit(64)
  }

  static func run(_ options: Options) {
    for variant in Variant.all
    where options.peer.isEmpty || variant.name.contains(options.peer) {
      if variant.gate == .key, !Capability.protectionKeys.isAvailable { continue }
      var publisher: StatsPublisher?
      if variant.publishes {
        do { publisher = try StatsPublisher.start() } catch { fail("\(error)") }
      }
      for measurement in Measurement.all
      where measurement.op.hasPrefix(options.op) || options.op == "fill" && measurement.live > 0 {
        if measurement.isLong, measurement.op != options.op { continue }
        if options.size != 0, measurement.size != options.size { continue }
        // Vaults have no C interface, keep their keys under other gates, and may be excluded from the build.
        if measurement.isVault, variant.isC || variant.gate == .cipher || !hasVaults { continue }
        // Isolated secrets need at least two mappings each, so a process can only have so many.
        if variant.layout == .isolated, measurement.live > 10_000 { continue }
        run(variant, measurement, options)
      }
      _ = consume publisher
    }
  }

  static func run(_ variant: Variant, _ measurement: Measurement, _ options: Options) {
    nonisolated(unsafe) var fill = 0.0
    let arenas = (0..<measurement.threads).map { _ in variant.isC ? nil : variant.arena() }
    let cArenas = (0..<measurement.threads).map { _ in
      variant.isC
        ? CArena(gate: variant.gateOfC) : nil
    }
    let timing = measure(threads: measurement.threads, batchMs: options.batchMs) {
      index -> any Work in
      let place = measurement.sharesArena ? 0 : index
      let share = measurement.live / measurement.threads
      switch (measurement.op, arenas[place], cArenas[place]) {
      case ("flip", let arena?, _): return FlipWork(arena, measurement.size)
      case ("flip", _, let arena?): return CFlipWork(arena, measurement.size)
      #if Sodium
        case (let op, let arena?, _) where measurement.isVault:
          return VaultWork(arena, measurement.size, gate: variant.gate, op: op)
      #endif
      case (let op, let arena?, _) where op.hasPrefix("churn"):
        let work = ChurnWork(arena, measurement.size, count: share, seed: index)
        unsafe fill = work.fillNs
        return work
      case (let op, _, let arena?) where op.hasPrefix("churn"):
        let work = CChurnWork(arena, measurement.size, count: share, seed: index)
        unsafe fill = work.fillNs
        return work
      case (_, let arena?, _): return AllocWork(arena, measurement.size)
      case (_, _, let arena?): return CAllocWork(arena, measurement.size)
      default: fail("no arena")
      }
    }
    let p99 = timing.p99.map { "\t\(number($0))" } ?? ""
    let tail = "\(measurement.size)\t\(measurement.threads)\t"
    print("\(variant.name)\t\(measurement.op)\t\(tail)\(number(timing.ns))\(p99)")
    if measurement.live > 0 {
      let op = "fill" + measurement.op.dropFirst(5)
      print("\(variant.name)\t\(op)\t\(tail)\(number(unsafe fill))")
    }
  }

  static func number(_ value: Double) -> String {
    let tenths = Int((value * 10).rounded())
    return "\(tenths / 10).\(tenths % 10)"
  }

  // MARK: - Memory

  static func status(_ key: String) -> Int {
    guard let file = unsafe fopen("/proc/self/status", "r") else { return 0 }
    defer { unsafe fclose(file) }
    var line = [CChar](repeating: 0, count: 256)
    while unsafe fgets(&line, 256, file) != nil {
      let bytes = line.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }
      let text = String(decoding: bytes, as: UTF8.self)
      if text.hasPrefix(key + ":") {
        return (Int(text.filter(\.isNumber)) ?? 0) * 1024
      }
    }
    return 0
  }

  static func maps() -> Int {
    guard let file = unsafe fopen("/proc/self/maps", "r") else { return 0 }
    defer { unsafe fclose(file) }
    var count = 0
    var byte = unsafe getc(file)
    while byte != EOF {
      if byte == 10 { count += 1 }
      byte = unsafe getc(file)
    }
    return count
  }

  /// Prints the ordinary memory that a million secrets of 32 bytes take, and how many fit in 8 MiB.
  static func memory() {
    let count = 1_000_000
    let handles = UnsafeMutablePointer<Secret>.allocate(capacity: count)
    // Touch the caller's handles first, so that they are not counted.
    let raw = UnsafeMutableRawPointer(handles)
    _ = unsafe memset(raw, 1, count * MemoryLayout<Secret>.stride)
    do {
      let arena = try Arena("million", .init(lock: .preferred, gate: .automatic))
      _ = try arena.allocate(byteCount: 32)
      let (resident, mapsBefore) = (status("VmRSS"), maps())
      let mapped = arena.statistics.bytesMapped
      for index in 0..<count {
        unsafe (handles + index).initialize(
          to: try arena.allocate(byteCount: 32, label: "million"))
      }
      let secretPages = arena.statistics.bytesMapped - mapped
      // Pages that could not be locked are still resident after they were written to.
      let ordinary = status("VmRSS") - resident - secretPages
      print("secrets\t\(count)")
      print("locked bytes a secret\t\(number(Double(secretPages) / Double(count)))")
      print("ordinary bytes a secret\t\(number(Double(ordinary) / Double(count)))")
      print("maps used\t\(maps() - mapsBefore)")
      unsafe handles.deinitialize(count: count)
      let small = try Arena(
        "8 MiB", .init(lock: .preferred, gate: .automatic, capacity: 8 << 20))
      var fitting = 0
      while fitting < count, let secret = try? small.allocate(byteCount: 32, label: "small") {
        unsafe (handles + fitting).initialize(to: secret)
        fitting += 1
      }
      print("secrets of 32 bytes in 8 MiB\t\(fitting)")
      unsafe handles.deinitialize(count: fitting)
    } catch { fail("\(error)") }
  }
}
