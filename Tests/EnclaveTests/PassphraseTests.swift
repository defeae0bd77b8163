// Passphrases that are typed or piped. EndToEndTests test signals during input, with a program on
// its own terminal.

import Enclave
import EnclaveSystem
import Foundation
import Glibc
import TestSupport
import Testing

/// Types at a terminal after the prompt appears. The echo is off before, but earlier input may be
/// dropped.
final class Typist: @unchecked Sendable {
  private let stopped = DispatchSemaphore(value: 0)
  private let ended = DispatchSemaphore(value: 0)

  convenience init(_ text: String, into main: Int32) {
    self.init(bytes: Array(text.utf8), into: main)
  }

  init(bytes: [UInt8], into main: Int32) {
    Thread { [self] in
      defer { ended.signal() }
      while stopped.wait(timeout: .now()) == .timedOut {
        if Self.hasPrompt(main, within: 1) {
          write(main, bytes, bytes.count)
          return
        }
      }
    }.start()
  }

  func stop() {
    stopped.signal()
    ended.wait()
  }

  /// Whether the terminal has output that can be read; does not read it.
  static func hasPrompt(_ main: Int32, within milliseconds: Int32) -> Bool {
    var file = pollfd(fd: main, events: Int16(POLLIN), revents: 0)
    return poll(&file, 1, milliseconds) == 1
  }
}

@Suite struct PassphraseTests {
  /// A terminal that is not a controlling terminal.
  struct Pair: ~Copyable {
    let main: Int32
    let terminal: Int32
    init() throws {
      var (main, terminal): (Int32, Int32) = (0, 0)
      guard openpty(&main, &terminal, nil, nil, nil) == 0 else { throw Failed("openpty") }
      (self.main, self.terminal) = (main, terminal)
    }
    deinit {
      close(terminal)
      close(main)
    }
    var modes: termios {
      var modes = termios()
      tcgetattr(terminal, &modes)
      return modes
    }
    /// Its output up to a newline, and whatever follows that already.
    var shown: String {
      var all: [UInt8] = []
      var file = pollfd(fd: main, events: Int16(POLLIN), revents: 0)
      while poll(&file, 1, all.contains(10) ? 0 : 10_000) == 1 {
        var bytes = [UInt8](repeating: 0, count: 400)
        let count = read(main, &bytes, bytes.count)
        guard count > 0 else { break }
        all += bytes[..<count]
      }
      return String(decoding: all, as: UTF8.self)
    }
  }

  /// Types at a terminal. Returns the resulting secret, or the length of a line that was rejected.
  private func type(_ typed: String, limit: Int = 1024) throws -> (String?, Int) {
    let arena = try Arena("test", .init(lock: .preferred))
    let pair = try Pair()
    let before = pair.modes
    let typist = Typist(typed, into: pair.main)
    defer { typist.stop() }
    var result: (String?, Int)
    do {
      let secret = try arena.readPassphrase(
        prompt: "Passphrase: ", from: pair.terminal, limit: limit)
      let bytes = try contents(secret)
      result = (String(decoding: bytes, as: UTF8.self), bytes.count)
    } catch EnclaveError.endOfInput(let received) {
      result = (nil, received)
    }
    let after = pair.modes
    #expect(after.c_lflag == before.c_lflag, "the settings are as they were")
    #expect(pair.shown == "Passphrase: \r\n", "nothing that was typed")
    #expect(arena.statistics.secretCount == 0)
    return result
  }

  /// At a real terminal there is no echo, editing works, and the settings are restored.
  @Test(
    arguments: [
      ("hunter2\n", "hunter2"), ("hunter2\r", "hunter2"), ("\n", ""), ("abc\u{4}\n", "abc\u{4}"),
      // Backspace erases one scalar, of any length.
      ("hunx\u{7f}ter2\n", "hunter2"), ("hunx\u{8}ter2\n", "hunter2"), ("\u{7f}a\n", "a"),
      ("aé\u{7f}b\n", "ab"), ("a鍵\u{7f}b\n", "ab"), ("a🔑\u{7f}b\n", "ab"),
      ("éé\u{7f}\n", "é"), ("é\u{7f}\u{7f}\u{7f}é\n", "é"), ("ae\u{301}\u{7f}\n", "ae"),
      // ^U erases the line, ^W a word and the blanks after it.
      ("wrong\u{15}right\n", "right"), ("\u{15}right\n", "right"),
      ("one two\u{17}three\n", "one three"), ("one two  \u{17}\n", "one "), ("größe\u{17}\n", ""),
      ("one\u{17}\u{17}two\n", "two"),
    ])
  func editingKeysWork(typed: String, expected: String) throws {
    #expect(try type(typed) == (expected, expected.utf8.count))
  }

