// The known pattern that secrets are filled with, and the search for it.

public import Foundation
import Glibc

public enum Pattern {
  /// The pattern of test-publisher's seed.
  public static func bytes(_ seed: UInt64) -> [UInt8] {
    var state = seed
    return (0..<32).map { _ in
      state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
      return UInt8(truncatingIfNeeded: state >> 33)
    }
  }

  /// Every encoding of eight bytes of the pattern: raw, reversed, hex, base64.
  public static func traces(_ seed: UInt64) -> [Data] {
    let pattern = bytes(seed)
    // A secret longer than the pattern repeats it, so traces wrap around.
    let around = pattern + pattern
    var all: [Data] = []
    for start in 0..<pattern.count {
      let eight = Array(around[start..<(start + 8)])
      all.append(Data(eight))
      all.append(Data(eight.reversed()))
      let hex = eight.map { String(format: "%02x", $0) }.joined()
      all.append(Data(hex.utf8))
      all.append(Data(hex.uppercased().utf8))
      // Nine bytes at any phase hold these twelve characters of base64.
      all.append(Data(Data(around[start..<(start + 9)]).base64EncodedString().prefix(10).utf8))
    }
    return all
  }

  /// The traces in a file or a screen.
  public static func found(_ seed: UInt64, in data: Data) -> Int {
    data.withUnsafeBytes { hay in
      traces(seed).count { trace in trace.withUnsafeBytes { contains(hay, $0) } }
    }
  }

  private static func contains(
    _ hay: UnsafeRawBufferPointer, _ needle: UnsafeRawBufferPointer
  ) -> Bool {
    var at = hay.baseAddress!
    let end = at + hay.count - needle.count
    while at <= end, let next = memchr(at, Int32(needle[0]), end - at + 1) {
      if memcmp(next, needle.baseAddress!, needle.count) == 0 { return true }
      at = UnsafeRawPointer(next) + 1
    }
    return false
  }
}

public func occurrences(of pattern: [UInt8], in data: Data) -> Int {
  let wanted = Data(pattern)
  var count = 0
  var start = data.startIndex
  while let range = data.range(of: wanted, in: start..<data.endIndex) {
    count += 1
    start = range.upperBound
  }
  return count
}
