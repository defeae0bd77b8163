// Requirements of `memwatch check`, and whether they hold.

import EnclaveStats

/// One requirement of `memwatch check`.
package struct Requirement: Equatable, Sendable {
  package enum Kind: String, CaseIterable, Sendable {
    case locked
    case nodump
    case forkSafe = "fork-safe"
    case gated
    case closedWhenIdle = "closed-when-idle"
    case guarded
    case notSwapped = "not-swapped"
    case noFindings = "no-findings"
    case noProblems = "no-problems"
    case noDebugger = "no-debugger"
    case notDumpable = "not-dumpable"
    case emergencyWipe = "emergency-wipe"
    case sealed
    case frozen
    case arena
    case headroom
    case noOpenLongerThan = "no-open-longer-than"

    /// The placeholder after `=`, for the usage.
    package var argument: Argument? {
      switch self {
      case .sealed, .frozen, .arena: .name
      case .headroom: .size
      case .noOpenLongerThan: .time
      default: nil
      }
    }
  }
  package enum Argument: String, Sendable {
    case name = "NAME"
    case size = "SIZE"
    case time = "TIME"
  }
  package var kind: Kind
  package var name = ""
  /// Bytes or milliseconds.
  package var amount: UInt64 = 0
  package var text: String

  /// What is wrong with a text that is meant as a requirement.
  package enum Mistake: Error, Equatable {
    case unknown
    /// Its value is missing.
    case missing(Argument)
    /// It takes no value.
    case superfluous
    case notA(Argument, String)
  }

  /// The default requirements.
  package static let usual = ["locked", "nodump", "fork-safe", "no-problems", "no-findings"]
    .compactMap { try? Requirement($0) }

  /// Parses a requirement.
  package init(_ text: String) throws(Mistake) {
    let parts = text.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
      .map { String($0) }
    guard let kind = Kind(rawValue: parts[0]) else { throw .unknown }
    if kind.argument == nil, parts.count > 1 { throw .superfluous }
    if let argument = kind.argument, parts.count < 2 || parts[1].isEmpty {
      throw .missing(argument)
    }
    self.kind = kind
    self.text = text
    guard let argument = kind.argument else { return }
    switch argument {
    case .name: name = parts[1]
    case .size:
      guard let size = Self.size(parts[1]) else { throw .notA(argument, parts[1]) }
      amount = size
    case .time:
      guard let time = Self.milliseconds(parts[1]) else { throw .notA(argument, parts[1]) }
      amount = time
    }
  }

  /// Parses `64KiB`, `1MiB`, `4096`: binary units, or bytes; below 2^32 of them.
  private static func size(_ text: String) -> UInt64? {
    let units: [(String, UInt64)] = [
      ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1), ("", 1),
    ]
    for (unit, factor) in units where text.hasSuffix(unit) {
      guard let number = UInt64(text.dropLast(unit.count)), number < 1 << 32 else { return nil }
      return number * factor
    }
    return nil
  }

  private static func milliseconds(_ text: String) -> UInt64? {
    let units: [(String, UInt64)] = [("ms", 1), ("s", 1000), ("m", 60_000)]
    for (unit, factor) in units where text.hasSuffix(unit) {
      guard let number = UInt64(text.dropLast(unit.count)), number < 1 << 32 else { return nil }
      return number * factor
    }
    return nil
  }

  /// Every form of requirement, for the usage.
  package static var forms: [String] { Kind.allCases.map(\.form) }
}

extension Requirement.Kind {
  /// `headroom=SIZE`.
  fileprivate var form: String { rawValue + (argument.map { "=\($0.rawValue)" } ?? "") }
}

extension Requirement.Mistake {
  /// - Parameter text: what was meant as a requirement.
  package func explanation(of text: String) -> String {
    let text = SafeText(text).string
    let kind = Requirement.Kind(rawValue: String(text.prefix { $0 != "=" }))
    return switch self {
    case .unknown:
      "unknown requirement \(text); valid requirements: \(Requirement.forms.joined(separator: ", "))"
    case .missing(let argument): "\(text) needs a value: \(kind?.form ?? "") (\(argument.format))"
    case .superfluous: "\(text): \(kind?.rawValue ?? "it") takes no value"
    case .notA(let argument, let value):
      "\(text): \(SafeText(value)) is not \(argument.format)"
    }
  }
}

extension Requirement.Argument {
  fileprivate var noun: String {
    switch self {
    case .name: "name"
    case .size: "size"
    case .time: "time"
    }
  }

