// Data that memory should never hold in clear as a whole: encrypted chunks of it.

#if Sodium
  public import Enclave

  /// Where a chunk belongs: bound to its ciphertext.
  struct ChunkPlace: BitwiseCopyable, Equatable {
    /// A number of the vault's, never used again; 0 for a secret, which is no chunk.
    let stream: UInt64
    /// The chunk's number, times two; one more for the last chunk of the stream.
    let position: UInt64

    static let secret = ChunkPlace(stream: 0, position: 0)

    private init(stream: UInt64, position: UInt64) {
      self.stream = stream
      self.position = position
    }

    init(stream: UInt64, index: Int, isLast: Bool) {
      self.init(stream: stream, position: UInt64(index) << 1 | (isLast ? 1 : 0))
    }

    var isOfStream: Bool { stream != 0 }
  }

  /// Data of any length that a vault holds as encrypted chunks, of which a writer and each reader
  /// have one in clear.
  ///
  /// Each chunk is bound to its stream and its place in it, and the last one to being the last:
  /// chunks that were changed, moved, repeated, taken from another stream or cut off at the end are
  /// `notAuthentic` when they are read (the construction of STREAM: Hoang, Reyhanitabar, Rogaway
  /// and Vizár, "Online Authenticated-Encryption and its Nonce-Reuse Misuse-Resistance", 2015). The vault's rotations
  /// encrypt the chunks anew like all else that it holds. When the last reference goes, the
  /// ciphertext goes.
  ///
  /// Threads: any number of readers, in any threads.
  @safe
  public final class EncryptedStream: @unchecked Sendable {
    let vault: Vault
    let number: UInt64
    /// How many bytes a chunk holds; the last one may hold less.
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

    /// The length of the data in bytes.
    public var byteCount: Int {
      guard let last = unsafe chunks.last else { return 0 }
      return unsafe (chunkCount - 1) * chunkByteCount + last.pointee.byteCount
    }

    fileprivate var chunkCount: Int { unsafe chunks.count }

    /// By the writer, before anyone else has the stream.
    fileprivate func append(_ chunk: UnsafeMutablePointer<Entry>) { unsafe chunks.append(chunk) }

    /// A reader, at the start of the data.
    ///
    /// - Parameters:
    ///   - arena: where its one chunk in clear lies.
    ///   - label: what the chunk is counted under; the call site when there is none.
    ///   - file: the file of the call site.
    ///   - line: the line of the call site.
    /// - Throws: as `Arena.allocate`.
    public func makeReader(
      through arena: Arena, label: Label? = nil, file: StaticString = #fileID,
      line: UInt32 = #line
    ) throws(EnclaveError) -> EncryptedStreamReader {
      EncryptedStreamReader(
        self,
        buffer: try arena.allocate(
          byteCount: chunkByteCount, label: label, file: file, line: line))
    }

    /// Decrypts a chunk into a buffer of `chunkByteCount` bytes; returns how many came.
    fileprivate func decrypt(_ index: Int, into buffer: SecretHandle) throws(EnclaveError) -> Int {
      guard index < chunkCount else { throw .notAuthentic }
      let (chunk, isLast) = unsafe (chunks[index], index == chunkCount - 1)
      let byteCount = unsafe chunk.pointee.byteCount
      let expected = ChunkPlace(stream: number, index: index, isLast: isLast)
      // Ordinary memory says what the chunk is, and the tag whether that is true.
      guard unsafe chunk.pointee.chunk == expected,
        isLast ? byteCount <= chunkByteCount : byteCount == chunkByteCount
      else {
        vault.withCore { $0.statistics.failures += 1 }
        throw .notAuthentic
      }
      unsafe try vault.decrypt(chunk, into: buffer)
      return byteCount
    }

    /// The tests' way to what an attacker of ordinary memory can change.
    package func withChunks<R>(_ body: (inout [UnsafeMutableRawPointer]) -> R) -> R {
      var all = unsafe chunks.map { UnsafeMutableRawPointer($0) }
      defer { unsafe chunks = unsafe all.map { unsafe $0.assumingMemoryBound(to: Entry.self) } }
      return unsafe body(&all)
    }
  }

  extension EncryptedStream {
    /// The tests' forgery: a chunk says that it is another one.
    package func claim(that chunk: Int, is other: Int, isLast: Bool) {
      unsafe chunks[chunk].pointee.chunk = ChunkPlace(stream: number, index: other, isLast: isLast)
    }
  }

  extension EncryptedStream: CustomStringConvertible {
    /// The length, nothing else.
    public var description: String { "EncryptedStream(\(byteCount) bytes)" }
  }

  extension Vault {
    /// A stream to be written.
    ///
    /// - Parameters:
    ///   - arena: where the writer's one chunk in clear lies.
    ///   - chunkByteCount: how much of the data is in clear at a time, 1 byte to 2 GiB. A rotation
    ///     needs as much in the vault's arena. Smaller chunks cost 128 bytes each beside the data.
    ///   - label: what the chunk is counted under; the call site when there is none.
    ///   - file: the file of the call site.
    ///   - line: the line of the call site.
    /// - Throws: as `Arena.allocate`; `inheritedByFork`.
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

  /// Writes a stream, a chunk at a time. Let go before `finish()`, it leaves nothing.
  ///
  /// Threads: it can be sent to another thread, and used by one at a time.
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

    /// How many bytes were written until now: also after an error, which takes back nothing.
    public var byteCount: Int {
      buffer == nil ? stream.byteCount : stream.chunkCount * stream.chunkByteCount + filled
    }

    /// Writes a copy of some bytes.
    ///
    /// - Throws: `frozen` when the stream is finished; when the vault or the buffer's arena cannot
    ///   be opened: `byteCount` tells how many were taken.
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

    /// Writes a copy of a secret, which stays as it is.
    ///
    /// - Throws: as `append(_:)` of bytes, and when the secret cannot be opened.
    public mutating func append(_ secret: borrowing Secret) throws(EnclaveError) {
      do {
        try secret.withBytes { bytes throws(EnclaveError) in try append(bytes) }
      } catch {
        switch error {
        case .access(let error), .body(let error): throw error
        }
      }
    }

    /// Writes what a descriptor gives until its end (read(2)), straight into the buffer.
    ///
    /// - Throws: as `append(_:)` of bytes; `system` when the call fails.
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

    /// Ends the stream. The buffer is wiped and freed. Called again, it returns the same stream.
    ///
    /// - Throws: when the vault or the buffer's arena cannot be opened; nothing is lost then.
    public mutating func finish() throws(EnclaveError) -> EncryptedStream {
      guard buffer != nil else { return stream }
      try encrypt(isLast: true)
      buffer = nil
      return stream
    }

    /// How much the buffer can take. A full one is encrypted only when there is more to come: the
    /// last chunk is another.
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
        chunk: ChunkPlace(stream: stream.number, index: stream.chunkCount, isLast: isLast))
      unsafe stream.append(chunk)
    }
  }

  /// Reads a stream, from anywhere in it, a chunk at a time.
  ///
  /// Threads: it can be sent to another thread, and used by one at a time.
  public struct EncryptedStreamReader: ~Copyable, Sendable {
    /// What is read.
    public let stream: EncryptedStream
    private let buffer: Secret
    /// Which chunk the buffer holds, and how many bytes of it.
    private var decrypted: (index: Int, byteCount: Int)?
    /// Where the next byte is read, from the start of the data.
    public private(set) var position = 0

    init(_ stream: EncryptedStream, buffer: consuming Secret) {
      self.stream = stream
      self.buffer = buffer
    }

    /// Goes to a place in the data; beyond its ends, to the end.
    ///
    /// - Returns: the place.
    /// - Complexity: O(1).
    @discardableResult
    public mutating func seek(to place: Int) -> Int {
      position = min(max(place, 0), stream.byteCount)
      return position
    }

    /// Lends the bytes that come next: so many as are asked for, or less at the end of a chunk. When
    /// the body throws, they were not read.
    ///
    /// - Returns: nil at the end of the data, which is certain then: its last chunk was decrypted.
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

    /// Fills a secret with what comes next.
    ///
    /// - Returns: how many bytes came: less than the secret's at the end of the data.
    /// - Throws: `notAuthentic`, and the position is behind what came; as opening windows.
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

    /// Where in the buffer the next bytes are; empty at the end.
    private mutating func next(upTo count: Int) throws(EnclaveError) -> Range<Int> {
      let chunkBytes = stream.chunkByteCount
      // The end of data that fills its chunks is in the last of them.
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
