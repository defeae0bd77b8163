// The files that the command writes: formats, names, and what is left after an error.

import Foundation
import Glibc
import TestSupport
import Testing

extension CommandTests {
  @Test func filesAreWholeAndNeverOverwritten() throws {
    let scratch = try Scratch(onTmpfs: true)
    let files = try Scratch()
    let (peer, _) = try publishing(scratch, "arena a alpha slab preferred pages")
    let path = files.file("snapshot.json")
    let arguments = ["snapshot", "\(peer.pid)", "--format", "json", "-o", path]
    let first = try Launch([Programs.memwatch] + arguments, stats: scratch).run()
    #expect(first.status == 0)
    let attributes = try FileManager.default.attributesOfItem(atPath: path)
    #expect(attributes[.posixPermissions] as? Int == 0o600)
    let bytes = try Data(contentsOf: URL(fileURLWithPath: path))
    _ = try json(String(decoding: bytes, as: UTF8.self))
    let second = try Launch([Programs.memwatch] + arguments, stats: scratch).run()
    #expect(second.status == 1 && second.error.contains("does not overwrite"))
    #expect(try Data(contentsOf: URL(fileURLWithPath: path)) == bytes)
    let missing = try memwatch(
      "snapshot", "\(peer.pid)", "-o", "/nonexistent/x", stats: scratch)
    #expect(missing.status == 1)
    #expect(try FileManager.default.contentsOfDirectory(atPath: files.path).count == 1)
  }

  @Test func formatFollowsTheNameOfTheFile() throws {
    let scratch = try Scratch(onTmpfs: true)
    let files = try Scratch()
    let (peer, _) = try publishing(scratch, "arena a alpha slab preferred pages")
    /// What a snapshot wrote to a file of this name.
    func written(_ name: String, _ more: String...) throws -> String {
      let path = files.file(name)
      let ended = try Launch(
        [Programs.memwatch, "snapshot", "\(peer.pid)", "-o", path] + more, stats: scratch
      ).run()
      #expect(ended.status == 0, "\(ended.error)")
      return try String(contentsOfFile: path, encoding: .utf8)
    }
    for name in ["a.json", "B.JSON"] {
      #expect(try json(try written(name))["schema"] as? String == "memwatch/2")
    }
    #expect(try written("a.csv").hasPrefix("id,name,"))
    #expect(try written("a.svg").hasPrefix("<svg"))
    let text = try written("a.txt")
    #expect(!text.hasPrefix("{") && text.contains("alpha"))
    for name in ["json", "a.json.old"] { #expect(try !written(name).hasPrefix("{")) }
    // An explicit format wins.
    #expect(try !written("b.json", "--format", "text").hasPrefix("{"))
    #expect(try json(try written("c.txt", "--format", "json"))["schema"] != nil)
  }

  @Test func snapshotsAreWrittenAsCSV() throws {
    let scratch = try Scratch(onTmpfs: true)
    let (peer, _) = try publishing(
      scratch, "arena a alpha slab preferred pages", "arena b größe isolated off none",
      "alloc a 3 40")
    let ended = try memwatch("snapshot", "\(peer.pid)", "--format", "csv", stats: scratch)
    let lines = ended.output.split(separator: "\r\n").map {
      $0.split(separator: ",", omittingEmptySubsequences: false).map { String($0) }
    }
    #expect(ended.status == 0 && lines.count == 3 && Set(lines.map(\.count)).count == 1)
    let count = lines[0].firstIndex(of: "secretCount")!
    #expect(lines[1][1] == "alpha" && lines[1][count] == "3" && lines[2][1] == "größe")
  }

  @Test func labelsCanBeLeftOut() throws {
    let scratch = try Scratch(onTmpfs: true)
    let (peer, _) = try publishing(
      scratch, "arena a alpha slab preferred pages", "alloc a 3 40")
    let arenas = try json(
      try memwatch("snapshot", "\(peer.pid)", "--format", "json", stats: scratch).output)["arenas"]
    let labels = (arenas as! [[String: Any]])[0]["labels"] as! [[String: Any]]
    let label = labels[0]["label"] as! String
    for format in ["text", "json"] {
      let without = try memwatch(
        "snapshot", "\(peer.pid)", "--format", format, "--full", "--no-labels", stats: scratch)
      #expect(!without.output.contains(label))
      #expect(without.output.contains("label 1"))
    }
    // One view, in each format.
    for format in ["text", "json", "csv", "svg"] {
      func view(_ options: String...) throws -> Ended {
        let command = [
          Programs.memwatch, "snapshot", "\(peer.pid)", "--view", "labels", "--format", format,
        ]
        return try Launch(command + options, stats: scratch).run()
      }
      let shown = try view()
      #expect(
        shown.status == 0 && shown.output.contains(label.split(separator: ":")[0]), "\(shown)")
      #expect(shown.output.contains("OLDEST"), "\(shown)")
      // (The picture also says "newest first".)
      let hidden = try view("--no-labels").output
      let count = hidden.ranges(of: label).count
      #expect(count == (format == "svg" ? 1 : 0) && shown.output.ranges(of: label).count > count)
      #expect(try view("--full").status == 64)
    }
  }

  /// A full disk: a tmpfs of two pages in a new mount namespace.
  @Test func aFullDiskLeavesNoFile() throws {
    let scratch = try Scratch(onTmpfs: true)
    let disk = try Scratch()
    let (peer, _) = try publishing(
      scratch, "arena a alpha slab preferred pages", "arena b bravo slab preferred pages",
      "arena c charlie slab preferred pages", "alloc a 9 40", "alloc b 9 40", "alloc c 9 40")
    let script =
      "mount -t tmpfs -o size=8k none \(disk.path) && \(Programs.memwatch) snapshot \(peer.pid) --full -o \(disk.path)/x; echo STATUS $?; ls -A \(disk.path)"
    let result = try Launch(["unshare", "-rm", "sh", "-c", script], stats: scratch).run()
    #expect(result.output == "STATUS 1\n", "\(result.output) \(result.error)")
    #expect(result.error.contains("No space left"))
    let out = try Launch(
      ["sh", "-c", "\(Programs.memwatch) snapshot \(peer.pid) > /dev/full"], stats: scratch
    ).run()
    #expect(out.status == 1 && out.error.contains("ENOSPC"))
  }
}