  fileprivate var format: String {
    switch self {
    case .name: "the name of an arena"
    case .size: "a number of bytes, or a number with KiB, MiB or GiB: 65536, 64KiB"
    case .time: "a number with a unit: 500ms, 10s, 2m"
    }
  }
}

/// The outcome of checking one requirement.
package struct CheckOutcome: Equatable, Sendable {
  package enum Word: String, Sendable {
    case ok, broken
    /// It cannot be determined here.
    case unknown = "n/a"
  }
  package var requirement: Requirement
  package var word: Word
  /// What was observed.
  package var text: String
  /// Claimed by the page; the kernel cannot confirm it.
  package var isClaimed = false
  /// No arena has the requested name.
  package var isAbsent = false
}

extension Snapshot {
  /// Checks requirements against the snapshot and its audit.
  package func check(_ requirements: [Requirement]) -> [CheckOutcome] { requirements.map(check) }

  private func check(_ requirement: Requirement) -> CheckOutcome {
    var judge = Judge(requirement: requirement, snapshot: self)
    switch requirement.kind {
    case .locked:
      judge.each(.notLocked, .notMapped) { $0.lockState.map { $0 == .locked } }
    case .nodump: judge.each(.inCoreDumps) { $0.dumpProtection.map { $0 == .excluded } }
    case .forkSafe:
      judge.each(.notWipedOnFork, .childHasCopy) {
        $0.forkProtection.map { $0 == .zeros || $0 == .absent }
      }
    case .gated: judge.each(.keyDiffers) { $0.gate.map { $0 != .ungated } }
    case .closedWhenIdle:
      judge.each(.openPages) { arena in
        guard let open = arena.openWindows, let state = arena.protectionState else { return nil }
        return open > 0 || state == .closed
      }
      // PKRU is not in /proc: the pages' key is visible, but not whether it is closed.
      judge.claimed = arenas.contains { $0.gate?.isKey ?? false }
    case .guarded: judge.each(.guardMissing) { $0.guardPages.map { $0 > 0 } }
    case .notSwapped: judge.each(.swapped) { _ in true }
    case .noFindings:
      let found = audit?.findings.filter(\.isDifference) ?? []
      let isWhole = audit?.scope == .arenas && (audit?.unconfirmed ?? 0) == 0 && listsEverything
      judge.whole(
        isWhole || !found.isEmpty ? found.isEmpty : nil,
        found.isEmpty
          ? auditCounts + (listsEverything ? "" : "; not everything is listed")
          : found.map { "\($0.kind.rawValue): \($0.kernel)" }
            .joined(separator: "; "))
    case .noProblems:
      let found = problems.filter { $0.severity <= .differs }
      judge.whole(
        found.isEmpty && !listsEveryArena ? nil : found.isEmpty,
        found.isEmpty
          ? listsEveryArena ? "none" : "not all arenas are listed"
          : found.map(\.text).joined(separator: "; "))
    case .noDebugger:
      judge.whole(
        process.debugger.map { $0 == 0 },
        process.debugger.map { $0 == 0 ? "none" : "pid \($0)" }
          ?? "TracerPid cannot be read")
    case .notDumpable:
      judge.claim(process.isDumpable.map(!), process.isDumpable.map { "dumpable: \($0)" })
    case .emergencyWipe:
      judge.claim(process.emergencyWipe, process.wipeLine)
    case .sealed:
      judge.named(.notSealed, .writable) { $0.sealState.map { $0 == .sealed } }
    case .frozen:
      judge.named(.writable) { $0.sealState.map { $0 == .frozen || $0 == .sealed } }
    case .arena: judge.named { _ in true }
    case .headroom:
      if memlock.binds == .no {
        judge.whole(true, "the limit is not enforced")
      } else {
        judge.whole(
          memlock.headroom.map { $0.count >= requirement.amount },
          memlock.headroom.map { "\(bytes($0)) can still be locked" } ?? "the limit is not known")
      }
    case .noOpenLongerThan:
      let limit = requirement.amount
      let longest = arenas.compactMap { arena in arena.longestOpenMs.map { ($0, arena.name) } }
        .max { $0.0 < $1.0 }
      let isKnown = listsEveryArena && arenas.allSatisfy { $0.longestOpenMs != nil }
      let isLonger = (longest?.0 ?? 0) > limit
      judge.claim(
        isLonger ? false : isKnown ? true : nil,
        longest.map { "longest seen \($0.0) ms, in \($0.1)" } ?? "no arena was open")
    }
    return judge.outcome
  }

