// Access to a secret's bytes as integers or other trivial values.

extension Secret {
  /// Opens a window for reading, as integers. Trailing bytes that do not form a whole integer are
  /// left out.
  ///
  /// - Throws: like `withBytes(_:)`; `AccessError.access(.misaligned)` if the secret was allocated
  ///   with a smaller alignment than the integer needs.
  @inlinable
  public borrowing func withElements<
    Element: FixedWidthInteger & BitwiseCopyable, R: ~Copyable, E: Error
  >(
    of type: Element.Type, _ body: (Span<Element>) throws(E) -> R
  ) throws(AccessError<E>) -> R {
    // Every bit pattern is a valid integer.
    try unsafe withUnsafeElements(of: type, body)
  }

  /// Opens a window for reading and writing, as integers.
  ///
  /// - Throws: like `withElements(of:_:)`.
  @inlinable
  public mutating func withMutableElements<
    Element: FixedWidthInteger & BitwiseCopyable, R: ~Copyable, E: Error
  >(
    of type: Element.Type, _ body: (inout MutableSpan<Element>) throws(E) -> R
  ) throws(AccessError<E>) -> R {
    guard isAligned(for: Element.self) else { throw .access(.misaligned(for: Element.self)) }
    return try withMutableBytes { (bytes: inout MutableRawSpan) throws(E) -> R in
      unsafe try bytes.withUnsafeMutableBytes { raw throws(E) -> R in
        var span = unsafe MutableSpan<Element>(
          _unsafeElements: raw.assumingMemoryBound(to: Element.self))
        return try body(&span)
      }
    }
  }

  /// Like `withElements(of:_:)`, for any trivial type. The caller must know that its bit patterns
  /// are valid.
  @unsafe @inlinable
  public borrowing func withUnsafeElements<Element: BitwiseCopyable, R: ~Copyable, E: Error>(
    of type: Element.Type, _ body: (Span<Element>) throws(E) -> R
  ) throws(AccessError<E>) -> R {
    guard isAligned(for: Element.self) else { throw .access(.misaligned(for: Element.self)) }
    return try withBytes { (bytes: RawSpan) throws(E) -> R in
      unsafe try bytes.withUnsafeBytes { raw throws(E) -> R in
        try body(unsafe Span<Element>(_unsafeElements: raw.assumingMemoryBound(to: Element.self)))
      }
    }
  }

  /// The size and no contents: "Secret(32 bytes)".
  public var description: String { "Secret(\(byteCount) bytes)" }
}

extension SecretReference: CustomReflectable {
  public var customMirror: Mirror { Mirror(self, children: []) }
}

extension Secret {
  @inlinable
  borrowing func isAligned<Element>(for type: Element.Type) -> Bool {
    unsafe Int(bitPattern: slotStart) % MemoryLayout<Element>.alignment == 0
  }
}

extension EnclaveError {
  @inlinable
  static func misaligned<Element>(for type: Element.Type) -> EnclaveError {
    .misaligned(neededAlignment: MemoryLayout<Element>.alignment)
  }
}
