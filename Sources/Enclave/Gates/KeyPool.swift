// Fifteen protection keys for any number of arenas.

import EnclaveSystem

/// The kind of arenas that a key serves. A window to a writable arena must not make a frozen arena
/// writable or a vault readable, so arenas of different kinds never share a key.
enum KeyKind: Sendable { case writable, frozen, vault }

/// The process's protection keys. They are allocated from the kernel on demand and never freed: the
/// kernel could hand out a freed key again, open, while pages still carry it. A key that no arena
/// uses any more goes to the next arena.
///
/// Each arena gets its own key as long as there are some; then arenas of one kind share. Three keys
/// are reserved for frozen arenas and vaults.
enum KeyPool {
  struct Entry {
    let key: Int
    /// nil if no arena uses it.
    var kind: KeyKind?
    /// How many arenas use it.
    var owners = 0
    /// Its owner asked not to share it.
    var isExclusive = false
    /// Sealed pages carry it until the process ends, so it can only serve frozen arenas.
    var isBound = false
  }

  static let writableLimit = 12

  nonisolated(unsafe) private static let word: UnsafeMutablePointer<UInt32> =
    unsafe makeLockWord()
  nonisolated(unsafe) private static var entries: [Entry] = []

  /// Takes a key for an arena.
  static func take(_ kind: KeyKind, isExclusive: Bool) throws(SystemFailure) -> Int {
    unsafe lockInProcess(word)
    defer { unsafe unlock(word) }
    return try pick(kind, isExclusive: isExclusive)
  }

  private static func pick(_ kind: KeyKind, isExclusive: Bool) throws(SystemFailure) -> Int {
    func assign(_ index: Int) -> Int {
      unsafe entries[index].kind = kind
      unsafe entries[index].owners += 1
      unsafe entries[index].isExclusive = isExclusive
      return unsafe entries[index].key
    }
    if let index = unsafe entries.firstIndex(where: { $0.owners == 0 && !$0.isBound }) {
      return assign(index)
    }
    var failure: SystemFailure?
    let mayHaveMore =
      unsafe kind != .writable || isExclusive
      || entries.count(where: { $0.kind == .writable }) < writableLimit
    if mayHaveMore {
      do {
        unsafe entries.append(Entry(key: try ProtectionKey.allocate(), kind: nil))
        return unsafe assign(entries.count - 1)
      } catch { failure = error }
    }
    let shared = unsafe entries.indices.filter {
      unsafe entries[$0].kind == kind && !entries[$0].isExclusive
    }
    .min { unsafe entries[$0].owners < entries[$1].owners }
    if !isExclusive, let shared {
      unsafe entries[shared].owners += 1
      return unsafe entries[shared].key
    }
    // The kernel returns ENOSPC (28) when all keys are taken.
    throw failure ?? SystemFailure(.allocateKey, errno: 28)
  }

  /// Returns the key for an arena that is being frozen: its own key if no other arena uses it,
  /// otherwise one that only frozen arenas use. In that case it calls `retag`, outside the pool's
  /// lock, to move the arena's pages to the new key; the arena owns both keys until then.
  static func freeze(
    _ key: Int, isExclusive: Bool, retag: (Int) throws(SystemFailure) -> Void
  ) throws(SystemFailure) -> Int {
    let new = try pickFrozen(key, isExclusive: isExclusive)
    guard new != key else { return key }
    do { try retag(new) } catch {
      release(new)
      throw error
    }
    release(key)
    return new
  }

  private static func pickFrozen(_ key: Int, isExclusive: Bool) throws(SystemFailure) -> Int {
    unsafe lockInProcess(word)
    defer { unsafe unlock(word) }
    guard let index = unsafe entries.firstIndex(where: { $0.key == key }) else { return key }
    if unsafe entries[index].kind == .frozen { return key }
    if unsafe entries[index].owners == 1 {
      unsafe entries[index].kind = .frozen
      return key
    }
    return try pick(.frozen, isExclusive: isExclusive)
  }

  /// Whether freezing an arena with this key needs another key.
  static func isShared(_ key: Int) -> Bool {
    unsafe lockInProcess(word)
    defer { unsafe unlock(word) }
    return unsafe entries.contains { $0.key == key && $0.kind != .frozen && $0.owners > 1 }
  }

  /// Records that pages carry the key until the process ends.
  static func bind(_ key: Int) {
    unsafe lockInProcess(word)
    if let index = unsafe entries.firstIndex(where: { $0.key == key }) {
      unsafe entries[index].isBound = true
    }
    unsafe unlock(word)
  }

  /// Returns an arena's key to the pool.
  static func release(_ key: Int) {
    unsafe lockInProcess(word)
    releaseLocked(key)
    unsafe unlock(word)
  }

  private static func releaseLocked(_ key: Int) {
    guard let index = unsafe entries.firstIndex(where: { $0.key == key }) else { return }
    unsafe entries[index].owners -= 1
    if unsafe entries[index].owners == 0 {
      unsafe entries[index].isExclusive = false
      if unsafe !entries[index].isBound { unsafe entries[index].kind = nil }
    }
  }

  /// In a forked child: releases every key, because the parent's arenas are zeros or absent here.
  static func releaseAll() {
    unsafe lockInProcess(word)
    defer { unsafe unlock(word) }
    for index in unsafe entries.indices {
      unsafe entries[index].owners = 0
      unsafe entries[index].isExclusive = false
      if unsafe !entries[index].isBound { unsafe entries[index].kind = nil }
    }
  }
}
