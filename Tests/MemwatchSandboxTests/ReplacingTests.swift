// The one file that a confined process may replace, and everything that it must not replace.

import EnclaveSystem
import Foundation
import MemwatchSystem
import TestSupport
import Testing

@testable import MemwatchSandbox

@Suite struct ReplacingTests {
  private typealias Driven = BrokerTests.Driven

  private static func replace(_ step: UInt64) -> [UInt8] {
    BrokerTests.message(BrokerRequest.Kind.replace.rawValue, step)
  }

  private func text(_ driven: Driven, _ name: String) throws -> String {
    try String(contentsOf: driven.directory.appending(path: name), encoding: .utf8)
  }

  private func put(_ driven: Driven, _ name: String) throws {
    try Data(name.utf8).write(to: driven.directory.appending(path: name))
  }

  /// A broker without such a file replaces none.
  @Test func replacingNeedsATemporaryFile() throws {
    let driven = try Driven()
    try put(driven, "memwatch.prom")
    for step in [UInt64(0), 1, 2] {
      let answer = try driven.answer(to: Self.replace(step))
      #expect(answer.value == -Int64(EPERM) && !answer.hasFile, "\(step)")
    }
    #expect(driven.files == ["memwatch.prom"])
    #expect(try text(driven, "memwatch.prom") == "memwatch.prom")
  }

  /// A compromised client requests every step, in every order and with every name: other files are
  /// unchanged, none is created, and the target of a link is not written.
  @Test func theExporterReplacesOnlyItsFile() throws {
    let driven = try Driven(
      replacing: ReplaceableFile(name: "memwatch.prom", isRemovedAtEnd: false))
    let others = ["node.prom", "passwd", "target"]
    for name in others { try put(driven, name) }
    for name in ["memwatch.prom", ".memwatch.prom.\(ProcessFacts.pid).tmp"] {
      try FileManager.default.createSymbolicLink(
        atPath: driven.directory.appending(path: name).path, withDestinationPath: "target")
    }
    func othersAreWhole() throws {
      for name in others { #expect(try text(driven, name) == name) }
    }
    // Without a started file nothing is renamed: the temporary file there is not this broker's.
    #expect(try driven.answer(to: Self.replace(1)).value == -Int64(EINVAL))
    #expect(try text(driven, "memwatch.prom") == "target")
    try othersAreWhole()
    for step in [UInt64(3), 255, 1 << 32, .max] {
      #expect(try driven.answer(to: Self.replace(step)).value == -Int64(EINVAL))
    }
    for name in others + ["memwatch.prom", "new.prom", "../x"] {
      for kind in [BrokerRequest.Kind.replace, .create, .finish] {
        for first in [UInt64(0), 1, 2] {
          let message = BrokerTests.message(kind.rawValue, first, name: name)
          let answer = try driven.answer(to: message)
          #expect(answer.value < 0 && !answer.hasFile, "\(kind) \(first) \(name)")
        }
      }
    }
    try othersAreWhole()
    let begun = try driven.answer(to: Self.replace(0))
    #expect(begun.value == 0 && begun.hasFile)
    let again = try driven.answer(to: Self.replace(0))
    #expect(again.value == 0 && again.hasFile)
    #expect(try driven.answer(to: Self.replace(2)).value == 0)
    #expect(driven.files.sorted() == (others + ["memwatch.prom"]).sorted())
    #expect(try text(driven, "memwatch.prom") == "target")
    #expect(try driven.answer(to: Self.replace(0)).value == 0)
    #expect(try driven.answer(to: Self.replace(1)).value == 0)
    #expect(driven.files.sorted() == (others + ["memwatch.prom"]).sorted())
    // The link itself was replaced. The new file is empty, because this test writes nothing.
    #expect(try text(driven, "memwatch.prom") == "")
    #expect(try driven.answer(to: Self.replace(1)).value == -Int64(EINVAL))
    #expect(try text(driven, "memwatch.prom") == "")
    try othersAreWhole()
  }

  /// If the directory could not be opened, requests for new and replaced files get the kernel's
  /// error.
  @Test(arguments: [("absent", ENOENT), ("file/below", ENOTDIR)])
  func theDirectorysErrnoIsKept(component: String, errno: Int32) throws {
    for replaced in [nil, ReplaceableFile(name: "x", isRemovedAtEnd: false)] {
      let directory = FileManager.default.temporaryDirectory.appending(
        path: "broker-\(UUID().uuidString)")
      try FileManager.default.createDirectory(at: directory, withIntermediateDirectories: false)
      defer { try? FileManager.default.removeItem(at: directory) }
      try Data().write(to: directory.appending(path: "file"))
      let driven = try Driven(replacing: replaced, at: directory.appending(path: component))
      let message =
        replaced == nil
        ? BrokerTests.message(BrokerRequest.Kind.create.rawValue, 1, name: "new.txt")
        : Self.replace(0)
      #expect(try driven.answer(to: message).value == -Int64(errno))
    }
  }
}
