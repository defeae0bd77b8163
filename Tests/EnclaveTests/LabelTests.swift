// Labels are compared by their text, which is copied when it is new.

import Glibc
import Testing

@testable import Enclave

@Suite struct LabelTests {
  private func arena() throws -> Arena {
    try Arena("labels", .init(lock: .preferred, gate: .none))
  }

  private func labels(_ arena: Arena) -> [String] {
    arena.reference.withCore { core in
      (0..<core.labels.entries.count).map {
        String(decoding: core.labels.entries[$0].text, as: UTF8.self)
      }
    }
  }

  /// A literal of one scalar has no address.
  @Test func aLabelOfOneLetterIsOneLabel() throws {
    let arena = try arena()
    for _ in 0..<3 { _ = try arena.allocate(byteCount: 16, label: "x") }
    _ = try arena.allocate(byteCount: 16, label: "é")
    #expect(labels(arena) == ["x", "é"])
  }

  /// Equal literals of two modules or macro expansions have different addresses.
  @Test func equalTextsAtTwoAddressesAreOneLabel() throws {
    let arena = try arena()
    let texts = ["a label", "a label", "another"]
    let secrets = try texts.map { text in
      try text.withCString { SecretReference(try allocate(arena, $0)) }
    }
    #expect(labels(arena) == ["a label", "another"])
    #expect(secrets.count == 3)
  }

  private func allocate(_ arena: Arena, _ text: UnsafePointer<CChar>) throws -> Secret {
    // Never freed, so that each has its own address.
    let copy = UnsafePointer(strdup(text)!)
    return try arena.allocate(byteCount: 16, key: LabelKey(Label(unowned: copy)))
  }

  @Test func callSitesAreFilesAndLines() throws {
    let arena = try arena()
    for _ in 0..<2 {
      _ = try arena.allocate(byteCount: 16, file: "Module/Folder/File.swift", line: 12)
    }
    _ = try arena.allocate(byteCount: 16, file: "Other/File.swift", line: 12)
    _ = try arena.allocate(byteCount: 16, file: "Module/Folder/File.swift", line: 13)
    #expect(labels(arena) == ["File.swift:12", "File.swift:13"])
  }

  /// Truncating a text never splits a scalar.
  @Test(arguments: [254, 255, 256, 257, 300]) func aLongNameIsCutBetweenScalars(count: Int) throws {
    let text = String(repeating: "e", count: count - 2) + "é"
    let kept = text.withCString { Label(copying: $0).description }
    #expect(kept == (count <= 255 ? text : String(repeating: "e", count: min(count - 2, 255))))
    #expect(text.withCString { OwnedName(copying: Label(unowned: $0)).description } == kept)
  }
}
