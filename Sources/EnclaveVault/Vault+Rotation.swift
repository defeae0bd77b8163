// Rotation: a new key, and everything re-encrypted under it.

#if Sodium
  public import Enclave
  import Synchronization

  extension Vault {
    /// Makes a new key and re-encrypts everything in the vault under it, one secret at a time,
    /// while other threads encrypt and decrypt. The old key is wiped once nothing uses it.
    ///
    /// - Throws: `notAuthentic` if an entry could not be decrypted: all others are re-encrypted,
    ///   and the old key is kept for that entry until it is removed. `lockLimit` and other errors
    ///   of `Arena.allocate` if there is no room for the largest plaintext: call it again to
    ///   resume. Nothing is lost. `inheritedByFork` in a forked child.
    /// - Complexity: O(all bytes in the vault). Blocks while another thread rotates, and until
    ///   encryptions and decryptions under the old key have ended.
    public func rotate() throws(EnclaveError) {
      // In a child, the locks may be held by threads that no longer exist.
      guard !arena.reference.isInherited else { throw .inheritedByFork }
      try rotation.withLock { _ throws(EnclaveError) in
        // Finish an earlier rotation first: there is room for only two keys.
        let old = withCore { $0.keyIndex ^ 1 }
        if withCore({ $0.uses(old) }) { try moveAll(from: old) }
        try withKeys { keys throws(EnclaveError) in
          try keys.make(old, cipher)
          withCore { core in
            core.keyIndex = old
            core.epoch += 1
            core.statistics.epoch = core.epoch
            core.statistics.rotations += 1
            core.lastRotatedAtMs = ProcessFacts.bootMilliseconds
          }
        }
        Registry.rotated(store)
        try moveAll(from: old ^ 1)
      }
    }

    /// Re-encrypts every entry of one key under the other, and wipes that key.
    private func moveAll(from old: Int) throws(EnclaveError) {
      // No new encryptions use this key; wait for those in progress to be listed.
      store.wait { $0[users: old].encrypting == 0 }
      let count = withCore { $0[list: old].count }
      var failed = 0
      if count > 0 {
        // Scratch memory for one plaintext.
        let scratch = try arena.allocate(byteCount: largest(of: old), label: "rotation")
        for _ in 0..<count {
          guard let entry = unsafe takeFirst(of: old) else { break }
          defer { unsafe release(entry) }
          if unsafe try !move(entry, through: scratch.handle) { failed += 1 }
        }
      }
      guard failed == 0 else { throw .notAuthentic }
      store.wait { $0[users: old].decrypting == 0 }
      try withKeys { keys throws(EnclaveError) in
        let isEmpty = withCore { $0[list: old].count == 0 }
        if isEmpty { keys.destroy(old) }
      }
    }

    /// The size of the largest entry of a key. Holds the lock for only a few entries at a time.
    private func largest(of keyIndex: Int) -> Int {
      var largest = 0
      var left = withCore { $0[list: keyIndex].count }
      while left > 0 {
        let step = min(left, 64)
        withCore { core in
          for _ in 0..<step {
            guard let entry = unsafe core[list: keyIndex].moveFirstToEnd() else { return }
            largest = unsafe max(largest, entry.pointee.byteCount)
          }
        }
        left -= step
      }
      return largest
    }

    /// Marks the first entry as held and moves it to the end of the list.
    private func takeFirst(of keyIndex: Int) -> UnsafeMutablePointer<Entry>? {
      unsafe withCore { core in
        guard let entry = unsafe core[list: keyIndex].moveFirstToEnd() else { return nil }
        unsafe entry.pointee.isHeld = true
        return unsafe entry
      }
    }

    private func release(_ entry: UnsafeMutablePointer<Entry>) {
      let isRemoved = withCore { _ in
        unsafe entry.pointee.isHeld = false
        return unsafe entry.pointee.isRemoved
      }
      if isRemoved { unsafe Entry.deallocate(entry) }
    }

    /// Re-encrypts an entry under the current key. The caller has marked it as held. Returns false
    /// if it is not authentic.
    private func move(
      _ entry: UnsafeMutablePointer<Entry>, through scratch: SecretHandle
    ) throws(EnclaveError) -> Bool {
      unsafe try scratch.withWindow(writing: true) { address throws(EnclaveError) in
        try withKeys { keys throws(EnclaveError) in
          defer { unsafe wipe(address, byteCount: entry.pointee.byteCount) }
          return unsafe move(entry, through: address, keys)
        }
      }
    }

    private func move(
      _ entry: UnsafeMutablePointer<Entry>, through scratch: UnsafeMutableRawPointer, _ keys: Keys
    ) -> Bool {
      // Only the rotation that holds the entry replaces its ciphertext.
      let old = unsafe entry.pointee.current
      guard unsafe decryptBytes(entry, old, into: scratch, keys) else {
        withCore { $0.statistics.failures += 1 }
        return false
      }
      let new = unsafe Ciphertext.allocate(byteCount: entry.pointee.byteCount)
      let hasNonce = withCore { core -> Bool in
        guard let nonce = keys.nextNonce(core.keyIndex, limit: .max) else { return false }
        unsafe new.initialize(
          to: Ciphertext(keyIndex: core.keyIndex, epoch: core.epoch, nonce: nonce))
        return true
      }
      guard hasNonce else {
        unsafe Ciphertext.deallocate(new)
        return false
      }
      unsafe encryptBytes(entry, new, scratch, keys)
      let unused = unsafe withCore { core -> UnsafeMutablePointer<Ciphertext>? in
        if unsafe entry.pointee.isRemoved { return unsafe new }
        return unsafe core.replace(entry, with: new) ? old : nil
      }
      if let unused = unsafe unused { unsafe Ciphertext.deallocate(unused) }
      return true
    }
  }

  extension EntryStore.Core {
    /// Whether an entry or a running operation still needs a key.
    fileprivate func uses(_ keyIndex: Int) -> Bool {
      self[list: keyIndex].count > 0 || self[users: keyIndex].encrypting > 0
        || self[users: keyIndex].decrypting > 0
    }
  }
#endif
