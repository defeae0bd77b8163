// Overwriting all of an arena's contents.

import EnclaveSystem

extension ArenaReference {
  /// Wipes every chunk as far as possible, without a lock: the process is ending. Returns what
  /// could not be wiped.
  func wipeNow() -> EmergencyWipe.Failure? {
    guard gate.isOwn else { return nil }
    return wipeReachable()
  }

  /// Overwrites everything reachable with zeros. Pages that somebody else has unmapped or protected
  /// are skipped one by one; they must not end the process.
  ///
  /// Takes no lock, because a thread that the end of the process stopped may hold it.
  func wipeReachable() -> EmergencyWipe.Failure? {
    if hasCipherGate {
      // First, so that windows that close or open from now on leave nothing behind.
      gate.setWiped()
      gate.runBarrier()
      cipher.destroyKey()
      ScratchMemory.wipe(of: id)
    }
    let chunks = unsafe header.pointee.core.pointee.chunks
    var failure: EmergencyWipe.Failure?
    for index in 0..<chunks.count where chunks[index].isMapped && !chunks[index].isBeingRemoved {
      let chunk = chunks[index]
      do throws(SystemFailure) { try wipeChunk(chunk, isBestEffort: true) } catch {
        var left = 0
        for offset in stride(from: 0, to: chunk.carvedBytes, by: Page.size) {
          let page = unsafe chunk.mapping.data + offset
          do throws(SystemFailure) {
            unsafe try setProtection(.readWrite, at: page, byteCount: Page.size)
            withAllKeysOpen { unsafe wipe(page, byteCount: Page.size) }
          } catch { left += Page.size }
        }
        if left > 0 {
          failure = EmergencyWipe.Failure(
            arena: "\(name)", byteCount: left + (failure?.byteCount ?? 0),
            reason: failure?.reason ?? error)
        }
      }
    }
    return failure
  }

  /// Overwrites with zeros everything in a chunk that was ever used.
  func wipeChunk(_ chunk: Chunk, isBestEffort: Bool) throws(SystemFailure) {
    // Sealed ciphertext cannot be overwritten; its key is destroyed.
    guard chunk.carvedBytes > 0, !(chunk.isSealed && hasCipherGate) else { return }
    if hasPageGate || (mechanism == .none || mechanism == .cipher) && gate.isFrozen
      || isBestEffort && !chunk.isSealed
    {
      unsafe try setProtection(.readWrite, at: chunk.mapping.data, byteCount: chunk.carvedBytes)
    }
    if isBestEffort {
      return withAllKeysOpen {
        unsafe wipe(chunk.mapping.data, byteCount: chunk.carvedBytes)
      }
    }
    let found = gate.openKey(writing: true)
    unsafe wipe(chunk.mapping.data, byteCount: chunk.carvedBytes)
    gate.closeKey(found)
  }
}
