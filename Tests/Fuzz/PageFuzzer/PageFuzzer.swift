// page-fuzzer: runs all parsers of memwatch under libFuzzer and the address sanitizer.
//
// The first byte of an input selects the kind of the rest: `p` the records of a page with
// consistent sizes (read twice, drawn in every view, written in every format), `s` the text of
// smaps, `t` a text of another process, `r` a sample of a record; otherwise the input is a whole
// page. See Tests/Fuzz/run.

import EnclaveStats
import EnclaveSystem
import Foundation
import MemwatchInspector
import MemwatchSystem
import MemwatchTerminal

/// In-memory files instead of the system's.
final class InputFiles: FileOpening {
  nonisolated(unsafe) static var page: [UInt8] = []
  nonisolated(unsafe) static var smaps: [UInt8] = []
  static let page0: String = "/dev/shm/page"

  func open(_ file: InspectedFile) throws(FileFailure) -> OpenFile {
    switch file {
    case .named, .page: return try OpenFile(holding: Self.page, path: Self.page0)
    case .process(.smaps, _): return try OpenFile(holding: Self.smaps, path: "smaps")
    case .process(let kind, _):
      return try OpenFile(holding: Array(Self.text(kind).utf8), path: "\(kind)")
    case .children, .namespaces, .userName, .mapLimit, .host:
      return try OpenFile(holding: [], path: "none")
    }
  }
  private static func text(_ file: ProcessFile) -> String {
    switch file {
    case .stat: "1 (x) S 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 77 0 0"
    case .status: "VmLck:\t   128 kB\nTracerPid:\t0\nCapEff:\t0000000000000000\n"
    case .limits: "Max locked memory         65536                65536                bytes\n"
    default: ""
    }
  }
  func read(_ file: InspectedFile, limit: Int) -> [UInt8]? {
    guard let opened = try? open(file) else { return nil }
    return try? opened.readAll(limit: limit)
  }
  func search(inContainers: Bool) throws(FileFailure) -> [StatsPageLocation] { [] }
  func create(_ path: String, atomically: Bool) throws(FileFailure) -> OpenFile {
    throw FileFailure(function: "create", path: path, errno: 1)
  }
  func finish(_ path: String, keeping: Bool) throws(FileFailure) {}
}

/// Scalars that memwatch must never output: controls, escapes, directions.
func check(_ text: String, multiline: Bool = true) {
  for scalar in text.unicodeScalars {
    let isFine =
      scalar.value >= 0x20 && !(0x7f...0x9f).contains(scalar.value)
      && !(0x202a...0x202e).contains(scalar.value) && !(0x2066...0x2069).contains(scalar.value)
      && scalar.value != 0xfeff
    let isBreak = multiline && (scalar == "\n" || scalar == "\r")
    precondition(isFine || isBreak, "U+\(String(scalar.value, radix: 16)) came through")
  }
}

/// Only one size per input, so that there is time for more inputs.
func draw(_ model: Model, _ choice: Int) {
  var model = model
  let (width, height) = [(100, 30), (80, 24), (40, 10)][choice % 3]
  for view in View.allCases where view != .help && view != .host {
    model.view = view
    let (grid, _) = Renderer.render(
      model, width: width, height: height, style: Style(unicode: true), now: 1_795_236_404_000)
    check(grid.rows.map { String($0.compactMap(\.character)) }.joined(separator: "\n"))
    check(model.viewExport.csv)
    check(model.viewExport.text)
  }
}

