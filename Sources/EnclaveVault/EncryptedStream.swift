// Streams: data that is kept as encrypted chunks and decrypted one chunk at a time.

#if Sodium
  public import Enclave

  /// A chunk's stream and position; authenticated with its ciphertext.
  struct ChunkPosition: BitwiseCopyable, Equatable {
    /// The stream's number in its vault, never reused; 0 for a secret, which is not a chunk.
    let stream: UInt64
    /// Twice the chunk's index, plus one for the last chunk of the stream.
    let position: UInt64

    static let secret = ChunkPosition(stream: 0, position: 0)

    private init(stream: UInt64, position: UInt64) {
      self.stream = stream
      self.position = position
    }

    init(stream: UInt64, index: Int, isLast: Bool) {
      self.init(stream: stream, position: UInt64(index) << 1 | (isLast ? 1 : 0))
    }

    var isOfStream: Bool { stream != 0 }
  }

  /// Data of any length, held by a vault as encrypted chunks. The writer and each reader hold one
  /// decrypted chunk.
  ///
  /// The tag of each chunk authenticates its stream, its position and whether it is the last one.
  /// Chunks that were changed, moved, repeated, taken from another stream or cut off at the end are
  /// `notAuthentic` when read (the STREAM construction: Hoang, Reyhanitabar, Rogaway and Vizár,
  /// "Online Authenticated-Encryption and its Nonce-Reuse Misuse-Resistance", 2015). The vault's
  /// rotations re-encrypt the chunks like everything else. The ciphertext is freed with the last
  /// reference.
  ///
  /// Threads: all members may be used on any thread, by any number of readers at once.
  @safe
  public final class EncryptedStream: @unchecked Sendable {
    let vault: Vault
    let number: UInt64
    /// The bytes in each chunk; the last one may hold fewer.
    public let chunkByteCount: Int
    private var chunks: [UnsafeMutablePointer<Entry>] = unsafe []

    init(_ vault: Vault, chunkByteCount: Int) {
      self.vault = vault
      self.chunkByteCount = chunkByteCount
      number = vault.withCore { core in
        defer { core.nextNumber += 1 }
        core.statistics.streams += 1
        return core.nextNumber
      }
    }

    deinit {
      guard !vault.arena.reference.isInherited else { return }
      while let chunk = unsafe chunks.popLast() { unsafe vault.remove(chunk) }
      vault.withCore { $0.statistics.streams -= 1 }
    }

    /// The length of the data in bytes. O(1).
    public var byteCount: Int {
      guard let last = unsafe chunks.last else { return 0 }
      return unsafe (chunkCount - 1) * chunkByteCount + last.pointee.byteCount
    }

    fileprivate var chunkCount: Int { unsafe chunks.count }

    /// Appends a chunk; only the writer calls this, before anyone else has the stream.
    fileprivate func append(_ chunk: UnsafeMutablePointer<Entry>) { unsafe chunks.append(chunk) }

    /// Makes a reader at the start of the data.
    ///
    /// - Parameters:
    ///   - arena: holds the reader's buffer: one decrypted chunk.
    ///   - label: the label of the buffer; nil: the call site.
    ///   - file: the file of the call site.
    ///   - line: the line of the call site.
    /// - Throws: as `Arena.allocate`.
    /// - Complexity: O(`chunkByteCount`); nothing is decrypted yet.
    public func makeReader(
      through arena: Arena, label: Label? = nil, file: StaticString = #fileID,
      line: UInt32 = #line
    ) throws(EnclaveError) -> EncryptedStreamReader {
      EncryptedStreamReader(
        self,
        buffer: try arena.allocate(
          byteCount: chunkByteCount, label: label, file: file, line: line))
    }

    /// Decrypts a chunk into a buffer of `chunkByteCount` bytes. Returns the chunk's size.
    fileprivate func decrypt(_ index: Int, into buffer: SecretHandle) throws(EnclaveError) -> Int {
      guard index < chunkCount else { throw .notAuthentic }
      let (chunk, isLast) = unsafe (chunks[index], index == chunkCount - 1)
      let byteCount = unsafe chunk.pointee.byteCount
      let expected = ChunkPosition(stream: number, index: index, isLast: isLast)
      // The position is in ordinary memory; the tag authenticates it.
      guard unsafe chunk.pointee.chunk == expected,
        isLast ? byteCount <= chunkByteCount : byteCount == chunkByteCount
      else {
        vault.withCore { $0.statistics.failures += 1 }
        throw .notAuthentic
      }
      unsafe try vault.decrypt(chunk, into: buffer)
      return byteCount
    }

    /// For tests: the chunks, which an attacker with access to ordinary memory can change.
    package func withChunks<R>(_ body: (inout [UnsafeMutableRawPointer]) -> R) -> R {
      var all = unsafe chunks.map { UnsafeMutableRawPointer($0) }
      defer { unsafe chunks = unsafe all.map { unsafe $0.assumingMemoryBound(to: Entry.self) } }
      return unsafe body(&all)
    }
  }

  extension EncryptedStream {
    /// For tests: forges the position of a chunk.
    package func forgePosition(ofChunk chunk: Int, as other: Int, isLast: Bool) {
      unsafe chunks[chunk].pointee.chunk = ChunkPosition(
        stream: number, index: other, isLast: isLast)
    }
  }

  extension EncryptedStream: CustomStringConvertible {
    /// Shows only the length.
    public var description: String { "EncryptedStream(\(byteCount) bytes)" }
  }

  extension Vault {
    /// Makes a writer for a new stream.
    ///
    /// - Parameters:
    ///   - arena: holds the writer's buffer: one chunk that is not encrypted yet.
    ///   - chunkByteCount: the size of a chunk, 1 byte to 2 GiB. A rotation needs as much memory in
    ///     the vault's arena. Each chunk has 128 bytes of overhead.
    ///   - label: the label of the buffer; nil: the call site.
    ///   - file: the file of the call site.
    ///   - line: the line of the call site.
    /// - Throws: as `Arena.allocate`; `invalidSize` for a size below 1; `inheritedByFork`.
    public func makeStream(
      through arena: Arena, chunkByteCount: Int = 64 * 1024, label: Label? = nil,
      file: StaticString = #fileID, line: UInt32 = #line
    ) throws(EnclaveError) -> EncryptedStreamWriter {
      guard !self.arena.reference.isInherited else { throw .inheritedByFork }
      guard chunkByteCount > 0 else { throw .invalidSize(byteCount: chunkByteCount, alignment: 1) }
      let buffer = try arena.allocate(
        byteCount: chunkByteCount, label: label, file: file, line: line)
      return EncryptedStreamWriter(
        EncryptedStream(self, chunkByteCount: chunkByteCount), buffer: buffer)
    }
  }

  /// Writes a stream, a chunk at a time. If it is dropped before `finish()`, the data is discarded.
  ///
  /// Threads: can be sent to another thread; one thread uses it at a time.
  @safe
  public struct EncryptedStreamWriter: ~Copyable, @unchecked Sendable {
    private let stream: EncryptedStream
    private var buffer: Secret?
    private let handle: SecretHandle
    private let label: LabelKey
    private var filled = 0

    init(_ stream: EncryptedStream, buffer: consuming Secret) {
      self.stream = stream
      handle = buffer.handle
      label = buffer.labelKey
      self.buffer = consume buffer
    }

    /// The bytes written so far; an error does not take any back.
    public var byteCount: Int {
      buffer == nil ? stream.byteCount : stream.chunkCount * stream.chunkByteCount + filled
    }

    /// Appends a copy of some bytes.
    ///
    /// - Throws: `frozen` if the stream is finished; an error if the vault or the buffer's arena
    ///   cannot be opened. `byteCount` tells how many bytes were taken.
    /// - Complexity: O(bytes).
    public mutating func append(_ bytes: RawSpan) throws(EnclaveError) {
      let count = bytes.byteCount
      var taken = 0
      while taken < count {
        let (room, start) = (try makeRoom(), filled)
        let step = min(room, count - taken)
        unsafe try handle.withWindow(writing: true) { address in
          unsafe bytes.extracting(taken..<taken + step).withUnsafeBytes { source in
            unsafe copySecret(
              from: source.baseAddress.unsafelyUnwrapped, to: address + start,
              byteCount: step)
          }
        }
        taken += step
        filled += step
      }
    }

    /// Appends a copy of a secret, which is unchanged.
    ///
    /// - Throws: as `append(_:)` of bytes, and if the secret cannot be opened.
    /// - Complexity: O(bytes).
    public mutating func append(_ secret: borrowing Secret) throws(EnclaveError) {
      do {
        try secret.withBytes { bytes throws(EnclaveError) in try append(bytes) }
      } catch {
        switch error {
        case .access(let error), .body(let error): throw error
        }
      }
    }

    /// Reads a descriptor until its end (read(2)), directly into the buffer.
    ///
    /// - Throws: as `append(_:)` of bytes; `system` if the call fails.
    /// - Complexity: O(bytes). Blocks as long as the descriptor does, with the buffer's window
    ///   open.
    public mutating func append(fromDescriptor descriptor: Int32) throws(EnclaveError) {
      while true {
        let (room, start) = (try makeRoom(), filled)
        let count = unsafe try handle.withWindow(writing: true) { address throws(EnclaveError) in
          do throws(SystemFailure) {
            return unsafe try Input.read(descriptor, address + start, room)
          } catch { throw .system(error) }
        }
        if count == 0 { return }
        filled += count
      }
    }

    /// Finishes the stream; wipes and frees the buffer. Later calls return the same stream.
    ///
    /// - Throws: an error if the vault or the buffer's arena cannot be opened. Nothing is lost:
    ///   call it again.
    /// - Complexity: O(`chunkByteCount`).
    public mutating func finish() throws(EnclaveError) -> EncryptedStream {
      guard buffer != nil else { return stream }
      try encrypt(isLast: true)
      buffer = nil
      return stream
    }

    /// The room in the buffer. A full buffer is encrypted only when more data comes, because the
    /// last chunk is marked as the last.
    private mutating func makeRoom() throws(EnclaveError) -> Int {
      guard buffer != nil else { throw .frozen }
      if filled == stream.chunkByteCount {
        try encrypt(isLast: false)
        filled = 0
      }
      return stream.chunkByteCount - filled
    }

    private func encrypt(isLast: Bool) throws(EnclaveError) {
      let chunk = unsafe try stream.vault.encrypt(
        handle, byteCount: filled, label: label,
        chunk: ChunkPosition(stream: stream.number, index: stream.chunkCount, isLast: isLast))
      unsafe stream.append(chunk)
    }
  }

  /// Reads a stream from any position, a chunk at a time.
  ///
  /// Threads: can be sent to another thread; one thread uses it at a time.
  public struct EncryptedStreamReader: ~Copyable, Sendable {
    /// The stream that is read.
    public let stream: EncryptedStream
    private let buffer: Secret
    /// The chunk in the buffer, and its size.
    private var decrypted: (index: Int, byteCount: Int)?
    /// The position of the next byte, from the start of the data.
    public private(set) var position = 0

    init(_ stream: EncryptedStream, buffer: consuming Secret) {
      self.stream = stream
      self.buffer = buffer
    }

    /// Moves to a position in the data.
    ///
    /// - Parameter target: the position in bytes from the start; clamped to the data.
    /// - Returns: the new position.
    /// - Complexity: O(1).
    @discardableResult
    public mutating func seek(to target: Int) -> Int {
      position = min(max(target, 0), stream.byteCount)
      return position
    }

    /// Passes the next bytes to the body: up to the requested number, fewer at the end of a chunk.
    /// If the body throws, the position does not change.
    ///
    /// - Returns: nil at the end of the data. The end is authenticated: the last chunk was
    ///   decrypted.
    /// - Throws: `AccessError.access(.notAuthentic)`; as opening a window; `AccessError.body` with
    ///   what the body threw.
    /// - Complexity: O(chunk) for the first bytes of a chunk, else O(1).
    public mutating func withNext<R: ~Copyable, E: Error>(
      upTo count: Int = .max, _ body: (RawSpan) throws(E) -> R
    ) throws(AccessError<E>) -> R? {
      let range: Range<Int>
      do { range = try next(upTo: count) } catch { throw .access(error) }
      guard !range.isEmpty else { return nil }
      let result = try buffer.withBytes { bytes throws(E) in
        try body(bytes.extracting(range))
      }
      position += range.count
      return result
    }

    /// Fills a secret with the next bytes.
    ///
    /// - Returns: the number of bytes read; fewer than the secret's size at the end of the data.
    /// - Throws: `notAuthentic`, with the position after the bytes read so far; an error if the
    ///   secret or the buffer cannot be opened.
    /// - Complexity: O(bytes read, rounded up to whole chunks).
    public mutating func read(over secret: inout Secret) throws(EnclaveError) -> Int {
      let (from, to) = (buffer.handle, secret.handle)
      var received = 0
      while received < Int(to.byteCount) {
        let range = try next(upTo: Int(to.byteCount) - received)
        if range.isEmpty { break }
        unsafe try to.withWindow(writing: true) { target throws(EnclaveError) in
          unsafe try from.withWindow(writing: false) { source in
            unsafe copySecret(
              from: source + range.lowerBound, to: target + received,
              byteCount: range.count)
          }
        }
        received += range.count
        position += range.count
      }
      return received
    }

    /// The range of the next bytes in the buffer; empty at the end.
    private mutating func next(upTo count: Int) throws(EnclaveError) -> Range<Int> {
      let chunkBytes = stream.chunkByteCount
      // Data that fills its chunks ends in the last of them.
      let index = max(0, min(position / chunkBytes, stream.chunkCount - 1))
      if decrypted?.index != index {
        decrypted = nil
        decrypted = (index, try stream.decrypt(index, into: buffer.handle))
      }
      let start = position - index * chunkBytes
      let available = max(0, (decrypted?.byteCount ?? 0) - start)
      return start..<start + max(0, min(available, count))
    }
  }
#endif
