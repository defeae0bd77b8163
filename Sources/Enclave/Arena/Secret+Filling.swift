// Filling a secret without passing its bytes through other memory.

import EnclaveSystem

extension Secret {
  /// Fills the secret with random bytes from the system (getrandom(2)).
  ///
  /// - Throws: like opening a window for writing; `system` if the kernel refuses.
  public mutating func fillRandom() throws(EnclaveError) {
    let handle = handle
    unsafe try handle.withWindow(writing: true) { address throws(EnclaveError) in
      do throws(SystemFailure) {
        unsafe try EnclaveSystem.fillRandom(address, byteCount: Int(handle.byteCount))
      } catch { throw .system(error) }
    }
  }

  /// Fills the secret from a file descriptor (read(2)), directly into its memory. Blocks until all
  /// bytes have arrived.
  ///
  /// - Throws: like opening a window for writing; `endOfInput` if the input ends early, with the
  ///   bytes received so far in the secret; `system` if the call fails.
  public mutating func fill(fromDescriptor descriptor: Int32) throws(EnclaveError) {
    let handle = handle
    unsafe try handle.withWindow(writing: true) { address throws(EnclaveError) in
      let byteCount = Int(handle.byteCount)
      var received = 0
      while received < byteCount {
        let count: Int
        do throws(SystemFailure) {
          count = unsafe try Input.read(descriptor, address + received, byteCount - received)
        } catch { throw .system(error) }
        if count == 0 { throw .endOfInput(received: received) }
        received += count
      }
    }
  }
}

extension Arena {
  /// Allocates a secret and copies bytes into it. The caller has to wipe the original;
  /// `allocate(wiping:)` does both.
  ///
  /// - Throws: like `allocate`.
  public func allocate(
    copying bytes: RawSpan, label: Label? = nil, file: StaticString = #fileID, line: UInt32 = #line
  ) throws(EnclaveError) -> Secret {
    let secret = try allocate(
      byteCount: bytes.byteCount, label: label, file: file, line: line)
    let handle = secret.handle
    unsafe try handle.withWindow(writing: true) { address throws(EnclaveError) in
      unsafe bytes.withUnsafeBytes { raw in
        guard let source = raw.baseAddress else { return }
        unsafe copySecret(from: source, to: address, byteCount: raw.count)
      }
    }
    return secret
  }

  /// Allocates a secret and copies the bytes of a collection into it: an array, `Data`, a string's
  /// `utf8`.
  ///
  /// - Throws: like `allocate`.
  public func allocate(
    copying bytes: some Collection<UInt8>, label: Label? = nil, file: StaticString = #fileID,
    line: UInt32 = #line
  ) throws(EnclaveError) -> Secret {
    let secret = try allocate(byteCount: bytes.count, label: label, file: file, line: line)
    let handle = secret.handle
    unsafe try handle.withWindow(writing: true) { address throws(EnclaveError) in
      let target = unsafe UnsafeMutableRawBufferPointer(
        start: address, count: Int(handle.byteCount))
      unsafe target.copyBytes(from: bytes)
    }
    return secret
  }

  /// Allocates a secret, copies bytes into it, and wipes the original. Other copies of them remain:
  /// an earlier copy of an array or its storage before it grew, and what a file or a decoder left
  /// in memory.
  ///
  /// - Throws: like `allocate`; then the original is unchanged.
  public func allocate(
    wiping bytes: inout MutableRawSpan, label: Label? = nil, file: StaticString = #fileID,
    line: UInt32 = #line
  ) throws(EnclaveError) -> Secret {
    let secret = try allocate(copying: bytes.bytes, label: label, file: file, line: line)
    unsafe bytes.withUnsafeMutableBytes { raw in
      if let source = raw.baseAddress { unsafe wipe(source, byteCount: raw.count) }
    }
    return secret
  }

  /// Like `allocate(wiping:)` with a span: the array keeps its length and contains zeros.
  public func allocate(
    wiping bytes: inout [UInt8], label: Label? = nil, file: StaticString = #fileID,
    line: UInt32 = #line
  ) throws(EnclaveError) -> Secret {
    var span = bytes.mutableSpan
    var raw = unsafe span.mutableBytes
    return try allocate(wiping: &raw, label: label, file: file, line: line)
  }

  /// Allocates a secret and fills it with random bytes from the system.
  public func allocateRandom(
    byteCount: Int, label: Label? = nil, file: StaticString = #fileID, line: UInt32 = #line
  ) throws(EnclaveError) -> Secret {
    var secret = try allocate(byteCount: byteCount, label: label, file: file, line: line)
    try secret.fillRandom()
    return secret
  }

