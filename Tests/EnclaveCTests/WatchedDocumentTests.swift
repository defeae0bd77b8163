// The documentation's programs under `memwatch run`, which sets ENCLAVE_STATS=1: publishing that
// the program and the environment both start is one publisher.

import Foundation
import TestSupport
import Testing

@Suite(.waitsForProcesses) struct WatchedDocumentTests {
  static let publishing = CodeBlock.of("swift").filter { $0.text.contains("StatsPublisher.start") }

  /// The programs end quickly. This pauses them at their first line of output, when they have an
  /// arena, a publisher and a secret.
  static let holder = """
    #define _GNU_SOURCE
    #include <dlfcn.h>
    #include <stdio.h>
    #include <stdlib.h>
    #include <time.h>
    size_t fwrite(const void *bytes, size_t size, size_t count, FILE *file) {
      static int held;
      const char *time = getenv("HOLD_MILLISECONDS");
      if (file == stdout && time && !held++) {
        long milliseconds = atol(time);
        nanosleep(&(struct timespec){milliseconds / 1000, milliseconds % 1000 * 1000000}, NULL);
      }
      return ((size_t (*)(const void *, size_t, size_t, FILE *))dlsym(RTLD_NEXT, "fwrite"))(
          bytes, size, count, file);
    }
    """

  @Test func theDocumentationHasPublishingPrograms() { #expect(!Self.publishing.isEmpty) }

  @Test(arguments: publishing) func aProgramThatPublishesIsWatched(block: CodeBlock) throws {
    let scratch = try Scratch(onTmpfs: true)
    let program = try block.program(in: scratch)
    try Self.holder.write(toFile: scratch.file("hold.c"), atomically: true, encoding: .utf8)
    let built = try Launch([
      "cc", "-shared", "-fPIC", "-o", scratch.file("hold.so"), scratch.file("hold.c"), "-ldl",
    ]).run()
    try #require(built.status == 0, "\(built.error)")
    // Pause for longer each time, until memwatch has time to attach. The program itself never
    // fails.
    var milliseconds = 250
    try eventually("it is watched") {
      let stats = try Scratch(onTmpfs: true)
      let ended = try Launch(
        [
          Programs.memwatch, "run", "--check", "--require", "nodump,fork-safe,arena=tls-keys", "--",
          "env", "LD_PRELOAD=" + scratch.file("hold.so"), "HOLD_MILLISECONDS=\(milliseconds)",
          program,
        ], stats: stats
      ).run()
      try #require(!ended.error.contains("already"), "\(ended.error)")
      try #require(ended.output.contains("the first byte is"), "\(ended)")
      milliseconds *= 2
      guard ended.status == 0 else {
        try #require(ended.status == 6 && ended.error.contains("nothing was checked"), "\(ended)")
        return false
      }
      #expect(ended.error.isEmpty, "\(ended.error)")
      return true
    }
  }
}
