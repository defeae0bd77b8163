// The configuration file and the screen.

import Foundation
import TestSupport
import Testing

@Suite(.waitsForProcesses) struct ConfigurationFileTests {
  @Test func theScreenStartsWithTheConfiguredSettings() throws {
    let scratch = try Scratch(onTmpfs: true)
    let (peer, _) = try publishing(scratch, "arena a alpha slab off none", "alloc a 3 40")
    let files = try Scratch()
    let directory = files.file("memwatch")
    try FileManager.default.createDirectory(
      atPath: directory, withIntermediateDirectories: false)
    try "columns = SECRETS, ARENA\ninterval = 2s\nweight = 3\n".write(
      toFile: directory + "/config", atomically: true, encoding: .utf8)
    let tmux = try Tmux(
      ["env", "XDG_CONFIG_HOME=\(files.path)", Programs.memwatch, "\(peer.pid)"], stats: scratch)
    let screen = try tmux.wait(
      for: "alpha", "config file, line 3: weight = 3: invalid setting")
    #expect(screen.contains { $0.split(separator: " ") == ["SECRETS", "ARENA"] }, "\(screen)")
    #expect(screen[0].contains("every 2 s"))
    try tmux.quit()
  }

  /// `s` in the checklist saves the columns for the next start. A symbolic link to the file is
  /// kept.
  @Test(arguments: [false, true]) func columnsAreSavedFromTheScreen(isLinked: Bool) throws {
    let scratch = try Scratch(onTmpfs: true)
    let (peer, _) = try publishing(scratch, "arena a alpha slab off none", "alloc a 3 40")
    let files = try Scratch()
    let file = files.file("memwatch/config")
    if isLinked {
      try FileManager.default.createDirectory(
        atPath: files.file("memwatch"), withIntermediateDirectories: false)
      try "interval = 2s\n".write(toFile: files.file("mine"), atomically: true, encoding: .utf8)
      try FileManager.default.createSymbolicLink(
        atPath: file, withDestinationPath: files.file("mine"))
    }
    func screen() throws -> Tmux {
      try Tmux(
        ["env", "XDG_CONFIG_HOME=\(files.path)", Programs.memwatch, "\(peer.pid)"], stats: scratch)
    }
    let first = try screen()
    try first.wait(for: "alpha")
    try first.keys(">")
    try first.wait(for: "s save")
    // Remove the second column, and move the first after the third.
    try first.keys("j", "Space", "k", "J", "J", "s")
    try first.wait(for: "saved in the config file")
    let text = try String(contentsOfFile: file, encoding: .utf8)
    #expect(text.contains("columns = LOCK, ARENA, "), "\(text)")
    #expect(text.contains("sort = STATE\n"))
    #expect(!isLinked || text.hasPrefix("interval = 2s\n"))
    #expect(
      isLinked
        == ((try? FileManager.default.destinationOfSymbolicLink(atPath: file)) != nil))
    try first.quit()
    let second = try screen()
    let shown = try second.wait(for: "alpha")
    #expect(
      shown.contains { $0.split(separator: " ").prefix(2) == ["LOCK", "ARENA"] }, "\(shown)")
    try second.quit()
  }
}