  /// Reads a passphrase: a line from a terminal without echo, directly into a secret.
  ///
  /// Backspace erases a Unicode scalar, ^W a word and ^U everything, as do the terminal's own
  /// characters for these. ^D on an empty line ends the input. A newline is shown after the line.
  /// Input typed before the prompt is discarded; input after the line is left for the next reader.
  /// The kernel's terminal buffer has held the bytes. In this process only the secret has, and it
  /// is open only while bytes are taken, not while waiting.
  ///
  /// SIGHUP, SIGINT (^C), SIGQUIT (^\\) and SIGTERM have their usual effect once the terminal is
  /// restored; if the process survives, the input has ended. After a stop (^Z), reading starts over
  /// with the prompt. Signals that are ignored, or blocked in every thread, stay so. Handlers that
  /// other threads install for these signals meanwhile replace this one. exit(3) and faults covered
  /// by ``EmergencyWipe`` restore the terminal too. Blocks. Any thread, outside signal handlers;
  /// one thread of a process reads from a terminal at a time, and others wait.
  ///
  /// - Parameters:
  ///   - prompt: written to the terminal first, or to standard error if `descriptor` is not writable.
  ///   - descriptor: the terminal. Anything else is read up to a newline, without changing echo.
  ///   - limit: the longest line in bytes, at least 1. A longer line throws `endOfInput`, on a terminal
  ///     once the line is complete.
  ///   - label: the label to count the secret under; nil means the call site.
  ///   - file: the file of the call site.
  ///   - line: the line of the call site.
  /// - Throws: like `allocate` and like opening a window for writing; `endOfInput` if there is no whole
  ///   line; `system` if read(2) or tcsetattr(3) fails.
  public func readPassphrase(
    prompt: StaticString, from descriptor: Int32 = 0, limit: Int = 1024, label: Label? = nil,
    file: StaticString = #fileID, line: UInt32 = #line
  ) throws(EnclaveError) -> Secret {
    let key = LabelKey(label, file: file, line: line)
    let result: Result<SecretHandle, EnclaveError> = prompt.withUTF8Buffer { prompt in
      do throws(EnclaveError) {
        return .success(
          unsafe try reference.readPassphrase(
            prompt: prompt, from: descriptor, limit: limit, key: key))
      } catch { return .failure(error) }
    }
    return Secret(handle: try result.get())
  }

  /// Passes the body memory that is a secret until the body returns.
  ///
  /// - Throws: `AccessError.access` if it cannot be allocated or opened.
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

extension ArenaReference {
  /// Reads a line into a secret of its length; see `Arena.readPassphrase`. The prompt is UTF-8.
  func readPassphrase(
    prompt: UnsafeBufferPointer<UInt8>, from descriptor: Int32, limit: Int, key: LabelKey
  ) throws(EnclaveError) -> SecretHandle {
    let limit = max(limit, 1)
    // One more byte: what follows the longest line must not leave secret memory either.
    let longest = Secret(
      handle: try allocate(
        Shard.Request(
          byteCount: limit == .max ? limit : limit + 1, alignment: options.alignment), key: key))
    let count = unsafe try longest.handle.readLine(prompt: prompt, from: descriptor, limit: limit)
    let handle = try allocate(
      Shard.Request(byteCount: count, alignment: options.alignment), key: key)
    do throws(EnclaveError) { try longest.handle.copy(into: handle) } catch {
      _ = try? free(handle)
      throw error
    }
    return handle
  }

  /// The same for C. The application's signal handlers may run in this thread meanwhile.
  package func readPassphrase(
    prompt: UnsafePointer<CChar>?, from descriptor: Int32, limit: Int, label: Label
  ) throws(EnclaveError) -> SecretHandle {
    var count = 0
    while let prompt = unsafe prompt, unsafe prompt[count] != 0 { count += 1 }
    let text = unsafe UnsafeBufferPointer(
      start: UnsafeRawPointer(prompt)?.assumingMemoryBound(to: UInt8.self), count: count)
    let result: Result<SecretHandle, EnclaveError> = asApplication {
      do throws(EnclaveError) {
        return .success(
          unsafe try readPassphrase(
            prompt: text, from: descriptor, limit: limit, key: LabelKey(label)))
      } catch { return .failure(error) }
    }
    let handle = try result.get()
    startCountingWindows(of: handle)
    return handle
  }
}

extension SecretHandle {
  /// Reads a line and returns its length in bytes.
  fileprivate func readLine(
    prompt: UnsafeBufferPointer<UInt8>, from descriptor: Int32, limit: Int
  ) throws(EnclaveError) -> Int {
    var reader = LineReader(descriptor, limit: limit)
    func begin() throws(EnclaveError) {
      do throws(SystemFailure) { unsafe try reader.begin(prompt: prompt) } catch {
        throw .system(error)
      }
    }
    try begin()
    while true {
      switch reader.wait() {
      case .ended: throw .endOfInput(received: reader.received)
      case .startOver:
        unsafe try withWindow(writing: true) { address throws(EnclaveError) in
          unsafe reader.clear(address)
        }
        try begin()
      case .input:
        let result = unsafe try withWindow(writing: true) { address throws(EnclaveError) in
          do throws(SystemFailure) { return unsafe try reader.take(into: address) } catch {
            throw .system(error)
          }
        }
        switch result {
        case .line(let byteCount): return byteCount
        case .ended(let byteCount): throw .endOfInput(received: byteCount)
        case nil: continue
        }
      }
    }
  }
}
