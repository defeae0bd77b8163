// memwatch run --adopt.

import Foundation
import TestSupport
import Testing

extension AdoptionTests {
  @Test func runAdoptsACommand() throws {
    let stats = try Scratch(onTmpfs: true)
    let running = try Running(
      Launch(
        [adopting.memwatch, "run", "--adopt", "--", try Adopting.client.get(), "held"],
        stats: stats))
    let child = String(
      decoding: running.output.fileHandleForReading.availableData, as: UTF8.self)
    #expect(Int32(child.trimmingCharacters(in: .whitespacesAndNewlines)) != nil, "\(child)")
    var text = ""
    try eventually("memwatch shows the arenas") {
      text += String(decoding: running.output.fileHandleForReading.availableData, as: UTF8.self)
      return text.contains("(--full: ")
    }
    for arena in ["libsodium", "openssl", "libgcrypt"] {
      #expect(text.contains("\n" + arena), "\(arena): \(text.prefix(2000))")
    }
    try running.input.fileHandleForWriting.close()
    _ = running.output.fileHandleForReading.readDataToEndOfFile()
    running.process.waitUntilExit()
    #expect(running.process.terminationStatus == 0)
  }

  @Test func programsThatCannotBeAdoptedAreReported() throws {
    let scratch = try Scratch()
    try "int main(void) { return 0; }".write(
      toFile: scratch.file("a.c"), atomically: true, encoding: .utf8)
    for flags in [["-static"], ["-static-pie"]] {
      let made = try Launch(
        ["gcc"] + flags + ["-o", scratch.file("a"), scratch.file("a.c")]
      ).run()
      try #require(made.status == 0, "\(made.error)")
      let result = try Launch([adopting.memwatch, "run", "--adopt", "--", scratch.file("a")]).run()
      #expect(result.status == 125, "\(result)")
      #expect(result.error.contains("cannot be adopted: it is statically linked"))
    }
    // Programs for another architecture or loader than the library's.
    let other = scratch.file("other")
    let made = try Launch(
      [
        "gcc", "-Wl,--dynamic-linker=/lib/ld-musl-x86_64.so.1", "-o", other, scratch.file("a.c"),
      ]
    ).run()
    try #require(made.status == 0, "\(made.error)")
    var whole = try Data(contentsOf: URL(filePath: other))
    func expectRefused(_ reason: String) throws {
      let path = scratch.file("refused")
      try? FileManager.default.removeItem(atPath: path)
      try whole.write(to: URL(filePath: path))
      chmod(path, 0o755)
      try "#!\(path)\n".write(
        toFile: scratch.file("script"), atomically: true, encoding: .utf8)
      chmod(scratch.file("script"), 0o755)
      for command in [path, scratch.file("script")] {
        let result = try Launch([adopting.memwatch, "run", "--adopt", "--", command]).run()
        #expect(result.status == 125 && result.error.contains(reason), "\(result)")
      }
    }
    try expectRefused("its C library is not glibc (its loader is /lib/ld-musl-x86_64.so.1)")
    whole[18] = 243  // RISC-V
    try expectRefused("its architecture differs")
    whole[4] = 1
    try expectRefused("it is a 32-bit program")
    // Set-user-ID programs of another user.
    let setUser = scratch.file("b")
    try copyProgram("/usr/bin/true", to: setUser)
    chmod(setUser, 0o4755)
    let own = try Launch([adopting.memwatch, "run", "--adopt", "--", setUser]).run()
    #expect(own.status == 0, "its own user's gains nothing: \(own)")
    if Programs.isRoot {
      chown(setUser, 65534, 65534)
      chmod(setUser, 0o4755)
      let result = try Launch([adopting.memwatch, "run", "--adopt", "--", setUser]).run()
      #expect(result.status == 125 && result.error.contains("it is set-user-ID"), "\(result)")
    }
    // The build folder's memwatch, which has no library beside it.
    let missing = Launch([scratch.file("memwatch"), "run", "--adopt", "--", "true"])
    try copyProgram(Programs.memwatch, to: scratch.file("memwatch"))
    let result = try missing.run()
    #expect(result.status == 125 && result.error.contains("libenclave-adopt.so.1 not found"))
  }
}
