// The README's example, compiled.

import Enclave

@main
struct Consumer {
  static func main() throws {
    let arena = try Arena("tls-keys", .init(layout: .isolated, lock: .preferred))
    try StatsPublisher.start().keepUntilExit()  // memwatch can attach from now on

    var key = try arena.allocate(byteCount: 32, label: "session ticket key")
    try key.withMutableBytes { bytes in
      for offset in 0..<bytes.byteCount {
        bytes.storeBytes(of: 0x42, toByteOffset: offset, as: UInt8.self)
      }
    }
    let first = try key.withBytes { $0.unsafeLoad(as: UInt8.self) }
    print(first)  // 66
    try key.destroy()  // wiped; letting it go out of scope does the same
  }
}
