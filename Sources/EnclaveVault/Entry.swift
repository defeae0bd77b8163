// A vault's record of each encrypted secret. It is in ordinary memory, because nothing in it is
// secret.

#if Sodium
  import Enclave

  /// One encrypted secret: its immutable properties and its current ciphertext.
  ///
  /// A ciphertext is written once and replaced as a whole. A reader registers under the vault's
  /// lock and reads without it. A rotation may replace the ciphertext in the meantime; then the
  /// last reader of the old ciphertext frees it:
  ///
  ///     entry ── current ──▶ ciphertext (epoch 2)
  ///                          ciphertext (epoch 1, superseded, 1 reader)
  @safe
  struct Entry {
    /// Never reused in this vault.
    let number: UInt64
    let byteCount: Int
    let label: LabelKey
    /// The position in a stream; `.secret` for a secret.
    var chunk: ChunkPosition
    /// Replaced under the vault's lock, by the rotation that holds the entry.
    var current: UnsafeMutablePointer<Ciphertext>
    var previous: UnsafeMutablePointer<Entry>?
    var next: UnsafeMutablePointer<Entry>?
    /// A rotation is re-encrypting the entry. If `isRemoved` is set meanwhile, the rotation frees
    /// it.
    var isHeld = false
    /// The owner has dropped the entry.
    var isRemoved = false

    static func deallocate(_ entry: UnsafeMutablePointer<Entry>) {
      unsafe Ciphertext.deallocate(entry.pointee.current)
      unsafe entry.deallocate()
    }
  }

  /// The header of one memory block; the encrypted bytes follow it.
  @safe
  struct Ciphertext {
    /// The number of threads that are decrypting it; under the vault's lock. The first field,
    /// because the thread sanitizer takes its changes for changes of the first one.
    var readers: UInt32 = 0
    /// The index of the key, 0 or 1.
    let keyIndex: UInt32
    var epoch: UInt64
    var nonce: UInt64
    var tag: (UInt64, UInt64) = (0, 0)
    /// It was replaced; the last reader frees it.
    var isSuperseded = false

    init(keyIndex: Int, epoch: UInt64, nonce: UInt64) {
      self.keyIndex = UInt32(keyIndex)
      self.epoch = epoch
      self.nonce = nonce
    }

    /// The caller initialises the header.
    static func allocate(byteCount: Int) -> UnsafeMutablePointer<Ciphertext> {
      unsafe UnsafeMutableRawPointer.allocate(
        byteCount: MemoryLayout<Ciphertext>.stride + byteCount, alignment: 16
      ).assumingMemoryBound(to: Ciphertext.self)
    }

    static func deallocate(_ ciphertext: UnsafeMutablePointer<Ciphertext>) {
      unsafe UnsafeMutableRawPointer(ciphertext).deallocate()
    }

    static func bytes(
      of ciphertext: UnsafeMutablePointer<Ciphertext>
    ) -> UnsafeMutableRawPointer {
      unsafe UnsafeMutableRawPointer(ciphertext + 1)
    }
  }

  /// A list of the entries under one key.
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

    /// Moves the first entry to the end, and returns it.
    mutating func moveFirstToEnd() -> UnsafeMutablePointer<Entry>? {
      guard let entry = unsafe first else { return nil }
      unsafe remove(entry)
      unsafe append(entry)
      return unsafe entry
    }
  }
#endif
