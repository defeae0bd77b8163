// The tables of the stats page, and their positions.

/// The tables of records.
package enum StatsPageTable: Int, CaseIterable {
  case arenas, labels, chunks, secrets, events, vaults, maps

  /// The bytes of one record in this version of the format.
  package var recordBytes: Int {
    switch self {
    case .arenas: 640
    case .labels: 192
    case .chunks, .secrets, .events: 64
    case .vaults: 256
    case .maps: 144
    }
  }

  /// Whether each block of 64 records has a stamp that changes with any of them.
  package var isStamped: Bool {
    switch self {
    case .arenas, .labels, .chunks, .secrets, .maps: true
    case .events, .vaults: false
    }
  }
}

/// The positions of all tables, computed from the capacities alone.
package struct StatsPageLayout: Equatable, Sendable {
  package private(set) var capacities: [Int]
  package private(set) var recordBytes: [Int]
  package private(set) var offsets: [Int] = []
  package private(set) var stampOffsets: [Int] = []
  package private(set) var byteCount = 0

  /// Returns nil if a number is negative or too large, or a record is smaller than in this version.
  package init?(capacities: [Int], recordBytes: [Int]) {
    guard capacities.count == StatsPageTable.allCases.count, recordBytes.count == capacities.count
    else { return nil }
    self.capacities = capacities
    self.recordBytes = recordBytes
    var stamp = StatsPageFormat.stampsOffset
    for table in StatsPageTable.allCases {
      let capacity = capacities[table.rawValue]
      let bytes = recordBytes[table.rawValue]
      guard (0...(1 << 22)).contains(capacity), (table.recordBytes...4096).contains(bytes),
        bytes % 8 == 0
      else { return nil }
      stampOffsets.append(stamp)
      if table.isStamped {
        stamp += (capacity + StatsPageFormat.blockRecords - 1) / StatsPageFormat.blockRecords * 8
      }
    }
    var offset = (stamp + 4095) & ~4095
    for table in StatsPageTable.allCases {
      offsets.append(offset)
      offset += capacities[table.rawValue] * recordBytes[table.rawValue]
      guard offset <= StatsPageFormat.maximumBytes else { return nil }
    }
    byteCount = (offset + 4095) & ~4095
  }

  package init?(capacities: [Int]) {
    self.init(capacities: capacities, recordBytes: StatsPageTable.allCases.map(\.recordBytes))
  }

  package func capacity(_ table: StatsPageTable) -> Int { capacities[table.rawValue] }
  package func offset(_ table: StatsPageTable, _ index: Int) -> Int {
    offsets[table.rawValue] + index * recordBytes[table.rawValue]
  }
}