  /// ^D on an empty line, also after everything was erased.
  @Test(arguments: ["\u{4}", "abc\u{15}\u{4}", "é\u{7f}\u{4}"])
  func endOfInputIsAnError(typed: String) throws {
    #expect(try type(typed) == (nil, 0))
  }

  /// A line that is too long can be corrected. Otherwise the whole line is consumed, so that
  /// nothing of it reaches the shell.
  @Test(
    arguments: [
      ("1234\n", "1234", 4), ("12345\n", nil, 4), ("1234567890\n", nil, 4),
      ("12345\u{7f}\n", "1234", 4), ("1234é鍵\u{7f}\u{7f}\n", "1234", 4),
      ("1234é鍵\u{7f}\n", nil, 4), ("123é\n", nil, 3), ("123é\u{7f}\n", "123", 3),
      ("123é5\u{7f}\u{7f}\u{7f}\n", "12", 2), ("12鍵x\n", nil, 2),
      ("1234567\u{15}ok\n", "ok", 2), ("1 34567\u{17}\n", "1 ", 2),
    ] as [(String, String?, Int)])
  func inputAboveTheLimitIsAnError(typed: String, expected: String?, count: Int) throws {
    #expect(try type(typed, limit: 4) == (expected, count))
  }

  /// Latin-1 at a terminal: one byte per character.
  @Test func bytesThatAreNotUTF8AreErasedOneByOne() throws {
    let arena = try Arena("test", .init(lock: .preferred))
    let pair = try Pair()
    let typist = Typist(
      bytes: [0x61, 0xE9, 0xE9, 0x7F, 0x62, 0x80, 0x80, 0x7F, 10], into: pair.main)
    defer { typist.stop() }
    let secret = try arena.readPassphrase(prompt: "? ", from: pair.terminal)
    #expect(try contents(secret) == [0x61, 0xE9, 0x62, 0x80])
  }

  /// Editing keys that the user changed or disabled.
  @Test func theTerminalsEditingKeysAreUsed() throws {
    let arena = try Arena("test", .init(lock: .preferred))
    let pair = try Pair()
    var modes = pair.modes
    func set(_ key: Int32, _ byte: UInt8) {
      withUnsafeMutableBytes(of: &modes.c_cc) { $0[Int(key)] = byte }
    }
    set(VERASE, UInt8(ascii: "#"))
    set(VKILL, UInt8(ascii: "@"))
    set(VWERASE, 0)
    tcsetattr(pair.terminal, TCSANOW, &modes)
    let typist = Typist(bytes: Array("no@a b\u{0}#c#d\n".utf8), into: pair.main)
    defer { typist.stop() }
    let secret = try arena.readPassphrase(prompt: "? ", from: pair.terminal)
    #expect(try contents(secret) == Array("a bd".utf8))
  }

  /// Input that is not a terminal is taken unchanged, up to its newline and no further.
  @Test(
    arguments: [
      ("hunter2\nnext", "hunter2", 7), ("a\u{7f}\u{15}\u{17}\r\n", "a\u{7f}\u{15}\u{17}\r", 5),
      ("no newline", nil, 8), ("short", nil, 5), ("", nil, 0), ("123456789\n", nil, 8),
      ("12345678\n", "12345678", 8),
    ] as [(String, String?, Int)])
  func pipedInputIsTakenUnchanged(text: String, expected: String?, count: Int) throws {
    let arena = try Arena("test", .init(lock: .preferred))
    var ends: [Int32] = [0, 0]
    pipe(&ends)
    defer { close(ends[0]) }
    write(ends[1], text, text.utf8.count)
    close(ends[1])
    do {
      let secret = try arena.readPassphrase(prompt: "", from: ends[0], limit: 8)
      #expect(try contents(secret) == Array((expected ?? "none").utf8))
    } catch EnclaveError.endOfInput(let received) {
      #expect(expected == nil && received == count)
    }
    if text.hasSuffix("next") {
      var rest = [UInt8](repeating: 0, count: 8)
      #expect(read(ends[0], &rest, 8) == 4, "what is behind the line stays")
    }
  }

