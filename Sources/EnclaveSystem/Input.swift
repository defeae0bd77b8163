// Reads input directly into memory that will hold a secret.

internal import CEnclaveSystem

package enum Input {
  /// read(2), retried after EINTR. Returns 0 at the end of the input.
  package static func read(
    _ descriptor: Int32, _ address: UnsafeMutableRawPointer, _ byteCount: Int
  ) throws(SystemFailure) -> Int {
    Int(
      try perform(.readInput, byteCount: byteCount) {
        unsafe ces_read(descriptor, address, byteCount)
      })
  }
}

/// Reads one line, from a terminal or a pipe, into memory that the caller opens only while bytes
/// arrive.
///
/// The memory has `limit` bytes and one more. Each byte is read into the position behind the last
/// one, so no byte is ever anywhere else. On a terminal echo is off and the line can be edited.
/// Characters typed beyond the limit are only counted, so that they can be erased again.
///
///     |<- count ->|<- the next byte, then zeros ->|
///     |<------------- limit ------------->|<- 1 ->|
package struct LineReader: ~Copyable {
  private let descriptor: Int32
  private let limit: Int
  private let isTerminal: Bool
  private var count = 0
  /// How many characters were typed beyond the limit.
  private var excess = 0

  package enum Event { case input, startOver, ended }
  package enum Result: Equatable {
    /// A whole line of this many bytes, without its newline.
    case line(byteCount: Int)
    /// The input ended without a newline, or the line was too long. The memory holds this many
    /// bytes.
    case ended(byteCount: Int)
  }

  /// Waits while another thread reads from a terminal.
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

  /// Turns the echo off and shows the prompt. Call it first, and again whenever `wait` returns
  /// `startOver`.
  package mutating func begin(prompt: UnsafeBufferPointer<UInt8>) throws(SystemFailure) {
    guard isTerminal else { return }
    try perform(.setEcho) { unsafe ces_terminal_echo_off(prompt.baseAddress, prompt.count) }
  }

  /// Waits for input. On a terminal, handles signals in the meantime.
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

  /// Takes the available bytes, at most 64. Returns nil while the line is incomplete.
  package mutating func take(
    into address: UnsafeMutableRawPointer
  ) throws(SystemFailure) -> Result? {
    for _ in 0..<64 {
      let got =
        unsafe isTerminal
        ? Int(try perform(.readInput, byteCount: 1) { unsafe ces_terminal_read(address + count) })
        : try Input.read(descriptor, address + count, 1)
      guard got == 1 else {
        // ^Z makes the kernel drop pending input, possibly between poll(2) and this read.
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
        // A file or pipe cannot be edited and may never end, so stop here.
        guard isTerminal else { return .ended(byteCount: count) }
        unsafe countExcess(byte, address)
      }
    }
    return nil
  }

  /// Counts a character by its first byte. A character that starts before the limit and crosses it
  /// counts as beyond it.
  private mutating func countExcess(_ byte: UInt8, _ address: UnsafeMutableRawPointer) {
    if excess > 0, Self.continues(byte) { return }
    excess += 1
    guard Self.continues(byte) else { return }
    let last = unsafe lastCharacter(address)
    if !last.isWhole { unsafe erase(last.byteCount, address) }
  }

  /// Removes the last `byteCount` bytes, and wipes the key that asked for it, which lies behind
  /// them.
  private mutating func erase(_ byteCount: Int, _ address: UnsafeMutableRawPointer) {
    count -= byteCount
    unsafe wipe(address + count, byteCount: byteCount + 1)
  }

  private static func continues(_ byte: UInt8) -> Bool { byte & 0xC0 == 0x80 }

  /// The last Unicode scalar; a single byte if the bytes are not UTF-8.
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

  /// The length of the trailing blanks and the word before them.
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
