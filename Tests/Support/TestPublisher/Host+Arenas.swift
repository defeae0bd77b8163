// Commands about arenas and their secrets.

import CTestSupport
import Enclave
import EnclaveSystem
import Glibc

extension Host {
  /// Runs a command about an arena or its secrets. Returns nil for other commands.
  mutating func arenaCommand() throws -> String? {
    switch words.first ?? "" {
    case "arena":
      guard let name = Pool.arenas.first(where: { "\($0)" == words[2] }) ?? Pool.numbered(words[2])
      else {
        throw Failure(text: "no such name")
      }
      var options = Arena.Options(
        layout: try word(3) == "slab" ? .slab : .isolated,
        lock: try word(4) == "required" ? .required : word(4) == "off" ? .off : .preferred,
        gate: try Pool.gate(word(5)),
        capacity: words.count > 6 ? Int(words[6]) : nil,
        backing: words.contains("secret") ? .secret : .anonymous)
      options.isInheritedByFork = words.contains("inherited")
      arenas[words[1]] = try Arena(name, options)
      secrets[words[1]] = []
      return ""
    case "receive":
      // Bytes from a FIFO, which are only in the secret.
      let arena = try arena()
      var secret = try arena.allocate(byteCount: try number(2))
      let file = unsafe open(try word(3), O_RDONLY)
      defer { close(file) }
      try secret.fill(fromDescriptor: file)
      secrets[words[1]]!.append(SecretReference(secret))
      return ""
    case "copy":
      // Copies the last secret of one arena into another.
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
      // Plants leaks that a search must find.
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
    case "abandon":
      guard let secret = secrets[try word(1)]?.last else { throw Failure(text: "no secret") }
      spawnThread { secret.withSecret { _ = try? $0.handle.openWindow(writing: false) } }
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
      case "overflow":
        // Changes one byte after the last secret and frees it, which ends the process after the
        // event and the count were published.
        guard let secret = secrets[try word(1)]?.popLast() else { throw Failure(text: "no secret") }
        try secret.withBytes { bytes in
          unsafe bytes.withUnsafeBytes {
            unsafe UnsafeMutableRawPointer(mutating: $0.baseAddress! + bytes.byteCount)
              .assumingMemoryBound(to: UInt8.self).pointee ^= 1  // always a change
          }
        }
        return ""
    #endif
    case "stats":
      let statistics = try arena().statistics
      return "\(statistics.secretCount) \(statistics.bytesInUse) \(statistics.bytesLocked)"
    default: return nil
    }
  }
}
