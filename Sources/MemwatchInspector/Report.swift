// Sentences and the text report.

import EnclaveSystem

extension Snapshot {
  /// The worst problem in one sentence, or what was seen to be right. "OK" is never said here:
  /// nothing has compared each arena with the kernel.
  package var verdict: String {
    let real = problems.filter { $0.severity != .note }
    if let worst = real.first {
      let word =
        switch worst.severity {
        case .problem: "PROBLEM"
        case .differs: "DIFFERS"
        case .warning, .note: "WARNING"
        }
      return "\(word) 1/\(real.count)  \(worst.text)"
    }
    if arenas.isEmpty {
      return (arenasUnlisted ?? 0) > 0
        ? "n/a: the arenas are not listed" : "no arenas yet: nothing is protected, nothing is wrong"
    }
    let locked = arenas.filter { $0.lockState == "locked" }.count
    let off = arenas.count { $0.lockState == "off" }
    let kernel =
      memlock.locked == nil ? "VmLck n/a" : "VmLck agrees"
    let without = off == 0 ? "" : ", \(off) asked for none"
    return
      "no problem seen: \(locked) of \(counted(arenas.count, "arena")) locked\(without); "
      + "\(kernel); not audited"
  }

  /// The kernel's side in one line.
  package var kernelLine: String {
    var parts: [String] = []
    if let locked = memlock.locked {
      parts.append(
        locked >= memlock.lockedByArenas
          ? "VmLck \(bytes(locked)) covers the arenas' \(bytes(memlock.lockedByArenas))"
          : "VmLck \(bytes(locked)) is less than the arenas' \(bytes(memlock.lockedByArenas))")
    } else {
      parts.append("VmLck n/a")
    }
    parts.append(
      process.debugger.map { $0 == 0 ? "debugger none" : "debugger \($0)" } ?? "debugger n/a")
    parts.append(process.isDumpable.map { $0 ? "dumpable" : "not dumpable" } ?? "dumpable n/a")
    return parts.joined(separator: "   ")
  }

  package var limitText: String {
    let limit =
      memlock.softIsUnlimited
      ? "unlimited" : memlock.soft.map { bytes($0) } ?? "n/a"
    let binds =
      switch memlock.binds {
      case .yes: "binds"
      case .no: "does not bind"
      case .unknown: "may bind: n/a"
      }
    return "limit \(limit) (\(binds))"
  }

  package var nextChunkText: String {
    guard let next = memlock.nextChunk else { return "next chunk n/a" }
    let answer =
      switch memlock.nextChunkFits {
      case true: "fits"
      case false: "WILL NOT FIT"
      case nil: "n/a"
      }
    return "next chunk \(bytes(next)): \(answer)"
  }

  /// The report: what a person reads first, then every field of the document, one a line.
  package var text: String {
    var lines: [String] = []
    let pid = process.pid.map { "\($0)" } ?? "n/a"
    lines.append(
      "\(process.name)  pid \(pid)  user \(process.user)  \(process.state.rawValue.uppercased())"
        + "  at \(clock(sampledAt, withDate: true))")
    lines.append(verdict)
    for problem in problems {
      if let fix = problem.fix { lines.append("  fix now: \(fix)") }
      if let keep = problem.keep { lines.append("  to keep: \(keep)") }
    }
    lines.append(
      "Memlock  \(limitText)  locked \(memlock.locked.map { bytes($0) } ?? "n/a")"
        + " = arenas \(bytes(memlock.lockedByArenas))"
        + " + other code \(memlock.lockedByOthers.map { bytes($0) } ?? "n/a")"
        + "  free \(memlock.headroom.map { bytes($0) } ?? "n/a")  \(nextChunkText)")
    lines.append(
      "Maps     \(maps.inUse.map { "\($0)" } ?? "n/a") of \(maps.limit.map { "\($0)" } ?? "n/a")")
    lines.append("Kernel   \(kernelLine)")
    lines.append("Wipe     \(process.wipeLine)")
    lines.append("")
    let columns = ["ARENA", "STATE", "LOCK", "PROT", "OPEN", "SEAL", "GATE", "LAYOUT", "SECRETS"]
    let rows = arenas.map { arena in
      [
        arena.name.string, stateWord(of: arena), arena.lockState ?? "n/a",
        arena.protectionState ?? "n/a", count(arena.openWindows), arena.sealState ?? "n/a",
        arena.gate ?? "n/a", arena.layout ?? "n/a", count(arena.secretCount),
        arena.bytesInUse.map { bytes($0) } ?? "n/a",
        arena.bytesLocked.map { bytes($0) } ?? "n/a",
      ]
    }
    lines += table([columns + ["IN USE", "LOCKED"]] + rows)
    if !vaults.isEmpty {
      lines.append("")
      let vaultColumns = [
        "VAULT", "CIPHER", "EPOCH", "ENCRYPTED", "BYTES", "STREAMS", "BYTES", "OLD EPOCH",
        "DECRYPTIONS", "FAILURES",
      ]
      let vaultRows = vaults.map { vault in
        [
          vault.name?.string ?? "n/a", vault.cipher ?? "n/a", count(vault.epoch),
          count(vault.entries), vault.bytes.map { bytes($0) } ?? "n/a",
          count(vault.streams), vault.streamBytes.map { bytes($0) } ?? "n/a",
          count(vault.entriesOfOldEpoch), count(vault.decryptions), count(vault.failures),
        ]
      }
      lines += table([vaultColumns] + vaultRows)
    }
    lines.append("")
    lines.append("Every field (bytes, milliseconds, counts; n/a is not known)")
    for (path, value) in document.leaves { lines.append("\(path): \(plain(value))") }
    return lines.joined(separator: "\n") + "\n"
  }

  private func count(_ number: UInt64?) -> String { number.map { "\($0)" } ?? "n/a" }

  private func plain(_ value: Value) -> String {
    switch value {
    case .null: "n/a"
    case .bool(let flag): flag ? "yes" : "no"
    case .number(let number): "\(number)"
    case .text(let text): text
    case .list, .object: "none"
    }
  }
}

package func counted(_ count: Int, _ noun: String) -> String {
  count == 1 ? "1 \(noun)" : "\(count) \(noun)s"
}

/// Lines of columns that are as wide as their widest cell.
package func table(_ rows: [[String]]) -> [String] {
  guard let first = rows.first else { return [] }
  let widths = first.indices.map { column in rows.map { $0[column].count }.max() ?? 0 }
  return rows.map { row in
    var line = ""
    for (cell, width) in zip(row, widths) {
      line += cell + String(repeating: " ", count: width - cell.count + 2)
    }
    while line.last == " " { line.removeLast() }
    return line
  }
}

/// Local time of day, with the date where asked for.
package func clock(_ realMs: UInt64, withDate: Bool = false) -> String {
  ProcessFacts.localTime(realMs / 1000, withDate: withDate)
}

extension ProcessSnapshot {
  /// What signals do about secrets, or did.
  package var wipeLine: String {
    let signal = endedBySignal.map { " by signal \($0)" } ?? ""
    switch wipe {
    case "done": return "everything was wiped\(signal)"
    case "left": return "everything was wiped\(signal), but windows stayed open for writing"
    case "begun": return "a wipe was begun\(signal), and its end is n/a"
    case let word?: return word
    case nil:
      return emergencyWipe.map {
        $0 ? "signals that end the process wipe first" : "at exit alone: signals wipe nothing"
      } ?? "n/a"
    }
  }
}