  @Test(arguments: [-1, Int32.min, Int32.max])
  func anInvalidDescriptorIsAnError(descriptor: Int32) async {
    await #expect(processExitsWith: .success) { [descriptor = descriptor as Int32] in
      alarm(60)  // ends a process that waits forever
      let arena = try Arena("test", .init(lock: .preferred))
      do throws(EnclaveError) {
        _ = try arena.readPassphrase(prompt: "? ", from: descriptor)
        Issue.record("no error")
      } catch {
        guard case .system(let failure) = error, failure.errno == EBADF else { throw error }
      }
    }
  }

  /// Bytes that were erased, or exceed the limit, are left nowhere.
  @Test func erasedInputIsWiped() throws {
    let pair = try Pair()
    let limit = 8
    let memory = UnsafeMutableRawPointer.allocate(byteCount: limit + 1, alignment: 1)
    defer { memory.deallocate() }
    memory.initializeMemory(as: UInt8.self, repeating: 0, count: limit + 1)
    var reader = LineReader(pair.terminal, limit: limit)
    try reader.begin(prompt: UnsafeBufferPointer(start: nil, count: 0))
    func check(
      _ typed: String, leaves expected: String, _ result: LineReader.Result? = nil
    ) throws {
      var last: LineReader.Result?
      for byte in typed.utf8 {
        write(pair.main, [byte], 1)
        #expect(reader.wait() == .input)
        last = try reader.take(into: memory)
      }
      let all = Array(UnsafeRawBufferPointer(start: memory, count: limit + 1))
      let padding = [UInt8](repeating: 0, count: limit + 1 - expected.utf8.count)
      #expect(all == Array(expected.utf8) + padding, "\(typed)")
      #expect(last == result)
    }
    try check("12345678XYZ", leaves: "12345678")
    try check("\u{7f}\u{7f}\u{7f}\u{7f}", leaves: "1234567")
    try check("é", leaves: "1234567")
    try check("\u{7f}", leaves: "1234567")
    try check("\u{15}", leaves: "")
    try check("one é\u{7f}", leaves: "one ")
    try check("two\u{17}", leaves: "one ")
    try check("x\n", leaves: "one x", .line(byteCount: 5))
  }

  /// No window is open while waiting for input, so closing the arena does not wait for the user.
  @Test(arguments: allGates) func anArenaCanBeDestroyedDuringAPrompt(gate: Arena.Gate) throws {
    let arena = try Arena("test", .init(lock: .preferred, gate: gate))
    let pair = try Pair()
    let (main, terminal) = (pair.main, pair.terminal)
    let closer = Thread {
      try? eventually("it asks") { Typist.hasPrompt(main, within: 1) }
      #expect(throws: Never.self) { try arena.destroy() }
      write(main, "hunter2\n", 8)
    }
    closer.start()
    #expect(throws: EnclaveError.destroyed) {
      _ = try arena.readPassphrase(prompt: "? ", from: terminal)
    }
    #expect(pair.modes.c_lflag & tcflag_t(ECHO) != 0)
    try eventually("the thread has ended") { closer.isFinished }
  }

  /// Two threads that prompt are served one after the other.
  @Test func threadsTakeTurns() throws {
    let arena = try Arena("test", .init(lock: .preferred))
    let pairs = [try PairBox(), try PairBox()]
    let counts = pairs.map { box in
      let finished = DispatchSemaphore(value: 0)
      let typist = Typist("abcd\n", into: box.pair.main)
      Thread {
        defer { finished.signal() }
        let secret = try? arena.readPassphrase(prompt: "? ", from: box.pair.terminal)
        box.count = secret?.byteCount ?? -1
      }.start()
      return (finished, typist)
    }
    for (finished, typist) in counts {
      finished.wait()
      typist.stop()
    }
    #expect(pairs.map(\.count) == [4, 4])
  }

  final class PairBox: @unchecked Sendable {
    let pair: Pair
    var count = 0
    init() throws { pair = try Pair() }
  }
}