/// A small page with consistent sizes. Everything else comes from the input: header, process,
/// calls, and the tables in order.
func page(_ input: [UInt8]) -> [UInt8] {
  let capacities = [4, 8, 8, 16, 16, 2, 8]
  let layout = StatsPageLayout(capacities: capacities)!
  var page = [UInt8](repeating: 0, count: layout.byteCount)
  var rest = input[...]
  func place(_ offset: Int, _ count: Int) {
    let part = rest.prefix(count)
    page.replaceSubrange(offset..<offset + part.count, with: part)
    rest = rest.dropFirst(count)
  }
  place(0, StatsPageFormat.headerBytes)
  place(StatsPageFormat.processOffset, StatsPageFormat.processBytes)
  place(StatsPageFormat.callsOffset, StatsPageFormat.callCapacity * 32)
  for table in StatsPageTable.allCases {
    place(layout.offset(table, 0), layout.capacity(table) * table.recordBytes)
  }
  func set(_ word: HeaderWord, _ offset: Int, _ value: UInt64) {
    let at = (word.rawValue + offset) * 8
    for byte in 0..<8 { page[at + byte] = UInt8(truncatingIfNeeded: value >> (8 * byte)) }
  }
  set(.magic, 0, StatsPageFormat.magic)
  set(.version, 0, StatsPageFormat.major << 32)
  set(.byteCount, 0, UInt64(layout.byteCount))
  set(.callBytes, 0, 32)
  for table in StatsPageTable.allCases {
    set(.arenaCapacity, table.rawValue, UInt64(capacities[table.rawValue]))
    set(.arenaBytes, table.rawValue, UInt64(table.recordBytes))
  }
  return page
}

func readPage(_ bytes: [UInt8]) {
  InputFiles.page = bytes
  guard let inspector = try? Inspector.attach(to: .file("page"), retryMilliseconds: 0) else {
    return
  }
  var model = Model(intervalMs: 1000)
  var snapshot = inspector.sample(auditing: .never)
  model.update(snapshot)
  _ = model.handle(.character("m"), now: 0)
  // The same page with its last third reversed, for rates, histories and differences.
  var other = bytes
  other.replaceSubrange((bytes.count * 2 / 3)..., with: bytes[(bytes.count * 2 / 3)...].reversed())
  InputFiles.page = other
  let before = snapshot
  snapshot = inspector.sample(auditing: .never)
  snapshot.sampledAt = before.sampledAt + 1000
  model.update(snapshot)
  _ = model.handle(.enter, now: 0)
  draw(model, bytes.reduce(0) { $0 &+ Int($1) })
  check(snapshot.text)
  check(snapshot.csv)
  check(snapshot.withoutLabels.text)
  for line in snapshot.changes(since: before) { check(line, multiline: false) }
  _ = snapshot.check(Requirement.usual)
  check(Screen.picture(of: [snapshot], width: 80, height: 24))
  if bytes.count % 8 == 0, let encoded = try? JSONEncoder().encode(snapshot) {
    _ = try? JSONDecoder().decode(Snapshot.self, from: encoded)
  }
}

func readSmaps(_ bytes: [UInt8]) {
  InputFiles.smaps = bytes
  if let regions = try? Regions(pid: 1) {
    let all = regions.all
    precondition(zip(all, all.dropFirst()).allSatisfy { $0.end <= $1.start }, "regions overlap")
    for region in all.prefix(4) {
      let range = min(region.start, .max - 8192)..<min(region.end, .max - 8192) + 8192
      precondition(regions.bytes(in: range) { _ in true } <= range.upperBound - range.lowerBound)
    }
  }
  guard let survey = try? Survey(pid: 1) else { return }
  check(survey.text)
}

func readRecord(_ bytes: [UInt8]) {
  guard let snapshot = try? JSONDecoder().decode(Snapshot.self, from: Data(bytes)) else { return }
  var model = Model(intervalMs: 1000)
  model.replay([snapshot], at: 0)
  draw(model, bytes.count)
  check(snapshot.text)
}

@_cdecl("LLVMFuzzerInitialize")
public func begin(_ count: UnsafeMutableRawPointer, _ arguments: UnsafeMutableRawPointer) -> Int32 {
  FileOpener.use(InputFiles())
  return 0
}

@_cdecl("LLVMFuzzerTestOneInput")
public func fuzz(_ bytes: UnsafePointer<UInt8>?, _ count: Int) -> Int32 {
  guard let bytes, count > 0 else { return 0 }
  let input = Array(UnsafeBufferPointer(start: bytes, count: count))
  let rest = Array(input.dropFirst())
  switch input[0] {
  case UInt8(ascii: "s"): readSmaps(rest)
  case UInt8(ascii: "t"): check(SafeText(rest, limit: 4096).string, multiline: false)
  case UInt8(ascii: "r"): readRecord(rest)
  case UInt8(ascii: "p"): readPage(page(rest))
  default: readPage(rest)
  }
  return 0
}