  /// The page lists every arena.
  private var listsEveryArena: Bool { arenasUnlisted == 0 }
  /// The page lists every arena and chunk.
  private var listsEverything: Bool { listsEveryArena && chunksUnlisted == 0 }

  private struct Judge {
    let requirement: Requirement
    let snapshot: Snapshot
    var outcome: CheckOutcome
    var claimed: Bool {
      get { outcome.isClaimed }
      set { outcome.isClaimed = newValue && outcome.word == .ok }
    }

    init(requirement: Requirement, snapshot: Snapshot) {
      self.requirement = requirement
      self.snapshot = snapshot
      outcome = CheckOutcome(requirement: requirement, word: .unknown, text: "")
    }

    mutating func whole(_ holds: Bool?, _ text: String) {
      outcome.word = holds.map { $0 ? .ok : .broken } ?? .unknown
      outcome.text = text
    }

    mutating func claim(_ holds: Bool?, _ text: String?) {
      whole(holds, text ?? "not published")
      outcome.isClaimed = holds == true
    }

    /// Judges a claim for each arena, unless the audit contradicts it.
    mutating func each(
      _ kinds: Finding.Kind..., claim: (ArenaSnapshot) -> Bool?
    ) {
      // Arenas without mappings have nothing to check.
      judge(snapshot.arenas.filter { $0.chunkCount != 0 }, kinds, claim)
    }

    mutating func named(
      _ kinds: Finding.Kind..., claim: (ArenaSnapshot) -> Bool?
    ) {
      let wanted = SafeText(requirement.name).string
      let arenas = snapshot.arenas.filter { $0.name.isName(requirement.name) }
      guard !arenas.isEmpty else {
        outcome.isAbsent = true
        return snapshot.listsEveryArena
          ? whole(false, "no arena \(wanted)")
          : whole(nil, "arena \(wanted) is not listed, but not all arenas are")
      }
      judge(arenas, kinds, claim)
    }

    private mutating func judge(
      _ arenas: [ArenaSnapshot], _ kinds: [Finding.Kind], _ claim: (ArenaSnapshot) -> Bool?
    ) {
      var (broken, unknown, claimed): ([String], [String], Int) = ([], [], 0)
      for arena in arenas {
        let finding = snapshot.audit?.findings.first {
          $0.arenaID == arena.id && kinds.contains($0.kind)
        }
        let name = arena.name.string
        if let finding {
          broken.append("\(name): \(finding.kernel)")
        } else if let holds = claim(arena) {
          if !holds { broken.append("\(name): not claimed") }
          if snapshot.audit?.compared.contains(arena.id) != true { claimed += 1 }
        } else {
          unknown.append(name)
        }
      }
      if kinds.contains(.notLocked),
        snapshot.problems.contains(where: { $0.kind == .lockedLessThanClaimed })
      {
        broken.append("VmLck is less than claimed")
      }
      let unlisted = !snapshot.listsEveryArena
      if !broken.isEmpty {
        whole(false, broken.joined(separator: "; "))
      } else if !unknown.isEmpty || unlisted && requirement.name.isEmpty {
        whole(nil, unknown.isEmpty ? "not all arenas are listed" : unknown.joined(separator: ", "))
      } else {
        whole(true, counted(arenas.count, "arena"))
        outcome.isClaimed = claimed > 0
      }
    }
  }
}

extension CheckOutcome {
  package var line: [String] {
    [
      word == .broken ? "BROKEN" : word.rawValue, requirement.text,
      text + (isClaimed ? " (claimed)" : ""),
    ]
  }

  package var document: Value {
    let argument = requirement.kind.argument
    return .object([
      ("requirement", .text(SafeText(requirement.text).string)),
      ("kind", .text(requirement.kind.rawValue)),
      ("name", argument == .name ? Value(SafeText(requirement.name)) : .null),
      ("requiredBytes", argument == .size ? Value(requirement.amount) : .null),
      ("requiredMs", argument == .time ? Value(requirement.amount) : .null),
      ("outcome", .text(word.wordInDocuments)), ("claimedOnly", .bool(isClaimed)),
      ("message", .text(text)),
    ])
  }
}

extension CheckOutcome.Word {
  fileprivate var wordInDocuments: String {
    switch self {
    case .ok: "ok"
    case .broken: "broken"
    case .unknown: "unknown"
    }
  }
}
