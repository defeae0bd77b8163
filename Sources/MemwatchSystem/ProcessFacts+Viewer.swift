// User names and local times, for the viewer only.

internal import CMemwatchSystem
package import EnclaveSystem

extension ProcessFacts {
  /// The name of a user; nil if there is no such user.
  package static func userName(_ uid: UInt32) -> String? {
    var bytes = [CChar](repeating: 0, count: 256)
    guard unsafe cms_user_name(uid, &bytes, bytes.count) >= 0 else { return nil }
    return String(decoding: bytes.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
  }

  /// `14:02:11`, or `2026-11-21 14:02:11`, in the local time zone.
  package static func localTime(_ seconds: UInt64, withDate: Bool) -> String {
    var bytes = [CChar](repeating: 0, count: 64)
    _ = unsafe cms_local_time(Int64(clamping: seconds), withDate, &bytes, bytes.count)
    return String(decoding: bytes.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
  }
}
