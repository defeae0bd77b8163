// The schema of the JSON documents: its closed lists of words are those of the code, each number
// has a unit, and each name has one meaning. Also documents of memwatch/1, converted to it.

import EnclaveStats
import EnclaveSystem
import Foundation
import TestSupport
import Testing

@testable import MemwatchInspector

@Suite struct SchemaTests {
  /// The members of all documents, by name, with their schemas.
  private func members() throws -> [(name: String, schema: [String: Any])] {
    var all: [(String, [String: Any])] = []
    func walk(_ part: Any) {
      guard let object = part as? [String: Any] else { return }
      for (name, schema) in object["properties"] as? [String: [String: Any]] ?? [:] {
        all.append((name, schema))
        walk(schema)
      }
      if let items = object["items"] { walk(items) }
    }
    for kind in DocumentKind.allCases { walk(try Schema.definition(kind.rawValue)) }
    return all
  }

  private func types(_ schema: [String: Any]) -> Set<String> {
    Set(schema["type"] as? [String] ?? [schema["type"] as? String ?? "enum"]).subtracting(["null"])
  }

  @Test func thereIsOneDefinitionForEachDocument() throws {
    let alternatives = try Schema.whole()["oneOf"] as? [[String: String]] ?? []
    #expect(
      alternatives.map { $0["$ref"] } == DocumentKind.allCases.map { "#/$defs/\($0.rawValue)" })
    #expect(try Schema.whole()["$id"] as? String == Value.schema)
  }

  /// Names of bytes, milliseconds and times contain the unit.
  @Test func eachNumberHasAUnit() throws {
    let others: Set = ["count", "id", "pid", "uid", "errno", "signal", "address", "key", "code"]
    for (name, schema) in try members() where types(schema) == ["integer"] {
      let unit = schema["unit"] as? String ?? "none"
      let suggested =
        name.lowercased().contains("bytes")
        ? "bytes"
        : name.hasSuffix("Ms")
          ? "ms"
          : name == "at" || name.hasSuffix("At") || name.hasSuffix("Since")
            ? "ms-since-1970" : nil
      #expect(suggested.map { $0 == unit } ?? others.contains(unit), "\(name): \(unit)")
    }
  }

  @Test func eachNameHasOneMeaning() throws {
    var meanings: [String: Set<String>] = [:]
    for (name, schema) in try members() {
      let what = schema["unit"] as? String ?? schema["text"] as? String ?? ""
      meanings[name, default: []].insert("\(types(schema).sorted()) \(what)")
    }
    for (name, found) in meanings { #expect(found.count == 1, "\(name): \(found)") }
  }

  /// All other text is a name, an identifier, or a message for users.
  @Test func wordsAreInLowerCase() throws {
    for (name, schema) in try members() {
      for case let word as String in schema["enum"] as? [Any] ?? [] {
        #expect(word.wholeMatch(of: #/[a-z0-9-]+/#) != nil, "\(name): \(word)")
      }
      guard types(schema) == ["string"] else { continue }
      let text = schema["text"] as? String ?? "none"
      #expect(
        ["name", "identifier", "path", "function", "setting", "message"].contains(text), "\(name)")
      let isMessage = ["message", "advice"].contains { name.lowercased().hasSuffix($0) }
      #expect(isMessage == (text == "message"), "\(name): \(text)")
    }
  }

  /// The words of a member: `list.places[].outcome`.
  private func words(_ path: String) throws -> Set<String> {
    let names = path.split(separator: ".").map { String($0) }
    var at: [String: Any] = try Schema.definition(names[0])
    for name in names.dropFirst() {
      let isList = name.hasSuffix("[]")
      let properties = try #require(at["properties"] as? [String: [String: Any]])
      at = try #require(properties[isList ? String(name.dropLast(2)) : name], "\(path)")
      if isList { at = try #require(at["items"] as? [String: Any]) }
    }
    return Set((at["enum"] as? [Any] ?? []).compactMap { $0 as? String })
  }

  @Test func theSchemasListsMatchTheCode() throws {
    func expect(
      _ path: String, _ cases: [String], sourceLocation: SourceLocation = #_sourceLocation
    ) throws {
      #expect(try words(path) == Set(cases), "\(path)", sourceLocation: sourceLocation)
    }
    func expect<Code: NamedCode>(
      _ path: String, _ code: Code.Type, sourceLocation: SourceLocation = #_sourceLocation
    ) throws {
      try expect(
        path, code.allCases.map(\.wordInDocuments) + ["unrecognized"],
        sourceLocation: sourceLocation)
    }
    let problem = "snapshot.problems[]."
    try expect(problem + "kind", ProblemKind.allCases.map(\.rawValue))
    try expect(problem + "severity", Severity.allCases.map(\.rawValue))
    try expect("snapshot.audit.findings[].kind", Finding.Kind.allCases.map(\.rawValue))
    try expect("snapshot.audit.obstacles[]", Audit.Obstacle.allCases.map(\.rawValue))
    try expect("snapshot.process.state", PublisherState.allCases.map(\.rawValue))
    try expect("snapshot.process.addresses", AddressCode.self)
    try expect("snapshot.process.wipe", EmergencyWipeCode.self)
    let arena = "snapshot.arenas[]."
    try expect(arena + "layout", LayoutCode.self)
    try expect(arena + "backing", BackingCode.self)
    try expect(arena + "lockPolicy", LockPolicyCode.self)
    try expect(arena + "lockState", LockStateCode.self)
    try expect(arena + "protectionState", ProtectionCode.self)
    try expect(arena + "sealState", SealCode.self)
    try expect(arena + "forkProtection", ForkCode.self)
    try expect(arena + "dumpProtection", DumpCode.self)
    try expect(arena + "gate", GateCode.allCases.map { "\($0)" } + ["unrecognized"])
    try expect(arena + "lock.failedCall", SystemCall.self)
    try expect(arena + "chunks[].lockState", LockStateCode.self)
    try expect(arena + "chunks[].layout", LayoutCode.self)
    try expect(arena + "labels[].origin", OriginCode.self)
    try expect("snapshot.vaults[].cipher", CipherCode.self)
    try expect("snapshot.calls[].call", SystemCall.self)
    try expect("snapshot.events[].call", SystemCall.self)
    try expect("snapshot.events[].kind", EventCode.self)
    try expect("check.outcomes[].kind", Requirement.Kind.allCases.map(\.rawValue))
    try expect("diff.differences[].kind", Difference.Kind.allCases.map(\.rawValue))
    try expect("host.facts[].kind", HostFact.Kind.allCases.map(\.rawValue))
    try expect("host.facts[].judgement", HostFact.Judgement.allCases.map(\.rawValue))
    try expect("list.places[].outcome", Location.SearchResult.allCases.map(\.rawValue))
    try expect("list.publishers[].state", PublisherState.allCases.map(\.rawValue))
    try expect("survey.groups[].looksLike", Survey.Owner.allCases.map(\.wordInDocuments))
  }

  // MARK: - memwatch/1

  private func value(_ any: Any) -> Value {
    switch any {
    case let object as [String: Any]:
      .object(object.sorted { $0.key < $1.key }.map { ($0.key, value($0.value)) })
    case let list as [Any]: .list(list.map(value))
    case let text as String: .text(text)
    case let number as NSNumber:
      String(cString: number.objCType) == "c"
        ? .bool(number.boolValue) : .number(number.uint64Value)
    default: .null
    }
  }

  /// Written by memwatch before memwatch/2.
  @Test(arguments: ["before", "after"]) func snapshotsOfVersion1AreInTheTermsOf2(name: String)
    throws
  {
    let file = Programs.package.appending(path: "Tests/EndToEndTests/Version1/\(name).json")
    let old = try JSONSerialization.jsonObject(with: Data(contentsOf: file))
    let upgraded = try #require(value(old).asSnapshot)
    let found = Schema.violations(Schema.decoded(upgraded), try Schema.snapshot())
    // Values that memwatch/1 did not have.
    #expect(found.filter { !$0.hasSuffix(": is missing") } == [])
    #expect(upgraded["memlock"]?["binds"] == .bool(true))
    #expect(upgraded["memlock"]?["headroomBytes"] == .number(0))
    guard case .list(let arenas) = upgraded["arenas"] else { throw Failed("no arenas") }
    #expect(
      arenas.map { $0["state"] }
        == ["ok", "ok", "warning", "ok", "problem", "ok"].map { .text($0) })
  }

  @Test func codesOfVersion1ThatWereNotKnown() throws {
    let arena: [String: Any] = [
      "name": "?7", "layout": "?7", "gate": "key 3", "state": "n/a", "lockState": "locked",
    ]
    let old: [String: Any] = [
      "schema": "memwatch/1", "process": [String: Any](), "arenas": [arena],
    ]
    guard case .list(let arenas) = try #require(value(old).asSnapshot)["arenas"] else {
      throw Failed("no arenas")
    }
    #expect(arenas[0]["name"] == .text("?7") && arenas[0]["layout"] == .unrecognized(7))
    #expect(arenas[0]["gate"] == .text("key") && arenas[0]["keyNumber"] == .number(3))
    #expect(arenas[0]["state"] == .text("unknown"))
  }

  @Test func unknownCodesAreListed() {
    let document = Value.document(
      .snapshot, [("arenas", .list([.object([("layout", .unrecognized(7))])]))]
    ).listingUnrecognizedCodes
    #expect(
      document["unrecognizedCodes"]
        == .list([.object([("path", .text("arenas[0].layout")), ("code", .number(7))])]))
  }
}
