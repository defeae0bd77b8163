// Streams return what was written, and reject what was tampered with.

#if Sodium
  import CTestSupport
  import Enclave
  import EnclaveSystem
  import EnclaveVault
  import Glibc
  import TestSupport
  import Testing

  private let chunk = 100

  /// The test data: each byte is derived from its position.
  private func byte(_ place: Int) -> UInt8 {
    UInt8(truncatingIfNeeded: place &* 131 &+ place >> 8)
  }

  /// The sizes of writes and reads are derived from one seed and the stream's length.
  private let seeded = SeededGenerator(for: "StreamTests")

  private func write(
    _ count: Int, to vault: Vault, _ arena: Arena, stepsUpTo longest: Int = 70
  ) throws -> EncryptedStream {
    var random = seeded.stream(count)
    var writer = try vault.makeStream(through: arena, chunkByteCount: chunk)
    var written = 0
    while written < count {
      let step = Int.random(in: 1...min(longest, count - written), using: &random)
      let bytes = (written..<written + step).map(byte)
      try writer.append(bytes.span.bytes)
      written += step
      let told = writer.byteCount
      #expect(told == written)
    }
    return try writer.finish()
  }

  /// Reads to the end. Returns false if a byte does not match its position.
  private func isRight(
    _ reader: inout EncryptedStreamReader, upTo longest: Int = 77
  ) throws -> Bool {
    var random = seeded.stream(reader.stream.byteCount)
    while true {
      let place = reader.position
      let step = Int.random(in: 1...longest, using: &random)
      let isRight = try reader.withNext(upTo: step) { bytes in
        bytes.byteCount <= step
          && (0..<bytes.byteCount).allSatisfy {
            bytes.unsafeLoad(fromByteOffset: $0, as: UInt8.self) == byte(place + $0)
          }
      }
      guard let isRight else { return place == reader.stream.byteCount }
      guard isRight else { return false }
    }
  }

  @Suite struct StreamTests {
    @Test(arguments: ciphers, [0, 1, 99, 100, 101, 200, 1017])
    func writtenPagesAreReadBack(cipher: Vault.Cipher, count: Int) throws {
      let (vault, arena) = (try vault(cipher), try arena())
      do {
        let stream = try write(count, to: vault, arena)
        #expect(stream.byteCount == count)
        #expect(arena.statistics.secretCount == 0, "the writer's buffer is gone")
        let chunks = max(1, (count + chunk - 1) / chunk)
        #expect(vault.statistics.streams == 1 && vault.statistics.streamBytes == count)
        #expect(vault.statistics.streamChunks == chunks && vault.statistics.entries == 0)
        var reader = try stream.makeReader(through: arena)
        #expect(arena.statistics.bytesInUse == chunk, "one chunk in clear")
        for _ in 0..<2 {
          let isWhole = try isRight(&reader)
          #expect(isWhole)
          reader.seek(to: 0)
        }
        // Read from any position into a secret larger than a chunk.
        var target = try arena.allocate(byteCount: 250)
        var random = seeded.stream(~count)
        for _ in 0..<50 {
          let place = reader.seek(to: Int.random(in: 0...count + 5, using: &random))
          let received = try reader.read(over: &target)
          #expect(received == min(250, count - place))
          let isSame = try target.withBytes { bytes in
            (0..<received).allSatisfy {
              bytes.unsafeLoad(fromByteOffset: $0, as: UInt8.self) == byte(place + $0)
            }
          }
          #expect(isSame)
        }
        try vault.rotate()
        #expect(vault.isOldKeyWiped && vault.statistics.entriesOfOldEpoch == 0)
        reader.seek(to: 0)
        let isWhole = try isRight(&reader)
        #expect(isWhole)
      }
      #expect(vault.statistics.streams == 0 && vault.statistics.streamChunks == 0)
      #expect(vault.statistics.streamBytes == 0 && arena.statistics.secretCount == 0)
    }

    /// Secrets and descriptors as sources. A dropped writer leaves nothing.
    @Test func secretsAndDescriptorsAreStreamSources() throws {
      let (vault, arena) = (try vault(), try arena())
      var writer = try vault.makeStream(through: arena, chunkByteCount: chunk)
      var secret = try arena.allocate(byteCount: 130)
      try secret.withMutableBytes { bytes in
        bytes.withUnsafeMutableBytes { raw in
          for place in raw.indices { raw[place] = byte(place) }
        }
      }
      try writer.append(secret)
      var ends: [Int32] = [0, 0]
      try #require(pipe(&ends) == 0)
      let rest = (130..<1000).map(byte)
      #expect(Glibc.write(ends[1], rest, rest.count) == rest.count)
      close(ends[1])
      try writer.append(fromDescriptor: ends[0])
      close(ends[0])
      #expect(throws: EnclaveError.self) { try writer.append(fromDescriptor: -1) }
      let stream = try writer.finish()
      let again = try writer.finish()
      #expect(stream === again)
      #expect(throws: EnclaveError.frozen) { try writer.append(secret) }
      var reader = try stream.makeReader(through: arena)
      let isWhole = try isRight(&reader)
      #expect(isWhole && stream.byteCount == 1000)
      do {
        var dropped = try vault.makeStream(through: arena, chunkByteCount: 10)
        try dropped.append(secret)
        #expect(vault.statistics.streams == 2 && vault.statistics.streamChunks == 11 + 12)
      }
      // 1,000 bytes; the input ended when the tenth chunk was full.
      #expect(vault.statistics.streams == 1 && vault.statistics.streamChunks == 11)
      #expect(throws: EnclaveError.self) {
        _ = try vault.makeStream(through: arena, chunkByteCount: 0)
      }
    }

    /// If the body throws, the same bytes are read again.
    @Test func aThrowingBodyConsumesNothing() throws {
      let (vault, arena) = (try vault(), try arena())
      var reader = try write(150, to: vault, arena).makeReader(through: arena)
      struct Refused: Error {}
      #expect(throws: AccessError<Refused>.self) {
        _ = try reader.withNext { _ throws(Refused) in throw Refused() }
      }
      let place = reader.position
      #expect(place == 0)
      let isWhole = try isRight(&reader)
      #expect(isWhole)
    }

    struct Tampering: CustomTestStringConvertible, Sendable {
      let testDescription: String
      /// The index of the first wrong chunk.
      let at: Int
      let change: @Sendable (inout [UnsafeMutableRawPointer]) -> Void
      init(
        _ what: String, at: Int,
        _ change: @escaping @Sendable (inout [UnsafeMutableRawPointer]) -> Void
      ) { (testDescription, self.at, self.change) = (what, at, change) }
    }

    @Test(arguments: [
      Tampering("swapped", at: 1) { $0.swapAt(1, 2) },
      Tampering("repeated", at: 2) { $0.insert($0[1], at: 2) },
      Tampering("in the place of another", at: 3) { $0[3] = $0[1] },
      Tampering("left out", at: 2) { $0.remove(at: 2) },
      Tampering("without the last", at: 3) { $0.removeLast() },
      Tampering("the last twice", at: 4) { $0.append($0[4]) },
      Tampering("the last alone", at: 0) { $0 = [$0[4]] },
      Tampering("none", at: 0) { $0 = [] },
    ])
    func tamperedStreamsAreNotAuthentic(tampering: Tampering) throws {
      let (vault, arena) = (try vault(), try arena())
      let stream = try write(450, to: vault, arena)
      var original: [UnsafeMutableRawPointer] = []
      stream.withChunks {
        original = $0
        tampering.change(&$0)
      }
      defer { stream.withChunks { $0 = original } }
      var reader = try stream.makeReader(through: arena)
      var read = 0
      while read < 1000 {
        do {
          let count = try reader.withNext { $0.byteCount }
          guard let count else {
            Issue.record("the end of what was \(tampering.testDescription)")
            return
          }
          read += count
        } catch {
          #expect(error == .access(.notAuthentic))
          break
        }
      }
      #expect(read == tampering.at * chunk)
    }

    /// A chunk's position is in ordinary memory, but authenticated by the tag.
    @Test func aForgedPositionIsNotAuthentic() throws {
      let (vault, arena) = (try vault(), try arena())
      let stream = try write(450, to: vault, arena)
      func read(_ place: Int) throws -> Int? {
        var reader = try stream.makeReader(through: arena)
        reader.seek(to: place)
        return try reader.withNext { $0.byteCount }
      }
      #expect(try read(100) == 100)
      stream.withChunks { $0.swapAt(1, 2) }
      stream.forgePosition(ofChunk: 1, as: 1, isLast: false)
      stream.forgePosition(ofChunk: 2, as: 2, isLast: false)
      for place in [100, 200] {
        #expect(throws: AccessError<Never>.access(.notAuthentic)) { _ = try read(place) }
      }
      #expect(vault.statistics.failures == 2)
      // Restored, it is readable. The last chunk cannot be turned into a middle one, nor the
      // reverse.
      stream.withChunks { $0.swapAt(1, 2) }
      stream.forgePosition(ofChunk: 1, as: 1, isLast: false)
      stream.forgePosition(ofChunk: 2, as: 2, isLast: false)
      #expect(try read(100) == 100 && read(400) == 50)
      var cut: [UnsafeMutableRawPointer] = []
      stream.withChunks { cut = [$0.removeLast()] }
      stream.forgePosition(ofChunk: 3, as: 3, isLast: true)
      #expect(throws: AccessError<Never>.access(.notAuthentic)) { _ = try read(300) }
      stream.forgePosition(ofChunk: 3, as: 3, isLast: false)
      stream.withChunks { $0 += cut }
      #expect(try read(300) == 100)
    }

    /// Chunks of two streams of one vault, at the same position.
    @Test func anotherStreamsChunkIsNotAuthentic() throws {
      let (vault, arena) = (try vault(), try arena())
      let (a, b) = (try write(300, to: vault, arena), try write(300, to: vault, arena))
      func exchange() {
        a.withChunks { mine in b.withChunks { theirs in swap(&mine[1], &theirs[1]) } }
      }
      exchange()
      var reader = try a.makeReader(through: arena)
      reader.seek(to: 100)
      #expect(throws: AccessError<Never>.access(.notAuthentic)) {
        _ = try reader.withNext { $0.byteCount }
      }
      a.forgePosition(ofChunk: 1, as: 1, isLast: false)
      #expect(throws: AccessError<Never>.access(.notAuthentic)) {
        _ = try reader.withNext { $0.byteCount }
      }
      exchange()
      b.forgePosition(ofChunk: 1, as: 1, isLast: false)
      let isWhole = try isRight(&reader)
      #expect(isWhole)
    }

    /// A failed write loses nothing that was written before, and can be continued.
    @Test func aFailedStepLosesNothing() async {
      await #expect(processExitsWith: .success) {
        let (vault, arena) = (
          try Vault("vault", lock: .preferred, gate: .pages),
          try Arena("plaintext", .init(lock: .preferred, gate: .pages))
        )
        var writer = try vault.makeStream(through: arena, chunkByteCount: chunk)
        var (failures, steps) = (0, 0)
        while true {
          let written = writer.byteCount
          if written >= 1000 { break }
          steps += 1
          if steps % 2 == 0 { FaultPlan.fail(.openWindow, errno: ENOMEM, times: 1) }
          let bytes = (written..<min(1000, written + 37)).map(byte)
          do { try writer.append(bytes.span.bytes) } catch { failures += 1 }
          FaultPlan.clear()
        }
        #expect(failures > 5, "\(failures) failures")
        FaultPlan.fail(.openWindow, errno: ENOMEM, times: 1)
        do {
          _ = try writer.finish()
          Issue.record("finishing: no error")
          return
        } catch {}
        FaultPlan.clear()
        var reader = try writer.finish().makeReader(through: arena)
        let (isRight, byteCount) = (try isRight(&reader), reader.stream.byteCount)
        #expect(isRight, "contents")
        #expect(byteCount == 1000, "\(byteCount) bytes")
      }
    }

    /// Other threads read, write and drop streams while the vault rotates.
    @Test(arguments: ciphers) func readingWhileTheVaultRotates(cipher: Vault.Cipher) throws {
      let (vault, arena) = (try vault(cipher), try arena())
      let shared = try write(2050, to: vault, arena)
      try concurrently(4) { thread in
        for round in 0..<40 {
          switch thread {
          case 0: try vault.rotate()
          case 1:
            let own = try write(round * 30, to: vault, arena)
            var reader = try own.makeReader(through: arena)
            if try !isRight(&reader) { throw Failed("an own stream") }
          default:
            var reader = try shared.makeReader(through: arena)
            if try !isRight(&reader) { throw Failed("the shared stream") }
          }
        }
      }
      #expect(vault.statistics.streams == 1 && vault.statistics.failures == 0)
    }

    @Test func aChildReadsNothing() async {
      await #expect(processExitsWith: .success) {
        let (vault, arena) = (try vault(), try arena())
        let stream = try write(300, to: vault, arena)
        var reader = try stream.makeReader(through: arena)
        let report = try ChildReport()
        let child = report.fork()
        if child == 0 {
          report.expect(throws: AccessError<Never>.access(.inheritedByFork), "reading") {
            _ = try reader.withNext { $0.byteCount }
          }
          report.expect(throws: EnclaveError.inheritedByFork, "a new stream") {
            _ = try vault.makeStream(through: arena)
          }
          report.end()
        }
        let failures = report.failures(of: child)
        #expect(failures == [], "\(failures)")
        let isRight = try isRight(&reader)
        #expect(isRight, "the parent's contents")
      }
    }

    @Test func vaultsRotateOnATimer() throws {
      let arena = try arena()
      weak var gone: Vault?
      do {
        let vault = try vault()
        gone = vault
        let stream = try write(300, to: vault, arena)
        // The minimum is a second.
        try vault.rotate(every: .milliseconds(1))
        try eventually("the vault rotates twice") { vault.statistics.rotations >= 2 }
        var reader = try stream.makeReader(through: arena)
        let isWhole = try isRight(&reader)
        #expect(isWhole && vault.statistics.failedRotations == 0)
        try vault.rotate(every: nil)
      }
      // The thread may retain it while it checks the clock.
      try eventually("the vault goes, though it had a timer") { gone == nil }
    }
  }
#endif
