// Reading snapshots of schema memwatch/1.

import EnclaveSystem

extension Value {
  private static let version1 = "memwatch/1"

  /// The snapshot that this document holds, in the terms of memwatch/2; nil if it is none. Members
  /// that memwatch/1 did not have are missing.
  package var asSnapshot: Value? {
    switch self["schema"] {
    case .text(Self.schema):
      return self["document"] == .text(DocumentKind.snapshot.rawValue) ? self : nil
    case .text(Self.version1):
      guard case .object = self["process"] else { return nil }
      return upgraded
    default: return nil
    }
  }

  /// A member of an object.
  package subscript(name: String) -> Value? {
    guard case .object(let members) = self else { return nil }
    return members.first { $0.0 == name }?.1
  }

  private var upgraded: Value {
    changing([
      "schema": { _ in [("schema", .text(Self.schema)), ("document", .text("snapshot"))] },
      "process": { $0.renaming(["stateDetail": "message"]).as("process") },
      "memlock": {
        $0.renaming([
          "softLimit": "softLimitBytes", "hardLimit": "hardLimitBytes",
          "unlimited": "softUnlimited", "locked": "lockedBytes",
          "lockedByArenas": "lockedByArenasBytes", "lockedByOthers": "lockedByOthersBytes",
          "headroom": "headroomBytes", "nextChunk": "nextChunkBytes",
          "peakLockedByArenas": "peakLockedByArenasBytes",
        ]).changing([
          "binds": { [("binds", $0 == .text("yes") ? .bool(true) : $0.falseOrNull)] }
        ]).as("memlock")
      },
      "maps": {
        $0.renaming([
          "inUse": "mapsInUse", "limit": "mapsLimit", "byArenas": "mapsByArenas",
          "headroom": "mapsFree",
        ]).as("maps")
      },
      "problems": {
        $0.mapping {
          $0.renaming(["text": "message", "fix": "advice", "keep": "permanentAdvice"])
        }.as("problems")
      },
      "audit": { $0.upgradedAudit.as("audit") },
      "arenas": { $0.mapping(\.upgradedArena).as("arenas") },
      "vaults": {
        $0.mapping { $0.changing(["cipher": { $0.lowercased.as("cipher") }]) }.as("vaults")
      },
      "calls": { $0.mapping(\.upgradedCall).as("calls") },
      "events": { $0.mapping { $0.renaming(["call": "function"]).namingErrno() }.as("events") },
    ]).markingUnrecognizedCodes
  }

  private var upgradedCall: Value {
    let known = SystemCall.allCases.first {
      self["function"] == .text($0.function) && self["purpose"] == .text($0.purpose)
    }
    guard case .object(let members) = renaming(["purpose": "message"]).namingErrno() else {
      return self
    }
    let call = known.map { Value.text($0.wordInDocuments) } ?? .unrecognized(0)
    return .object([("call", call)] + members)
  }

  private var upgradedAudit: Value {
    renaming(["reason": "message", "regions": "regionCount"]).changing([
      "scope": { ($0 == .text("totals only") ? .text("totals") : $0).as("scope") },
      "findings": {
        $0.mapping {
          $0.renaming([
            "claim": "claimMessage", "kernel": "kernelMessage", "cause": "causeMessage",
            "fix": "advice",
          ])
        }.as("findings")
      },
    ])
  }

  private var upgradedArena: Value {
    renaming(["audit": "verdict"]).changing([
      "state": { ($0 == .text("n/a") ? .text("unknown") : $0.lowercased).as("state") },
      "gate": {
        guard case .text(let text) = $0, text.hasPrefix("key ") else { return $0.as("gate") }
        let number = UInt64(text.dropFirst(4)).map { Value.number($0) } ?? .null
        return [("gate", .text("key")), ("keyNumber", number)]
      },
      "lock": {
        $0.renaming(["failedCall": "failedFunction", "limitThen": "limitThenBytes"]).as("lock")
      },
      "sizes": { $0.mapping { $0.renaming(["payload": "payloadBytes"]) }.as("sizes") },
      "chunks": {
        $0.mapping {
          $0.renaming(["kind": "layout"]).namingErrno().changing([
            "pages": {
              $0.renaming([
                "holding": "holdingPages", "open": "openPages", "stuck": "stuckPages",
                "secrets": "secretCount",
              ]).as("pages")
            }
          ])
        }.as("chunks")
      },
      "labels": {
        $0.mapping {
          $0.renaming(["minimumSize": "minimumBytes", "maximumSize": "maximumBytes"])
        }.as("labels")
      },
    ])
  }

  // MARK: - Changing trees

  private func `as`(_ name: String) -> [(String, Value)] { [(name, self)] }

  private var falseOrNull: Value { self == .text("no") ? .bool(false) : .null }

  private var lowercased: Value {
    guard case .text(let text) = self else { return self }
    return .text(text.lowercased())
  }

  private func mapping(_ change: (Value) -> Value) -> Value {
    guard case .list(let items) = self else { return self }
    return .list(items.map(change))
  }

  private func renaming(_ names: [String: String]) -> Value {
    guard case .object(let members) = self else { return self }
    return .object(members.map { (names[$0.0] ?? $0.0, $0.1) })
  }

  /// Replaces members by others.
  private func changing(_ changes: [String: (Value) -> [(String, Value)]]) -> Value {
    guard case .object(let members) = self else { return self }
    return .object(members.flatMap { name, value in changes[name]?(value) ?? [(name, value)] })
  }

  /// Adds the name of each errno.
  private func namingErrno() -> Value {
    func named(_ name: String) -> (Value) -> [(String, Value)] {
      {
        guard case .number(let number) = $0, let errno = Int32(exactly: number) else {
          return [(name, $0), (name + "Name", .null)]
        }
        return [(name, $0), (name + "Name", .text(errnoName(errno)))]
      }
    }
    return changing(["errno": named("errno"), "lastErrno": named("lastErrno")])
  }

  /// `?7` stood for a code that was not known.
  private var markingUnrecognizedCodes: Value {
    let codes = [
      "addresses", "layout", "gate", "backing", "lockPolicy", "lockState", "protectionState",
      "sealState", "forkProtection", "dumpProtection", "origin", "kind", "wipe", "cipher",
    ]
    switch self {
    case .object(let members):
      return .object(
        members.map { name, value in
          if codes.contains(name), case .text(let text) = value, text.hasPrefix("?"),
            let code = UInt64(text.dropFirst())
          {
            return (name, .unrecognized(code))
          }
          return (name, value.markingUnrecognizedCodes)
        })
    case .list(let items): return .list(items.map(\.markingUnrecognizedCodes))
    case .null, .bool, .number, .text, .unrecognized: return self
    }
  }
}
