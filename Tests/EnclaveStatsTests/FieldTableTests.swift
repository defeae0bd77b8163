// The library against the table of the page's fields: the publisher writes each field, and the
// statistics in Swift and C have the fields that the table gives them. (MemwatchExporterTests check
// the viewer.)

import Enclave
import EnclaveStats
import Foundation
import TestSupport
import Testing

@Suite struct FieldTableTests {
  private func source(_ path: String) throws -> String {
    try String(contentsOf: Programs.package.appending(path: path), encoding: .utf8)
  }

  /// A field that is never written is always 0, which readers cannot distinguish from a real 0.
  @Test func thePublisherWritesEachField() throws {
    let publishing = Programs.package.appending(path: "Sources/Enclave/Publishing")
    var code =
      try source("Sources/EnclaveStats/StatsPageWriter.swift")
      + source("Sources/EnclaveStats/StatsPageFile.swift")
    for file in try FileManager.default.contentsOfDirectory(atPath: publishing.path)
    where file.hasSuffix(".swift") {
      code += try source("Sources/Enclave/Publishing/\(file)")
    }
    func check<Word: RecordWord & CaseIterable>(_ words: Word.Type, except others: [Word] = []) {
      for word in Word.allCases where !others.contains(where: { $0.rawValue == word.rawValue }) {
        let writes = [
          "set(.\(word),", "set(\n      .\(word),", "\(Word.self).\(word).rawValue",
          "word(.\(word))",
        ]
        #expect(writes.contains { code.contains($0) }, "nobody writes \(Word.record) \(word)")
      }
    }
    // The header's capacities and sizes come from the table of tables.
    check(
      HeaderWord.self,
      except: [
        .magic, .arenaCapacity, .labelCapacity, .chunkCapacity, .secretCapacity, .eventCapacity,
        .vaultCapacity, .mapCapacity, .arenaBytes, .labelBytes, .chunkBytes, .secretBytes,
        .eventBytes, .vaultBytes, .mapBytes,
      ])
    check(ProcessWord.self, except: [.sequence])
    check(CallWord.self, except: [.sequence])
    check(ArenaWord.self, except: [.sequence])
    check(LabelWord.self, except: [.sequence])
    check(ChunkWord.self, except: [.sequence])
    check(SecretWord.self, except: [.sequence])
    check(EventWord.self, except: [.sequence])
    check(VaultWord.self, except: [.sequence])
    check(MapWord.self, except: [.sequence])
  }

  @Test func statisticsMatchTheFieldTable() throws {
    let declared = Set(ArenaWord.allCases.compactMap(\.field.statistic))
    // Statistics that the page has in another form, or not at all.
    let further: Set = ["retiredSlots", "isFrozen", "isSealed", "protectionKey"]
    let arena = try Arena("fields", Arena.Options(lock: .off))
    let members = Set(Mirror(reflecting: arena.statistics).children.compactMap(\.label))
    #expect(members == declared.union(further))

    let header = try source("Sources/CEnclave/include/enclave.h")
    let start = try #require(header.range(of: "typedef struct enclave_statistics {"))
    let end = try #require(header.range(of: "} enclave_statistics;"))
    let body = header[start.upperBound..<end.lowerBound]
      .replacing(/\/\*.*?\*\//, with: "")
    let names = Set(
      body.split(separator: ";").flatMap { line in
        line.split(separator: ",").compactMap {
          $0.split(whereSeparator: \.isWhitespace).last.map(String.init)
        }
      })
    func snakeCase(_ name: String) -> String {
      name.reduce(into: "") { $0 += $1.isUppercase ? "_" + $1.lowercased() : String($1) }
    }
    #expect(names == Set(members.map(snakeCase)).union(["struct_size"]))
  }
}
