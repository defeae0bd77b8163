// Parsers for the text of /proc (proc(5)). They work on bytes: strings cost a hundred times as
// much, on every tick and every sample.

package enum ProcText {
  /// The text after `key:` on its line, without leading blanks.
  package static func value(_ key: StaticString, in text: [UInt8]) -> ArraySlice<UInt8>? {
    var line = 0
    while line < text.count {
      let end = text[line...].firstIndex(of: UInt8(ascii: "\n")) ?? text.count
      if let rest = rest(of: text[line..<end], behind: key),
        rest.first == UInt8(ascii: ":")
      {
        return rest.dropFirst().drop { isBlank($0) }
      }
      line = end + 1
    }
    return nil
  }

  /// The value in kB of a line such as `VmLck:     128 kB`.
  package static func kilobytes(_ key: StaticString, in text: [UInt8]) -> UInt64? {
    value(key, in: text).flatMap { number($0) }
  }

  /// The number after `start` on the first line that begins with it.
  package static func number(_ start: StaticString, in text: [UInt8]) -> UInt64? {
    for line in text.split(separator: UInt8(ascii: "\n")) {
      if let rest = rest(of: line, behind: start) { return number(rest) }
    }
    return nil
  }

  /// The words behind a text at the start of a line; nil if there is no such line.
  package static func fields(behind start: StaticString, in text: [UInt8]) -> [ArraySlice<UInt8>]? {
    text.split(separator: UInt8(ascii: "\n")).lazy.compactMap { rest(of: $0, behind: start) }
      .first?.split { isBlank($0) }
  }

  /// The rest of a line that starts with `start`; nil if it starts with something else.
  private static func rest(
    of line: ArraySlice<UInt8>, behind start: StaticString
  ) -> ArraySlice<UInt8>? {
    let count = start.utf8CodeUnitCount
    guard line.count >= count else { return nil }
    for offset in 0..<count
    where unsafe line[line.startIndex + offset] != start.utf8Start[offset] { return nil }
    return line.dropFirst(count)
  }

  /// The number at the start; nil if there are no digits or it overflows.
  package static func number(_ text: ArraySlice<UInt8>, radix: UInt64 = 10) -> UInt64? {
    var value: UInt64?
    for byte in text {
      let digit: UInt8
      switch byte {
      case UInt8(ascii: "0")...UInt8(ascii: "9"): digit = byte - UInt8(ascii: "0")
      case UInt8(ascii: "a")...UInt8(ascii: "f") where radix == 16: digit = byte - 87
      default: return value
      }
      let (raised, overflows) = (value ?? 0).multipliedReportingOverflow(by: radix)
      let (next, isTooLarge) = raised.addingReportingOverflow(UInt64(digit))
      guard !overflows, !isTooLarge else { return nil }
      value = next
    }
    return value
  }

  private static func isBlank(_ byte: UInt8) -> Bool {
    byte == UInt8(ascii: " ") || byte == UInt8(ascii: "\t")
  }
}

/// The fields of /proc/PID/stat that are used here.
package struct ProcStat: Equatable, Sendable {
  /// R, S, D, T, t, Z…
  package var state: Character
  package var parent: Int32
  package var group: Int32
  /// In clock ticks since boot.
  package var startTime: UInt64
  /// A kernel thread (PF_KTHREAD), which has no memory of its own.
  package var isKernelThread: Bool

  /// nil if the text is not that of a stat file. The second field may contain any character, so
  /// fields are counted from the last ")".
  package init?(_ text: [UInt8]) {
    guard let end = text.lastIndex(of: UInt8(ascii: ")")) else { return nil }
    let fields = text[(end + 1)...].split(separator: UInt8(ascii: " "), maxSplits: 20)
    guard fields.count > 19, let letter = fields[0].first,
      let parent = ProcText.number(fields[1]).flatMap({ Int32(exactly: $0) }),
      let startTime = ProcText.number(fields[19])
    else { return nil }
    state = Character(Unicode.Scalar(letter))
    self.parent = parent
    // 0 or less: the group is in another pid namespace.
    group = ProcText.number(fields[2]).flatMap { Int32(exactly: $0) } ?? 0
    self.startTime = startTime
    isKernelThread = ProcText.number(fields[6]).map { $0 & 0x20_0000 != 0 } ?? false
  }
}
