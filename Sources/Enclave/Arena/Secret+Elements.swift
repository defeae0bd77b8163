// Secrets as integers.

extension Secret {
  /// Opens a window for reading, as integers. Bytes that do not make a whole integer are left out.
  ///
  /// - Throws: as `withBytes(_:)`; `AccessError.access(.misaligned)` when the secret was allocated
  ///   with a smaller alignment than the integer's.
  @inlinable
  public borrowing func withElements<
    Element: FixedWidthInteger & BitwiseCopyable, R: ~Copyable, E: Error
  >(
    of type: Element.Type, _ body: (Span<Element>) throws(E) -> R
  ) throws(AccessError<E>) -> R {
    // Every bit pattern of an integer is one.
    try unsafe withUnsafeElements(of: type, body)
  }

  /// Opens a window for reading and writing, as integers.
  ///
  /// - Throws: as `withElements(of:_:)`.
  @inlinable
  public mutating func withMutableElements<
    Element: FixedWidthInteger & BitwiseCopyable, R: ~Copyable, E: Error
  >(
    of type: Element.Type, _ body: (inout MutableSpan<Element>) throws(E) -> R
  ) throws(AccessError<E>) -> R {
    guard isAligned(for: Element.self) else { throw .access(.misaligned(for: Element.self)) }
    let (start, count) = unsafe (start, byteCount / MemoryLayout<Element>.stride)
    return try withMutableBytes { (_: inout MutableRawSpan) throws(E) -> R in
      var span = unsafe MutableSpan<Element>(
        _unsafeStart: start.assumingMemoryBound(to: Element.self), count: count)
      return try body(&span)
    }
  }

  /// As `withElements(of:_:)`, for any trivial type: whether its bit patterns are valid is the
  /// caller's to know.
  @unsafe @inlinable
  public borrowing func withUnsafeElements<Element: BitwiseCopyable, R: ~Copyable, E: Error>(
    of type: Element.Type, _ body: (Span<Element>) throws(E) -> R
  ) throws(AccessError<E>) -> R {
    guard isAligned(for: Element.self) else { throw .access(.misaligned(for: Element.self)) }
    let (start, count) = unsafe (start, byteCount / MemoryLayout<Element>.stride)
    return try withBytes { (_: RawSpan) throws(E) -> R in
      let span = unsafe Span<Element>(
        _unsafeStart: UnsafePointer(start.assumingMemoryBound(to: Element.self)), count: count)
      return try body(span)
    }
  }

  /// "Secret(32 bytes)": no contents.
  public var description: String { "Secret(\(byteCount) bytes)" }
}

extension SecretReference: CustomReflectable {
  public var customMirror: Mirror { Mirror(self, children: []) }
}

extension Secret {
  @inlinable
  borrowing func isAligned<Element>(for type: Element.Type) -> Bool {
    unsafe Int(bitPattern: start) % MemoryLayout<Element>.alignment == 0
  }
}

extension EnclaveError {
  @inlinable
  static func misaligned<Element>(for type: Element.Type) -> EnclaveError {
    .misaligned(neededAlignment: MemoryLayout<Element>.alignment)
  }
}
