// One allocation, and scoped access to it.

import EnclaveSystem

/// A secret: one allocation in an arena, owned by the holder of this value.
///
/// Its bytes are accessible through a span that cannot leave its closure. What the closure copies
/// out of the span can: registers, stack temporaries and copies are the caller's responsibility.
///
/// When the value is destroyed, the bytes are wiped and the slot is freed. The value is a handle of
/// four words that keeps the arena's memory alive without reference counting.
///
/// Threads: a secret can be sent to another thread, but only one thread uses it at a time. For
/// sharing, use `SecretReference`.
@safe
public struct Secret: ~Copyable, @unchecked Sendable {
  package private(set) var handle: SecretHandle

  init(handle: SecretHandle) { self.handle = handle }

  deinit {
    // A failure is counted and shown on the stats page. `destroy` reports it to the caller.
    _ = try? arena.free(handle)
  }

  private var arena: ArenaReference { handle.arena }

  /// The requested size in bytes.
  public var byteCount: Int { Int(handle.byteCount) }

  /// The label that the secret is counted under.
  package var labelKey: LabelKey {
    arena.withCore { core in core.labels.entries[Int(handle.label)].key }
  }

  /// Has the same alignment as the address that a window shows.
  @usableFromInline var slotStart: UnsafeMutableRawPointer { unsafe handle.address }

  @usableFromInline
  func start(_ found: UInt64) -> UnsafeMutableRawPointer { unsafe handle.bytes(found) }

  @usableFromInline
  func openWindow(writing: Bool) throws(EnclaveError) -> UInt64 {
    try handle.openWindow(writing: writing)
  }

  @usableFromInline
  func closeWindow(writing: Bool, _ found: UInt64) -> Bool {
    handle.closeWindow(writing: writing, found)
  }

  /// Why closing a window returned false.
  @usableFromInline var lossReason: EnclaveError { handle.lossReason }

  /// Closes the window of a body that threw.
  @usableFromInline
  func abandonWindow(writing: Bool, _ found: UInt64) {
    handle.closeWindow(writing: writing, found)
  }

  /// Opens a window for reading, and closes it when the body returns or throws.
  ///
  /// Windows nest. Under a page gate, other threads can read the pages while the window is open.
  /// The body is synchronous, so no window stays open across a suspension.
  ///
  /// - Throws: `AccessError.access` if the window cannot be opened (`destroyed`, `inheritedByFork`,
  ///   `system`, or `busy`, see there), or if its contents were lost while it was open: because everything
  ///   was wiped (`destroyed`), or because this is a child that the body forked (`inheritedByFork`). The
  ///   body's result is then dropped, since it may have read zeros. `AccessError.body` with the body's error.
  /// - Complexity: O(1): two mprotect(2) calls under a page gate, otherwise none. Under a cipher gate,
  ///   O(size).
  @inlinable
  public borrowing func withBytes<R: ~Copyable, E: Error>(
    _ body: (RawSpan) throws(E) -> R
  ) throws(AccessError<E>) -> R {
    let found: UInt64
    do { found = try openWindow(writing: false) } catch { throw .access(error) }
    let result: R
    do {
      result = unsafe try body(RawSpan(_unsafeStart: start(found), byteCount: byteCount))
    } catch {
      abandonWindow(writing: false, found)
      throw .body(error)
    }
    guard closeWindow(writing: false, found) else { throw .access(lossReason) }
    return result
  }

  /// Opens a window for reading and writing, and closes it when the body returns or throws.
  ///
  /// - Throws: like `withBytes(_:)`.
  @inlinable
  public mutating func withMutableBytes<R: ~Copyable, E: Error>(
    _ body: (inout MutableRawSpan) throws(E) -> R
  ) throws(AccessError<E>) -> R {
    let found: UInt64
    do { found = try openWindow(writing: true) } catch { throw .access(error) }
    let result: R
    do {
      var span = unsafe MutableRawSpan(_unsafeStart: start(found), byteCount: byteCount)
      result = try body(&span)
    } catch {
      abandonWindow(writing: true, found)
      throw .body(error)
    }
    guard closeWindow(writing: true, found) else { throw .access(lossReason) }
    return result
  }

  /// Whether two secrets have equal bytes. The time depends on their length alone.
  ///
  /// - Throws: if either cannot be opened.
  public borrowing func isEqual(to other: borrowing Secret) throws(EnclaveError) -> Bool {
    guard byteCount == other.byteCount else { return false }
    let (a, b) = (handle, other.handle)
    return unsafe try a.withWindow(writing: false) { first throws(EnclaveError) in
      unsafe try b.withWindow(writing: false) { second throws(EnclaveError) in
        unsafe EnclaveSystem.isEqual(first, second, byteCount: Int(a.byteCount))
      }
    }
  }

  /// Whether the secret equals these bytes, for example a token sent by a client. The time depends
  /// on their number alone. (A difference in length can be told from the time.)
  ///
  /// - Throws: if the secret cannot be opened.
  /// - Throws: when the secret cannot be opened.
  public borrowing func isEqual(to bytes: RawSpan) throws(EnclaveError) -> Bool {
    guard byteCount == bytes.byteCount else { return false }
    let handle = handle
    return unsafe try handle.withWindow(writing: false) { address throws(EnclaveError) in
      unsafe bytes.withUnsafeBytes { raw in
        guard let other = raw.baseAddress else { return true }
        return unsafe EnclaveSystem.isEqual(address, other, byteCount: raw.count)
      }
    }
  }

