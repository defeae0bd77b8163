// The enumerations of the stats page. 0 means unknown in each; a reader shows a value that it does
// not know as `?N`.

package enum PublisherStateCode: UInt64, CaseIterable {
  case live = 1
  case closed = 2
}
package enum EmergencyWipeCode: UInt64, CaseIterable {
  case installed = 1
  case absent = 2
  case begun = 3
  case done = 4
  /// Done, except for windows that stayed open for writing.
  case left = 5
}
package enum AddressCode: UInt64, CaseIterable {
  case published = 1
  case withheld = 2
  case lost = 3
}
package enum LayoutCode: UInt64, CaseIterable {
  case slab = 1
  case isolated = 2
}
package enum GateCode: UInt64, CaseIterable {
  case key = 1
  case pages = 2
  case none = 3
  case cipher = 4
}
package enum BackingCode: UInt64, CaseIterable {
  case anonymous = 1
  case secret = 2
}
package enum LockPolicyCode: UInt64, CaseIterable {
  case required = 1
  case preferred = 2
  case off = 3
}
package enum LockStateCode: UInt64, CaseIterable {
  case locked = 1
  case partial = 2
  case unlocked = 3
  case off = 4
}
package enum ProtectionCode: UInt64, CaseIterable {
  case closed = 1
  case read = 2
  case readWrite = 3
  /// Closed by a cipher: the kernel cannot confirm it.
  case encrypted = 4
}
package enum SealCode: UInt64, CaseIterable {
  case open = 1
  case frozen = 2
  case sealed = 3
}
package enum ForkCode: UInt64, CaseIterable {
  case zeros = 1
  case absent = 2
  /// A forked child has a copy on purpose, locks it again and publishes it.
  case inherited = 3
}
package enum DumpCode: UInt64, CaseIterable {
  case excluded = 1
  case dumped = 2
}
package enum OriginCode: UInt64, CaseIterable {
  case label = 1
  case callSite = 2
}
package enum CipherCode: UInt64, CaseIterable {
  case aes256gcm = 1
  case xchacha20poly1305 = 2
}
package enum EventCode: UInt64, CaseIterable {
  case arenaCreated = 1
  case arenaDestroyed = 2
  case chunkMapped = 3
  case chunkUnmapped = 4
  case lockFailed = 5
  case allocationFailed = 6
  case openFailed = 7
  case closeFailed = 8
  case corruption = 9
  case publishingStarted = 10
  case addressesLost = 11
  case unmapFailed = 12
  case lockRestored = 13
  case arenaFrozen = 14
  case arenaSealed = 15
  case vaultRotated = 16
  case wiped = 17
}
