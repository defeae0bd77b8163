// What is made of the text of /proc, whatever stands there.

import EnclaveSystem
import Foundation
import Testing

@Suite struct ProcTextTests {
  private static let status = Array(
    """
    Name:\ta (b) VmLck:
    State:\tS (sleeping)
    VmLckX:\t      99 kB
    VmLck:\t     128 kB
    CapEff:\t000001ffffffffff
    Odd:
    """.utf8)

  @Test func statusValuesAreParsed() {
    #expect(ProcText.kilobytes("VmLck", in: Self.status) == 128)
    #expect(ProcText.kilobytes("VmLc", in: Self.status) == nil)
    #expect(ProcText.kilobytes("Odd", in: Self.status) == nil)
    #expect(ProcText.kilobytes("State", in: Self.status) == nil)
    #expect(
      ProcText.value("CapEff", in: Self.status).flatMap { ProcText.number($0, radix: 16) }
        == 0x1ff_ffff_ffff)
    #expect(ProcText.kilobytes("VmLck", in: []) == nil)
    #expect(ProcText.kilobytes("VmLck", in: Array("VmLck:".utf8)) == nil)
    #expect(ProcText.kilobytes("VmLck", in: Array("VmLck: 18446744073709551616".utf8)) == nil)
    #expect(ProcText.kilobytes("VmLck", in: Array("VmLck: 18446744073709551615".utf8)) == .max)
  }

  @Test func statFieldsAreParsed() {
    let start = "4127 (a) ) R 12) T 77 88 0 0 -1 0 1 2 3 4 5 6 7 8 9 10 11 12 4242 0 0"
    let stat = ProcStat(Array(start.utf8))
    #expect(stat?.state == "T" && stat?.parent == 77 && stat?.group == 88)
    #expect(stat?.startTime == 4242)
    let odd = start.replacingOccurrences(of: " 77 ", with: " x ")
    for text in ["", "4127 (a", "1 (a)", "1 (a) S", "1 (a) S 1 2 3", odd] {
      #expect(ProcStat(Array(text.utf8)) == nil, "\(text)")
    }
  }

  /// This process', against what its own calls say.
  @Test func parsedValuesMatchSystemCalls() throws {
    let stat = try #require(
      ProcessFacts.readFile("/proc/self/stat", limit: 4096).map(ProcStat.init))
    #expect(stat?.parent == getppid() && stat?.group == getpgrp())
    #expect(ProcessFacts.startTime() == stat?.startTime)
    #expect(ProcessFacts.lockedBytes() != nil)
  }
}