  /// Like `isEqual(to:)` with a span, for an array, `Data`, or a string's `utf8`.
  public borrowing func isEqual(to bytes: some Collection<UInt8>) throws(EnclaveError) -> Bool {
    guard byteCount == bytes.count else { return false }
    let handle = handle
    let result: Result<Bool, EnclaveError>? = bytes.withContiguousStorageIfAvailable { bytes in
      do throws(EnclaveError) {
        return .success(
          unsafe try handle.withWindow(writing: false) { address throws(EnclaveError) in
            guard let other = bytes.baseAddress else { return true }
            return unsafe EnclaveSystem.isEqual(address, other, byteCount: bytes.count)
          })
      } catch { return .failure(error) }
    }
    guard let result else { return try isEqual(to: Array(bytes)) }
    return try result.get()
  }

  /// Changes the secret's size. The contents are kept up to the new size; added bytes are zero. The
  /// secret may move, and then its old memory is wiped.
  ///
  /// - Throws: like `Arena.allocate`; `frozen`; `windowsOpen` while another thread reads it. Then
  ///   nothing has changed.
  ///
  /// - Complexity: O(1) within its slot, otherwise O(size).
  public mutating func resize(to byteCount: Int) throws(EnclaveError) {
    handle = try handle.resize(to: byteCount)
  }

  /// Allocates a secret of the same size in an arena, and copies the bytes into it.
  ///
  /// - Throws: like `Arena.allocate`, or if this secret cannot be opened.
  public borrowing func copy(
    into arena: Arena, label: Label? = nil, file: StaticString = #fileID, line: UInt32 = #line
  ) throws(EnclaveError) -> Secret {
    let copy = try arena.allocate(byteCount: byteCount, label: label, file: file, line: line)
    try handle.copy(into: copy.handle)
    return copy
  }

  /// Moves the bytes into another arena: copies them, then wipes and frees this secret.
  ///
  /// - Throws: like `copy(into:)`, and then this secret is unchanged; like `destroy`, and then the
  ///   copy is freed.
  public consuming func move(
    into arena: Arena, label: Label? = nil, file: StaticString = #fileID, line: UInt32 = #line
  ) throws(EnclaveError) -> Secret {
    let copy = try copy(into: arena, label: label, file: file, line: line)
    try destroy()
    return copy
  }

  /// Wipes the bytes and frees the slot. Destroying the value does the same, but cannot report a
  /// failure.
  ///
  /// - Throws: `system` if the pages could not be opened for wiping: then the slot is not reused,
  ///   and it is wiped when the arena is destroyed. `inheritedByFork` in a child, where there is
  ///   nothing to wipe.
  public consuming func destroy() throws(EnclaveError) {
    let handle = self.handle
    let arena = self.arena
    discard self
    try arena.free(handle)
  }

  /// Returns the address and gives up ownership, for code that works with pointers. From then on
  /// `Arena.free(_:)` frees the secret, and the arena's gate decides who can access it.
  @unsafe
  public consuming func leak() -> UnsafeMutableRawPointer {
    let address = unsafe handle.address
    discard self
    return unsafe address
  }
}

/// A secret that many can read: arrays, dictionaries, actors and tasks can hold references to it.
///
/// Releasing the last reference wipes it.
public final class SecretReference: Sendable {
  private let secret: Secret

  /// Takes ownership of a secret.
  public init(_ secret: consuming Secret) { self.secret = secret }

  /// The size in bytes.
  public var byteCount: Int { secret.byteCount }

  /// Opens a window for reading; see `Secret.withBytes(_:)`. Any number of threads at a time.
  public func withBytes<R: ~Copyable, E: Error>(
    _ body: (RawSpan) throws(E) -> R
  ) throws(AccessError<E>) -> R {
    try secret.withBytes(body)
  }

  /// Allocates a secret of the same size in an arena, and copies the bytes into it.
  public func copy(
    into arena: Arena, label: Label? = nil, file: StaticString = #fileID, line: UInt32 = #line
  ) throws(EnclaveError) -> Secret {
    try secret.copy(into: arena, label: label, file: file, line: line)
  }

  /// Lends the secret to the body.
  package func withSecret<R: ~Copyable, E: Error>(
    _ body: (borrowing Secret) throws(E) -> R
  ) throws(E) -> R { try body(secret) }

  /// Whether two secrets have equal bytes. The time depends on their length alone.
  public func isEqual(to other: SecretReference) throws(EnclaveError) -> Bool {
    try secret.isEqual(to: other.secret)
  }

  /// Whether the secret equals these bytes; see `Secret.isEqual(to:)`.
  public func isEqual(to bytes: RawSpan) throws(EnclaveError) -> Bool {
    try secret.isEqual(to: bytes)
  }

  /// Whether the secret equals these bytes; see `Secret.isEqual(to:)`.
  public func isEqual(to bytes: some Collection<UInt8>) throws(EnclaveError) -> Bool {
    try secret.isEqual(to: bytes)
  }

  /// Opens a window for reading, as integers; see `Secret.withElements(of:_:)`.
  public func withElements<Element: FixedWidthInteger & BitwiseCopyable, R: ~Copyable, E: Error>(
    of type: Element.Type, _ body: (Span<Element>) throws(E) -> R
  ) throws(AccessError<E>) -> R {
    try secret.withElements(of: type, body)
  }
}

extension SecretReference: CustomStringConvertible {
  /// The size and nothing else.
  public var description: String { "SecretReference(\(byteCount) bytes)" }
}
