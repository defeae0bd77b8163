// The broker: valid requests, and requests that it refuses.

import EnclaveSystem
import Foundation
import MemwatchSystem
import TestSupport
import Testing

@testable import MemwatchSandbox

@Suite struct BrokerTests {
  @Test func requestsAreEncodedAndDecoded() throws {
    for request in [
      BrokerRequest(.smaps, 4711), BrokerRequest(.finish, 1, 0, name: "snapshot ü.txt"),
      BrokerRequest(.other, .max, 1 << 63),
    ] {
      #expect(BrokerRequest(request.bytes[...]) == request)
    }
  }

  /// A compromised confined process sends arbitrary requests.
  @Test(
    arguments: [
      "/etc/passwd", "../x", "a/b", "..", ".", ".hidden", "a\0b",
      String(repeating: "x", count: 256),
    ])
  func namesOutsideTheDirectoryAreRefused(name: String) {
    #expect(BrokerRequest(BrokerRequest(.create, 1, 0, name: name).bytes[...]) == nil)
  }

  @Test func malformedRequestsAreRefused() {
    var seed = SeededGenerator()
    var taken = 0
    for length in 0...400 {
      let bytes = (0..<length).map { _ in UInt8.random(in: 0...255, using: &seed) }
      guard let request = BrokerRequest(bytes[...]) else { continue }
      taken += 1
      #expect(!request.name.contains("/") && !request.name.hasPrefix("."))
    }
    // Seventeen bytes with a known kind and no name are a request, whatever the numbers are.
    #expect(BrokerRequest([99] + [UInt8](repeating: 0, count: 16)) == nil)
    #expect(BrokerRequest([2] + [UInt8](repeating: 255, count: 16)) != nil)
    #expect(taken < 400)
  }

  // MARK: - Over its socket

  /// A broker for this test, the directory in which it creates files, and its answers to raw
  /// messages.
  final class Driven {
    let directory: URL
    private let broker: Broker
    private let client: MessageSocket
    private let server: MessageSocket

    /// - Parameters:
    ///   - replaced: the one file that may be replaced.
    ///   - place: another directory than this test's own one.
    init(
      named: [String] = [], replacing replaced: ReplaceableFile? = nil, at place: URL? = nil
    ) throws {
      directory = FileManager.default.temporaryDirectory
        .appending(path: "broker-\(UUID().uuidString)")
      try FileManager.default.createDirectory(at: directory, withIntermediateDirectories: false)
      broker = Broker(
        named: named, exportsTo: (place ?? directory).path, replacing: replaced)
      var pair = try MessageSocket.pair()
      client = pair.first.take()!
      server = pair.second.take()!
    }

    deinit { try? FileManager.default.removeItem(at: directory) }

    var files: [String] {
      (try? FileManager.default.contentsOfDirectory(atPath: directory.path)) ?? ["unreadable"]
    }

    func answer(to bytes: [UInt8]) throws -> (value: Int64, hasFile: Bool) {
      try client.send(bytes)
      let isThere = broker.answer(server, { _, _ in 4711 })
      #expect(isThere)
      let message = try client.receive(limit: 9)
      let value = message.bytes.reversed().reduce(UInt64(0)) { $0 << 8 | UInt64($1) }
      #expect(message.bytes.count == 8)
      return (Int64(bitPattern: value), message.takeFile() != nil)
    }
  }

  static func message(_ kind: UInt8, _ first: UInt64 = 0, name: String = "") -> [UInt8] {
    [kind] + BrokerRequest.littleEndian(first) + BrokerRequest.littleEndian(0) + Array(name.utf8)
  }

  /// An unknown kind is refused, whatever else the message contains: nothing is opened or created.
  @Test(arguments: [UInt64(0), 1, UInt64(getpid()), .max])
  func unknownKindsAreRefused(first: UInt64) throws {
    let driven = try Driven(named: ["/etc/hostname"])
    let unknown = (UInt8.min...UInt8.max).filter { BrokerRequest.Kind(rawValue: $0) == nil }
    #expect(unknown.contains(0) && unknown.contains(200) && unknown.contains(255))
    for kind in unknown {
      for name in ["", "taken.txt", "/etc/passwd"] {
        let answer = try driven.answer(to: Self.message(kind, first, name: name))
        #expect(answer.value == -Int64(EINVAL) && !answer.hasFile, "kind \(kind), \(name)")
      }
    }
    #expect(driven.files.isEmpty)
  }

