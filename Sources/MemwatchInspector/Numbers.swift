// Sums and sizes from numbers that another process wrote.

/// A saturating sum: the numbers come from another process.
package func saturatingSum(_ numbers: [UInt64]) -> UInt64 {
  numbers.reduce(0) { sum, number in
    let (total, overflow) = sum.addingReportingOverflow(number)
    return overflow ? .max : total
  }
}

/// A human-readable size: `48 KiB`, `2.2 MiB`; whole values are exact.
package func bytes(_ count: UInt64) -> String {
  if count < 1024 { return "\(count) B" }
  var value = Double(count)
  for unit in ["KiB", "MiB", "GiB", "TiB", "PiB"] {
    value /= 1024
    if value < 1023.95 || unit == "PiB" {
      let tenths = Int((value * 10).rounded())
      if tenths >= 1000 { return "\(Int(value.rounded())) \(unit)" }
      return tenths % 10 == 0 ? "\(tenths / 10) \(unit)" : "\(tenths / 10).\(tenths % 10) \(unit)"
    }
  }
  return "\(count) B"
}

/// `65,530`.
package func grouped(_ number: some BinaryInteger) -> String {
  var digits = Array(String(number))
  var at = digits.count - 3
  while at > (digits.first == "-" ? 1 : 0) {
    digits.insert(",", at: at)
    at -= 3
  }
  return String(digits)
}
