// Bytes that go into a secret without passing through other memory.

import EnclaveSystem

extension Secret {
  /// Fills the secret from the system's randomness (getrandom(2)).
  ///
  /// - Throws: as opening a window for writing; `system` when the kernel refuses.
  public mutating func fillRandom() throws(EnclaveError) {
    let handle = handle
    try handle.withWindow(writing: true) { () throws(EnclaveError) in
      do throws(SystemFailure) {
        unsafe try EnclaveSystem.fillRandom(handle.address, byteCount: Int(handle.byteCount))
      } catch { throw .system(error) }
    }
  }

  /// Fills the secret from a descriptor (read(2)), straight into its memory. Blocks until all bytes
  /// are there.
  ///
  /// - Throws: as opening a window for writing; `endOfInput` when the input ends before, and what
  ///   came is in the secret; `system` when the call fails.
  public mutating func fill(fromDescriptor descriptor: Int32) throws(EnclaveError) {
    let handle = handle
    try handle.withWindow(writing: true) { () throws(EnclaveError) in
      let byteCount = Int(handle.byteCount)
      var received = 0
      while received < byteCount {
        let count: Int
        do throws(SystemFailure) {
          count = unsafe try Input.read(descriptor, handle.address + received, byteCount - received)
        } catch { throw .system(error) }
        if count == 0 { throw .endOfInput(received: received) }
        received += count
      }
    }
  }
}

extension Arena {
  /// Allocates a secret and fills it from the system's randomness.
  public func allocateRandom(
    byteCount: Int, label: Label? = nil, file: StaticString = #fileID, line: UInt32 = #line
  ) throws(EnclaveError) -> Secret {
    var secret = try allocate(byteCount: byteCount, label: label, file: file, line: line)
    try secret.fillRandom()
    return secret
  }

  /// Reads a line from a terminal without echo, straight into a secret: a passphrase.
  ///
  /// Backspace and ^U edit, ^D or ^C on their own end the input; ^C also sends SIGINT once the
  /// terminal is as it was. The kernel's terminal buffer has held the bytes; nothing of this
  /// process has, but the secret.
  ///
  /// - Parameters:
  ///   - prompt: written to the terminal first.
  ///   - descriptor: the terminal; anything else is read up to a newline, without echo settings.
  ///   - limit: the longest line in bytes; more is an `endOfInput`.
  /// - Throws: as `allocate`; `endOfInput` without a whole line; `system`.
  public func readPassphrase(
    prompt: StaticString, from descriptor: Int32 = 0, limit: Int = 1024, label: Label? = nil,
    file: StaticString = #fileID, line: UInt32 = #line
  ) throws(EnclaveError) -> Secret {
    let longest = try allocate(byteCount: max(limit, 1), label: label, file: file, line: line)
    let handle = longest.handle
    let count = try handle.withWindow(writing: true) { () throws(EnclaveError) in
      do throws(SystemFailure) {
        return unsafe try Input.readLine(
          descriptor, prompt: prompt, into: handle.address, limit: Int(handle.byteCount))
      } catch { throw .system(error) }
    }
    guard count >= 0 else { throw .endOfInput(received: -count - 1) }
    let secret = try allocate(byteCount: count, label: label, file: file, line: line)
    try handle.copy(into: secret.handle)
    return secret
  }

  /// Gives the body memory that is a secret for as long as the body runs.
  ///
  /// - Throws: `AccessError.access` when it cannot be allocated or opened.
  @inlinable
  public func withTemporary<R: ~Copyable, E: Error>(
    byteCount: Int, label: Label? = nil, file: StaticString = #fileID, line: UInt32 = #line,
    _ body: (inout MutableRawSpan) throws(E) -> R
  ) throws(AccessError<E>) -> R {
    var secret: Secret
    do {
      secret = try allocate(byteCount: byteCount, label: label, file: file, line: line)
    } catch { throw .access(error) }
    return try secret.withMutableBytes(body)
  }
}
