// One allocation, and the scoped access to it.

import EnclaveSystem

/// A secret: one allocation in an arena, owned by whoever holds this value.
///
/// Its bytes are reached through a span that cannot leave the closure that it is given to. What the
/// closure copies out of the span can: registers, stack temporaries and copies are the caller's to
/// care for.
///
/// When the value goes, the bytes are wiped and the slot is free. The value itself is a handle of
/// four words; it holds the arena's memory alive, without reference counting.
///
/// Threads: a secret can be sent to another thread, and used by one at a time; `SecretReference` is
/// for many.
@safe
public struct Secret: ~Copyable, @unchecked Sendable {
  package private(set) var handle: SecretHandle

  init(handle: SecretHandle) { self.handle = handle }

  deinit {
    // Failing here is counted and shown on the page; `destroy` is there for who wants to know.
    _ = try? arena.free(handle)
  }

  private var arena: ArenaReference { handle.arena }

  /// The size in bytes that was asked for.
  public var byteCount: Int { Int(handle.byteCount) }

  /// What the secret is counted under.
  package var labelKey: LabelKey {
    arena.withCore { core in core.labels.entries[Int(handle.label)].key }
  }

  /// Aligned as what a window shows is.
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
  @usableFromInline var loss: EnclaveError { handle.loss }

  /// Closes the window of a body that threw.
  @usableFromInline
  func abandonWindow(writing: Bool, _ found: UInt64) {
    handle.closeWindow(writing: writing, found)
  }

  /// Opens a window for reading, and closes it when the body returns or throws.
  ///
  /// Windows nest. With a page gate other threads can read the pages while the window is open.
  /// The body is synchronous: no window stays open across a suspension.
  ///
  /// - Throws: `AccessError.access` when the window cannot be opened (`destroyed`,
  ///   `inheritedByFork`, `system`; `busy`, see there), or when its contents were lost while it was
  ///   open: everything was wiped (`destroyed`), or this is a child that the body forked
  ///   (`inheritedByFork`). The body's result is dropped then, since it may have read zeros.
  ///   `AccessError.body` with what the body threw.
  /// - Complexity: O(1): under a page gate two mprotect(2) calls, else none.
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
    guard closeWindow(writing: false, found) else { throw .access(loss) }
    return result
  }

  /// Opens a window for reading and writing, and closes it when the body returns or throws.
  ///
  /// - Throws: as `withBytes(_:)`.
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
    guard closeWindow(writing: true, found) else { throw .access(loss) }
    return result
  }

  /// Whether two secrets have the same bytes, in a time that depends on their length alone.
  ///
  /// - Throws: when either cannot be opened.
  public borrowing func isEqual(to other: borrowing Secret) throws(EnclaveError) -> Bool {
    guard byteCount == other.byteCount else { return false }
    let (a, b) = (handle, other.handle)
    return unsafe try a.withWindow(writing: false) { first throws(EnclaveError) in
      unsafe try b.withWindow(writing: false) { second throws(EnclaveError) in
        unsafe EnclaveSystem.isEqual(first, second, byteCount: Int(a.byteCount))
      }
    }
  }

  /// Whether the secret has these bytes, in a time that depends on their number alone: a token that a
  /// client sent, say. (Whether the lengths differ can be told from the time.)
  ///
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

  /// As `isEqual(to:)` of a span, for an array, `Data`, or a string's `utf8`.
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

  /// Makes the secret larger or smaller: what it has of the new size stays, the rest is zeros. The
  /// secret may move; what it leaves is wiped.
  ///
  /// - Throws: as `Arena.allocate`; `frozen`; `windowsOpen` while another thread reads it. Nothing has
  ///   changed then.
  /// - Complexity: O(1) within its slot, else O(size).
  public mutating func resize(to byteCount: Int) throws(EnclaveError) {
    handle = try handle.resize(to: byteCount)
  }

  /// Allocates a secret of the same size in another arena, or the same, and copies the bytes there.
  ///
  /// - Throws: as `Arena.allocate`, or when this secret cannot be opened.
  public borrowing func copy(
    into arena: Arena, label: Label? = nil, file: StaticString = #fileID, line: UInt32 = #line
  ) throws(EnclaveError) -> Secret {
    let copy = try arena.allocate(byteCount: byteCount, label: label, file: file, line: line)
    try handle.copy(into: copy.handle)
    return copy
  }

  /// Moves the bytes into another arena: copies them there, and wipes and frees this secret.
  ///
  /// - Throws: as `copy(into:)`, and this secret is as it was then; as `destroy`, and the copy is
  ///   gone then.
  public consuming func move(
    into arena: Arena, label: Label? = nil, file: StaticString = #fileID, line: UInt32 = #line
  ) throws(EnclaveError) -> Secret {
    let copy = try copy(into: arena, label: label, file: file, line: line)
    try destroy()
    return copy
  }

  /// Wipes the bytes and frees the slot. Letting the value go does the same and tells nobody when
  /// it fails.
  ///
  /// - Throws: `system` when the pages could not be opened to be wiped: the slot is not used again,
  ///   and is wiped when the arena is destroyed. `inheritedByFork` in a child, where there is
  ///   nothing to wipe.
  public consuming func destroy() throws(EnclaveError) {
    let handle = self.handle
    let arena = self.arena
    discard self
    try arena.free(handle)
  }

  /// Takes the address out of the handle, for code that works with pointers. From now on
  /// `Arena.free(_:)` frees the secret, and the arena's gate decides who can touch it.
  @unsafe
  public consuming func leak() -> UnsafeMutableRawPointer {
    let address = unsafe handle.address
    discard self
    return unsafe address
  }
}

/// A secret that many can read: what an array, a dictionary, an actor or many tasks can hold.
///
/// The last reference to go wipes it.
public final class SecretReference: Sendable {
  private let secret: Secret

  /// Takes a secret over.
  public init(_ secret: consuming Secret) { self.secret = secret }

  /// The size in bytes.
  public var byteCount: Int { secret.byteCount }

  /// Opens a window for reading; see `Secret.withBytes(_:)`. Any number of threads at a time.
  public func withBytes<R: ~Copyable, E: Error>(
    _ body: (RawSpan) throws(E) -> R
  ) throws(AccessError<E>) -> R {
    try secret.withBytes(body)
  }

  /// Allocates a secret of the same size in an arena and copies the bytes there.
  public func copy(
    into arena: Arena, label: Label? = nil, file: StaticString = #fileID, line: UInt32 = #line
  ) throws(EnclaveError) -> Secret {
    try secret.copy(into: arena, label: label, file: file, line: line)
  }

  /// Lends the secret.
  package func withSecret<R: ~Copyable, E: Error>(
    _ body: (borrowing Secret) throws(E) -> R
  ) throws(E) -> R { try body(secret) }

  /// Whether two secrets have the same bytes, in a time that depends on their length alone.
  public func isEqual(to other: SecretReference) throws(EnclaveError) -> Bool {
    try secret.isEqual(to: other.secret)
  }

  /// Whether the secret has these bytes; see `Secret.isEqual(to:)`.
  public func isEqual(to bytes: RawSpan) throws(EnclaveError) -> Bool {
    try secret.isEqual(to: bytes)
  }

  /// Whether the secret has these bytes; see `Secret.isEqual(to:)`.
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
  /// The size, nothing else.
  public var description: String { "SecretReference(\(byteCount) bytes)" }
}
