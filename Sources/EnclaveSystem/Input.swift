// Reading straight into memory that is to hold a secret.

internal import CEnclaveSystem

package enum Input {
  /// read(2), again after a signal; 0 at the end of the input.
  package static func read(
    _ descriptor: Int32, _ address: UnsafeMutableRawPointer, _ byteCount: Int
  ) throws(SystemFailure) -> Int {
    Int(
      try perform(.readInput, byteCount: byteCount) {
        unsafe ces_read(descriptor, address, byteCount)
      })
  }
}

/// Reads one line, typed or piped, into memory that the caller opens for as long as bytes are taken.
///
/// The memory holds `limit` bytes and one more, where each byte arrives that may belong behind the
/// limit: a byte is never anywhere else. Of a terminal the echo is off, and the line can be edited; what
/// is typed behind the limit is counted in characters, so that it can be erased again.
///
///     |<- count ->|<- the next byte, then zeros ->|
///     |<------------- limit ------------->|<- 1 ->|
package struct LineReader: ~Copyable {
  private let descriptor: Int32
  private let limit: Int
  private let isTerminal: Bool
  private var count = 0
  /// Characters behind the limit.
  private var excess = 0

  package enum Event { case input, startOver, ended }
  package enum Result: Equatable {
    /// A whole line of so many bytes, without its newline.
    case line(byteCount: Int)
    /// No whole line, or one that is too long; so many bytes are in the memory.
    case ended(byteCount: Int)
  }

  /// Waits until no other thread reads from a terminal.
  package init(_ descriptor: Int32, limit: Int) {
    self.descriptor = descriptor
    self.limit = limit
    isTerminal = ces_is_terminal(descriptor) == 1
    if isTerminal { ces_terminal_take(descriptor) }
  }

  deinit {
    guard isTerminal else { return }
    _ = try? perform(.setEcho) { ces_terminal_restore() }
    ces_terminal_release()
  }

  /// Turns a terminal's echo off and shows the prompt: first, and whenever `wait` says `startOver`.
  package mutating func begin(prompt: UnsafeBufferPointer<UInt8>) throws(SystemFailure) {
    guard isTerminal else { return }
    try perform(.setEcho) { unsafe ces_terminal_silence(prompt.baseAddress, prompt.count) }
  }

  /// Waits for bytes; of a terminal, deals with signals meanwhile.
  package func wait() -> Event {
    guard isTerminal else {
      ces_await_input(descriptor)
      return .input
    }
    return switch ces_terminal_wait() {
    case CES_TERMINAL_START_OVER: .startOver
    case CES_TERMINAL_ENDED: .ended
    default: .input
    }
  }

  /// How many bytes are in the memory.
  package var received: Int { count }

  /// Wipes what was typed.
  package mutating func clear(_ address: UnsafeMutableRawPointer) {
    unsafe erase(count, address)
    excess = 0
  }

  /// Takes the bytes that are there, some 64 at most; nil when the line goes on.
  package mutating func take(
    into address: UnsafeMutableRawPointer
  ) throws(SystemFailure) -> Result? {
    for _ in 0..<64 {
      let got =
        unsafe isTerminal
        ? Int(try perform(.readInput, byteCount: 1) { unsafe ces_terminal_read(address + count) })
        : try Input.read(descriptor, address + count, 1)
      guard got == 1 else {
        // What was typed before ^Z is dropped by the kernel, maybe at this moment.
        return isTerminal && !ces_is_hung_up(descriptor) ? nil : .ended(byteCount: count)
      }
      if let result = unsafe take(byteAt: address + count, address) { return result }
      guard ces_has_input(descriptor) else { return nil }
    }
    return nil
  }

  private mutating func take(
    byteAt place: UnsafeMutableRawPointer, _ address: UnsafeMutableRawPointer
  ) -> Result? {
    let byte = unsafe place.load(as: UInt8.self)
    let key =
      isTerminal
      ? ces_terminal_key(byte)
      : byte == 10 ? CES_KEY_LINE_END : CES_KEY_TEXT
    switch key {
    case CES_KEY_LINE_END:
      unsafe wipe(place, byteCount: 1)
      return excess == 0 ? .line(byteCount: count) : .ended(byteCount: count)
    case CES_KEY_END where count == 0 && excess == 0, CES_KEY_INTERRUPT:
      unsafe wipe(place, byteCount: 1)
      return .ended(byteCount: count)
    case CES_KEY_ERASE where excess > 0:
      unsafe wipe(place, byteCount: 1)
      excess -= 1
    case CES_KEY_ERASE:
      unsafe erase(lastCharacter(address).byteCount, address)
    case CES_KEY_ERASE_WORD:
      unsafe erase(lastWord(address), address)
      excess = 0
    case CES_KEY_ERASE_LINE:
      unsafe clear(address)
    default:
      if excess == 0, count < limit {
        count += 1
      } else {
        unsafe wipe(place, byteCount: 1)
        // Nobody corrects what comes from a file or a pipe, and it may never end.
        guard isTerminal else { return .ended(byteCount: count) }
        unsafe countExcess(byte, address)
      }
    }
    return nil
  }

  /// Counts a character by its first byte. One that began before the limit is behind it as a whole.
  private mutating func countExcess(_ byte: UInt8, _ address: UnsafeMutableRawPointer) {
    if excess > 0, Self.continues(byte) { return }
    excess += 1
    guard Self.continues(byte) else { return }
    let last = unsafe lastCharacter(address)
    if !last.isWhole { unsafe erase(last.byteCount, address) }
  }

  /// Takes so many bytes off the end, and the one behind it, which asked for that.
  private mutating func erase(_ byteCount: Int, _ address: UnsafeMutableRawPointer) {
    count -= byteCount
    unsafe wipe(address + count, byteCount: byteCount + 1)
  }

  private static func continues(_ byte: UInt8) -> Bool { byte & 0xC0 == 0x80 }

  /// The last Unicode scalar; a single byte where the bytes are not UTF-8.
  private func lastCharacter(
    _ address: UnsafeMutableRawPointer
  ) -> (byteCount: Int, isWhole: Bool) {
    for length in stride(from: 1, through: min(4, count), by: 1) {
      let byte = unsafe (address + count - length).load(as: UInt8.self)
      if Self.continues(byte) { continue }
      let whole =
        switch byte {
        case 0xC2...0xDF: 2
        case 0xE0...0xEF: 3
        case 0xF0...0xF4: 4
        default: 1
        }
      return length > whole ? (1, true) : (length, length == whole)
    }
    return (min(1, count), true)
  }

  /// The blanks at the end, and what is before them up to another blank.
  private func lastWord(_ address: UnsafeMutableRawPointer) -> Int {
    func isBlank(_ index: Int) -> Bool {
      let byte = unsafe (address + index).load(as: UInt8.self)
      return byte == 32 || byte == 9
    }
    var start = count
    while start > 0, isBlank(start - 1) { start -= 1 }
    while start > 0, !isBlank(start - 1) { start -= 1 }
    return count - start
  }
}
