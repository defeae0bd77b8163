// What an arena's record tells after a refresh, whatever it told before.

import Enclave
import EnclaveStats
import EnclaveSystem
import Foundation
import TestSupport
import Testing

@Suite struct ChangeTests {
  /// Eight windows at one refresh, none at the next, and meanwhile as many further opens as make up
  /// for them in a sum: with each open weighing eight windows, and with both weighing the same.
  @Test(arguments: [1, 8]) func windowsThatEndedAreNotMadeUpForByOpens(further: Int) async {
    await #expect(processExitsWith: .success) { [further = further as Int] in
      let scratch = try Scratch(onTmpfs: true)
      setenv("ENCLAVE_STATS_DIR", scratch.path, 1)
      var options = StatsPublisher.Options()
      // The publisher's own ticks stay out of the way.
      options.tickMilliseconds = 10_000
      let publisher = try StatsPublisher.start(options)
      let published = publisher.path
      let path = try #require(published)
      var reader = try StatsPageReader(OpenFile(reading: path, followingLinks: false))
      let arena = try Arena("changes", .init(lock: .preferred, gate: .pages))
      let secret = SecretReference(try arena.allocate(byteCount: 32))

      func hold(_ windows: Int, _ body: () -> Void) throws {
        if windows == 0 { return body() }
        try secret.withBytes { _ in try hold(windows - 1, body) }
      }
      try hold(8) { publisher.refresh() }
      var record = try reader.read([]).arenas[0]
      #expect(record[.openWindows] == 8 && record[.opens] == 8)

      for _ in 0..<further { try secret.withBytes { _ in } }
      publisher.refresh()
      record = try reader.read([]).arenas[0]
      #expect(record[.openWindows] == 0 && record[.opens] == UInt64(8 + further))
    }
  }
}