  /// Only requests for new files may contain a name.
  @Test func namesComeWithNewFilesOnly() throws {
    let driven = try Driven(named: ["/dev/null"])
    for kind in (UInt8.min...UInt8.max).compactMap({ BrokerRequest.Kind(rawValue: $0) }) {
      let first: UInt64 = kind == .named ? 0 : UInt64(getpid())
      let name = kind.takesName ? "" : "taken.txt"
      let answer = try driven.answer(to: Self.message(kind.rawValue, first, name: name))
      #expect(answer.value == -Int64(EINVAL) && !answer.hasFile, "\(kind)")
    }
    #expect(driven.files.isEmpty)
    // The control: valid requests of the same driver succeed.
    let named = try driven.answer(to: Self.message(BrokerRequest.Kind.named.rawValue))
    #expect(named.value == 0 && named.hasFile)
    let made = try driven.answer(
      to: Self.message(BrokerRequest.Kind.create.rawValue, name: "new.txt"))
    #expect(made.value == 0 && made.hasFile && driven.files == ["new.txt"])
    #expect(try driven.answer(to: Self.message(BrokerRequest.Kind.other.rawValue)).value == 4711)
  }

  /// Messages of any length, and numbers without a process, page or name.
  @Test func brokenMessagesAreRefused() throws {
    let driven = try Driven(named: ["/dev/null"])
    for length in 1...400 where length != 17 {
      for kind in [BrokerRequest.Kind.stat, .host, .search, .other, .named] {
        let bytes = [kind.rawValue] + [UInt8](repeating: 0x41, count: length - 1)
        let answer = try driven.answer(to: bytes)
        #expect(answer.value == -Int64(EINVAL) && !answer.hasFile, "\(kind), \(length) bytes")
      }
    }
    for (kind, first) in [
      (BrokerRequest.Kind.stat, UInt64(0)), (.maps, 1 << 32), (.smaps, .max), (.userName, 1 << 32),
      (.named, 1), (.named, .max), (.page, .max),
    ] {
      let answer = try driven.answer(to: Self.message(kind.rawValue, first))
      #expect(answer.value < 0 && !answer.hasFile, "\(kind) \(first)")
    }
    #expect(driven.files.isEmpty)
  }

  /// Another process creates a file with that name while memwatch writes its own: theirs is kept,
  /// and memwatch's unfinished one is removed.
  @Test func aFileCreatedMeanwhileIsKept() throws {
    let driven = try Driven()
    let (create, finish) = (BrokerRequest.Kind.create.rawValue, BrokerRequest.Kind.finish.rawValue)
    let made = try driven.answer(to: Self.message(create, 1, name: "new.txt"))
    #expect(made.value == 0 && made.hasFile)
    #expect(driven.files.count == 1 && driven.files[0].hasPrefix(".new.txt."))
    let theirs = driven.directory.appending(path: "new.txt")
    try Data("theirs".utf8).write(to: theirs)
    let ended = try driven.answer(to: Self.message(finish, 1, name: "new.txt"))
    #expect(ended.value == -Int64(EEXIST) && !ended.hasFile)
    #expect(driven.files == ["new.txt"])
    #expect(try Data(contentsOf: theirs) == Data("theirs".utf8))
    // A name that is taken before is reported earlier. Otherwise the file gets its name at the end.
    let taken = try driven.answer(to: Self.message(create, 1, name: "new.txt"))
    #expect(taken.value == -Int64(EEXIST) && driven.files == ["new.txt"])
    for keeps: UInt64 in [0, 1] {
      #expect(try driven.answer(to: Self.message(create, 1, name: "other.txt")).value == 0)
      #expect(try driven.answer(to: Self.message(finish, keeps, name: "other.txt")).value == 0)
      #expect(driven.files.sorted() == (keeps == 1 ? ["new.txt", "other.txt"] : ["new.txt"]))
    }
  }

  /// Landlock and seccomp(2) confine one thread, so a process with several gets an error, and
  /// nothing is confined. (No mechanism is requested here, because these tests continue.)
  @Test func aProcessWithThreadsIsNotConfined() {
    #expect((Privileges.threads ?? 0) > 1, "the threads of this test runner")
    let confinement = Confinement.enter([])
    #expect(confinement.mechanisms.isEmpty && confinement.missing.count == 1)
    #expect(confinement.missing.first?.hasPrefix("everything: the process has ") == true)
  }

  @Test func fileReferencesAreEncodedAndDecoded() {
    var place = StatsPageLocation(path: "/dev/shm/a\nb", outcome: .opened(owner: 7))
    place.pages = [.init(number: 3, name: "1-x.page"), .init(number: 9, name: "strange\n.page")]
    let places = [
      place, StatsPageLocation(path: "", outcome: .foreign(owner: .max)),
      StatsPageLocation(
        path: "/x", outcome: .failed(FileFailure(function: "open", path: "/x", errno: 13))),
    ]
    #expect(
      StatsPageLocation.decode(TextFields.decode(TextFields.encode(places.flatMap(\.fields))))
        == places)
    // A truncated message gives fewer places, and nothing worse.
    let fields = places.flatMap(\.fields)
    for count in 0..<fields.count {
      #expect(StatsPageLocation.decode(Array(fields[..<count])).count <= 3)
    }
  }
}
