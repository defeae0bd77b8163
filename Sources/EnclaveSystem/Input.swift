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

  /// Reads a line without its newline; `-1 - received` when there is no whole one. Of a terminal
  /// the echo is off meanwhile.
  package static func readLine(
    _ descriptor: Int32, prompt: StaticString, into address: UnsafeMutableRawPointer, limit: Int
  ) throws(SystemFailure) -> Int {
    let isTerminal = ces_is_terminal(descriptor) == 1
    var saved: UnsafeMutableRawPointer?
    if isTerminal {
      prompt.withUTF8Buffer { _ = unsafe ces_write(descriptor, $0.baseAddress, $0.count) }
      try perform(.setEcho) { unsafe ces_echo_off(descriptor, &saved) }
    }
    var count = 0
    var isInterrupted = false
    defer {
      if unsafe saved != nil {
        _ = try? perform(.setEcho) { unsafe ces_echo_on(descriptor, saved) }
      }
      if isInterrupted { _ = ces_kill(Int32(ces_pid()), 2) }
    }
    while count <= limit {
      // The byte goes to its place at once; behind the last there is none.
      var spill: UInt8 = 0
      let got =
        unsafe count < limit
        ? try read(descriptor, address + count, 1)
        : try withUnsafeMutableBytes(of: &spill) { raw throws(SystemFailure) in
          unsafe try read(descriptor, raw.baseAddress!, 1)
        }
      if got == 0 { break }
      let byte = unsafe count < limit ? (address + count).load(as: UInt8.self) : spill
      if byte == 10 || isTerminal && byte == 13 {
        if count < limit { unsafe wipe(address + count, byteCount: 1) }
        return count
      }
      if isTerminal {
        switch byte {
        case 3:
          isInterrupted = true
          unsafe wipe(address, byteCount: min(count + 1, limit))
          return -1 - count
        case 4 where count == 0:
          unsafe wipe(address, byteCount: 1)
          return -1
        case 8, 127:
          unsafe wipe(address + max(0, count - 1), byteCount: count < limit ? min(2, count + 1) : 1)
          count = max(0, count - 1)
          continue
        case 21:
          unsafe wipe(address, byteCount: min(count + 1, limit))
          count = 0
          continue
        default: break
        }
      }
      count += 1
    }
    return -1 - min(count, limit)
  }
}
