// The broker's side: what it may be asked for, and what it refuses.

import EnclaveSystem
import Foundation
import MemwatchSystem
import TestSupport
import Testing

@testable import MemwatchSandbox

@Suite struct BrokerTests {
  @Test func requestsSurviveTheWire() throws {
    for request in [
      Request(.smaps, 4711), Request(.finish, 1, 0, name: "snapshot ü.txt"),
      Request(.other, .max, 1 << 63),
    ] {
      #expect(Request(request.bytes[...]) == request)
    }
  }

  /// A confined process that was taken over asks for what it likes.
  @Test(
    arguments: [
      "/etc/passwd", "../x", "a/b", "..", ".", ".hidden", "a\0b",
      String(repeating: "x", count: 256),
    ])
  func namesThatLeadOutAreRefused(name: String) {
    #expect(Request(Request(.create, 1, 0, name: name).bytes[...]) == nil)
  }

  @Test func anythingThatIsNoRequestIsRefused() {
    var seed = SystemRandomNumberGenerator()
    var taken = 0
    for length in 0...400 {
      let bytes = (0..<length).map { _ in UInt8.random(in: 0...255, using: &seed) }
      guard let request = Request(bytes[...]) else { continue }
      taken += 1
      #expect(!request.name.contains("/") && !request.name.hasPrefix("."))
    }
    // Seventeen bytes of a known kind are a request, whatever the numbers.
    #expect(Request([99] + [UInt8](repeating: 0, count: 16)) == nil)
    #expect(Request([2] + [UInt8](repeating: 255, count: 16)) != nil)
    #expect(taken < 400)
  }

  @Test func placesSurviveTheWire() {
    var place = StatsPageLocation(path: "/dev/shm/a\nb", outcome: .opened(owner: 7))
    place.pages = [.init(number: 3, name: "1-x.page"), .init(number: 9, name: "strange\n.page")]
    let places = [
      place, StatsPageLocation(path: "", outcome: .foreign(owner: .max)),
      StatsPageLocation(
        path: "/x", outcome: .failed(FileFailure(function: "open", path: "/x", errno: 13))),
    ]
    #expect(
      StatsPageLocation.all(Fields.decode(Fields.encode(places.flatMap(\.fields)))) == places)
    // What is cut off gives fewer places, and nothing worse.
    let fields = places.flatMap(\.fields)
    for count in 0..<fields.count {
      #expect(StatsPageLocation.all(Array(fields[..<count])).count <= 3)
    }
  }
}
