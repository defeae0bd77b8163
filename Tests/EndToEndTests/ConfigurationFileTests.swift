// The file of settings, with a screen.

import Foundation
import TestSupport
import Testing

@Suite struct ConfigurationFileTests {
  @Test func theScreenBeginsAsTheFileSays() throws {
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
    let screen = try tmux.wait(for: "alpha")
    #expect(screen.contains { $0.split(separator: " ") == ["SECRETS", "ARENA"] }, "\(screen)")
    #expect(screen[0].contains("every 2 s"))
    #expect(screen.contains { $0.contains("config file, line 3: weight = 3: not understood") })
    try tmux.keys("Q")
    try tmux.wait(for: "[STATUS 0]")
  }
}
