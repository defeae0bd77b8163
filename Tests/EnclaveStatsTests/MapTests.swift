// Page maps of chunks, compared with the commands that the publisher was given.

import EnclaveStats
import EnclaveSystem
import Foundation
import TestSupport
import Testing

@Suite struct MapTests {
  private static let gates =
    (try? String(contentsOfFile: "/proc/cpuinfo", encoding: .utf8))?.contains(" ospke") == true
    ? ["none", "pages", "key"] : ["none", "pages"]

  private let scratch: Scratch
  private let peer: Peer
  private let path: String

  init() throws {
    scratch = try Scratch(onTmpfs: true)
    peer = try Peer(stats: scratch)
    path = try peer.send("start")
  }

  private func attach() throws -> StatsPageReader {
    try StatsPageReader(OpenFile(reading: path, followingLinks: false))
  }

  /// The pages of all chunks in order, without empty ones.
  private func pages(_ reader: inout StatsPageReader) throws -> [PageContents] {
    let image = try reader.read()
    return zip(image.chunks, image.maps).flatMap { chunk, map in
      let count = min(PageContents.capacity, Int(chunk[.dataBytes]) / 4096)
      return (0..<count).compactMap { page in
        map.map { $0.contents(ofPage: page) }.flatMap { $0.kind == 0 ? nil : $0 }
      }
    }
  }

  private func expect(
    _ what: String, _ reader: inout StatsPageReader, _ condition: ([PageContents]) -> Bool
  ) throws {
    var last: [PageContents] = []
    let deadline = Date().addingTimeInterval(60)
    while Date() < deadline {
      last = try pages(&reader)
      if condition(last) { return }
      _ = poll(nil, 0, 5)
    }
    Issue.record("not within 60 s: \(what): \(last)")
  }

  @Test(arguments: gates) func mapsShowPagesOfSlabs(gate: String) throws {
    var reader = try attach()
    try peer.send("arena a alpha slab off \(gate)")
    try peer.send("alloc a 100 32")
    // 85 slots of 32 bytes fit a page; size class 2.
    try expect("100 secrets in two pages", &reader) { pages in
      pages.map(\.live) == [85, 15] && pages.allSatisfy { $0.kind == 2 && !$0.isOpen }
    }
    try peer.send("alloc a 2 4000")
    // A slab of four pages, which are opened together, holds three slots of 4096 bytes, size class
    // 16.
    try expect("two secrets in four pages", &reader) { pages in
      pages.dropFirst(2).map(\.live) == [2, 2, 2, 2]
        && pages.dropFirst(2).map(\.kind) == [16, 16, 16, 16]
        && pages.dropFirst(2).map(\.isContinuation) == [false, true, true, true]
    }
    try peer.send("hold a")
    try expect("the window lies in the last four", &reader) { pages in
      pages.map(\.isOpen) == [false, false, true, true, true, true]
    }
    try peer.send("release")
    try expect("no window", &reader) { $0.allSatisfy { !$0.isOpen } }
    try peer.send("free a 2")
    try expect("the four are free", &reader) { pages in
      pages.map(\.live) == [85, 15, 0, 0, 0, 0]
    }
    try peer.send("destroy a")
    try expect("all is gone", &reader) { $0.isEmpty }
    let image = try reader.read()
    #expect(image.maps.isEmpty)
  }

  @Test(arguments: gates) func mapsShowPagesOfIsolatedSecrets(gate: String) throws {
    var reader = try attach()
    try peer.send("arena a alpha isolated off \(gate)")
    try peer.send("alloc a 2 10000")
    try expect("two chunks, each one secret's", &reader) { pages in
      pages.map(\.live) == [1, 1] && pages.allSatisfy { $0.kind == PageContents.whole }
    }
    try peer.send("hold a")
    try expect("one is open", &reader) { $0.map(\.isOpen).sorted { !$0 && $1 } == [false, true] }
    try peer.send("release")
    // The chunk is kept for the next secret of three pages.
    try peer.send("free a 1")
    try expect("one is free", &reader) { $0.map(\.live).sorted() == [0, 1] }
  }

  /// More pages than one tick writes: the others follow at the next ticks.
  @Test func manyPagesTakeMoreTicks() throws {
    var reader = try attach()
    try peer.send("arena a alpha slab off none")
    try peer.send("alloc a 2000 4000")
    let pages = (2000 + 2) / 3 * 4
    try expect("\(pages) pages", &reader) { found in
      found.count == pages && found.dropLast(4).allSatisfy { $0.live == 3 }
        && found.last?.live == 2000 % 3
    }
    // … and changes are written wherever they are.
    try peer.send("hold a")
    try expect("one window", &reader) { $0.filter(\.isOpen).count == 4 }
  }

  @Test func pageContentsFitSixteenBits() {
    for bits: UInt64 in 0...0xffff {
      #expect(PageContents(bits: bits).bits == bits)
    }
    var contents = PageContents()
    contents.live = 1000
    #expect(PageContents(bits: contents.bits).live == 255)
  }

  /// Reading maps without secrets, and secrets without maps.
  @Test func onlyRequestedTablesAreRead() throws {
    var reader = try attach()
    try peer.send("arena a alpha slab off none")
    try peer.send("alloc a 3 32")
    try expect("three secrets", &reader) { $0.map(\.live) == [3] }
    let maps = try reader.read(.maps)
    #expect(maps.maps.count == 1 && maps.secrets.isEmpty && maps.labels.isEmpty)
    #expect(try !reader.read(.labels).labels.isEmpty)
    let secrets = try reader.read(.secrets)
    #expect(secrets.maps.isEmpty && secrets.secrets.count == 3)
    try peer.send("free a 1")
    try eventually("what changed unseen is read later") {
      _ = try reader.read([])
      return try reader.read(.maps).maps[0]?.contents(ofPage: 0).live == 2
    }
  }
}
