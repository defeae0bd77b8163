// The sizes of slab slots.

/// The slots of a slab: a payload followed by a canary. Strides are multiples of 16, so that
/// payloads are aligned to 16 and 170,000 secrets of 32 bytes fit in 8 MiB of locked memory (85 per
/// page). Waste within a class is at most a third above 32 bytes. Slabs have the smallest number of
/// pages that wastes at most an eighth.
struct SizeClass: Equatable {
  static let canaryBytes = 16

  var payload: Int
  var slabPages: Int

  var slotBytes: Int { payload + Self.canaryBytes }
  func slots(pageSize: Int) -> Int { slabPages * pageSize / slotBytes }

  static let all: [SizeClass] = [
    SizeClass(payload: 16, slabPages: 1),  // 128 slots of 32
    SizeClass(payload: 32, slabPages: 1),  // 85 of 48
    SizeClass(payload: 48, slabPages: 1),  // 64 of 64
    SizeClass(payload: 64, slabPages: 1),  // 51 of 80
    SizeClass(payload: 96, slabPages: 1),  // 36 of 112
    SizeClass(payload: 128, slabPages: 1),  // 28 of 144
    SizeClass(payload: 192, slabPages: 1),  // 19 of 208
    SizeClass(payload: 256, slabPages: 1),  // 15 of 272
    SizeClass(payload: 384, slabPages: 1),  // 10 of 400
    SizeClass(payload: 512, slabPages: 1),  // 7 of 528
    SizeClass(payload: 768, slabPages: 1),  // 5 of 784
    SizeClass(payload: 1024, slabPages: 2),  // 7 of 1040
    SizeClass(payload: 1536, slabPages: 2),  // 5 of 1552
    SizeClass(payload: 2048, slabPages: 2),  // 3 of 2064
    SizeClass(payload: 3072, slabPages: 4),  // 5 of 3088
    SizeClass(payload: 4096, slabPages: 4),  // 3 of 4112
  ]

  /// The largest request that a slab slot serves. Larger secrets get separate pages.
  static let largest = 4096

  /// The class for a request of 0 to `largest` bytes: a table with an entry per 16 bytes, no
  /// branches.
  static func index(for byteCount: Int) -> Int { Int(table[(byteCount + 15) >> 4]) }

  private static let table: [UInt8] = (0...(largest / 16)).map { sixteenths in
    UInt8(all.firstIndex { $0.payload >= sixteenths * 16 }!)
  }
}
