// What a vault keeps of each encrypted secret: in ordinary memory, since none of it is secret.

#if Vault
  import Enclave

  /// The head of one block of memory; the ciphertext follows it.
  @safe
  struct Entry {
    /// Which of the two keys.
    var side: UInt32
    /// Never used again in this vault.
    let number: UInt64
    var epoch: UInt64
    var nonce: UInt64
    let byteCount: Int
    let label: LabelKey
    /// Where in a stream a chunk of one belongs: what `.secret` is no chunk of.
    var chunk: ChunkPlace
    var previous: UnsafeMutablePointer<Entry>?
    var next: UnsafeMutablePointer<Entry>?
    var tag: (UInt64, UInt64) = (0, 0)

    /// In front of the head, apart from what it covers.
    private static let wordBytes = 16

    static func allocate(byteCount: Int) -> UnsafeMutablePointer<Entry> {
      let block = UnsafeMutableRawPointer.allocate(
        byteCount: wordBytes + MemoryLayout<Entry>.stride + byteCount, alignment: 16)
      unsafe block.storeBytes(of: 0, as: UInt32.self)
      return unsafe (block + wordBytes).assumingMemoryBound(to: Entry.self)
    }

    static func deallocate(_ entry: UnsafeMutablePointer<Entry>) {
      unsafe (UnsafeMutableRawPointer(entry) - wordBytes).deallocate()
    }

    /// Held while the ciphertext is being read or written.
    static func word(of entry: UnsafeMutablePointer<Entry>) -> UnsafeMutablePointer<UInt32> {
      unsafe (UnsafeMutableRawPointer(entry) - wordBytes).assumingMemoryBound(to: UInt32.self)
    }

    static func ciphertext(of entry: UnsafeMutablePointer<Entry>) -> UnsafeMutableRawPointer {
      unsafe UnsafeMutableRawPointer(entry + 1)
    }
  }

  /// Entries under one key, in a list.
  @safe
  struct EntryList {
    private(set) var first: UnsafeMutablePointer<Entry>?
    private var last: UnsafeMutablePointer<Entry>?
    private(set) var count = 0

    mutating func append(_ entry: UnsafeMutablePointer<Entry>) {
      unsafe entry.pointee.previous = unsafe last
      unsafe entry.pointee.next = nil
      if let last = unsafe last {
        unsafe last.pointee.next = unsafe entry
      } else {
        unsafe first = unsafe entry
      }
      unsafe last = unsafe entry
      count += 1
    }

    mutating func remove(_ entry: UnsafeMutablePointer<Entry>) {
      let (previous, next) = unsafe (entry.pointee.previous, entry.pointee.next)
      if let previous = unsafe previous {
        unsafe previous.pointee.next = unsafe next
      } else {
        unsafe first = unsafe next
      }
      if let next = unsafe next {
        unsafe next.pointee.previous = unsafe previous
      } else {
        unsafe last = unsafe previous
      }
      count -= 1
    }
  }
#endif
