// Errors for C: a code, an errno, and a text per thread.

import CEnclave
import Enclave

extension EnclaveError {
  var status: enclave_status {
    switch self {
    case .system, .notAuthentic: ENCLAVE_ERROR_SYSTEM
    case .endOfInput: ENCLAVE_ERROR_END_OF_INPUT
    case .unsupported, .cipherUnavailable: ENCLAVE_ERROR_UNSUPPORTED
    case .mapLimit: ENCLAVE_ERROR_MAP_LIMIT
    case .lockLimit, .memoryGroupLimit: ENCLAVE_ERROR_LOCK_LIMIT
    case .capacity, .noncesUsedUp: ENCLAVE_ERROR_CAPACITY
    case .invalidSize, .misaligned: ENCLAVE_ERROR_SIZE
    case .frozen: ENCLAVE_ERROR_FROZEN
    case .destroyed: ENCLAVE_ERROR_DESTROYED
    case .noSecret: ENCLAVE_ERROR_ARGUMENT
    case .inheritedByFork: ENCLAVE_ERROR_INHERITED
    case .windowsOpen, .windowsAbandoned, .openForWriting, .noScratch: ENCLAVE_ERROR_WINDOWS_OPEN
    case .tampered: ENCLAVE_ERROR_TAMPERED
    case .windowOfAnotherThread: ENCLAVE_ERROR_THREAD
    case .busy: ENCLAVE_ERROR_BUSY
    case .sealNeedsKeyGate: ENCLAVE_ERROR_NEEDS_KEY
    case .alreadyPublishing: ENCLAVE_ERROR_PUBLISHING
    case .unsuitableDirectory: ENCLAVE_ERROR_DIRECTORY
    }
  }

  fileprivate var errno: Int32 {
    switch self {
    case .system(let failure), .unsupported(_, let failure): failure.errno
    default: 0
    }
  }
}

/// Stores the error for the calling thread, and returns its code.
@inline(never)
func failed(_ error: EnclaveError) -> enclave_status {
  // No string interpolation: it allocates, and this may run in a signal handler.
  failed(error.status, error.description, errno: error.errno)
}

@inline(never)
func failed(_ status: enclave_status, _ text: String, errno: Int32 = 0) -> enclave_status {
  var text = text
  text.withUTF8 { utf8 in
    // Never nil, since texts are not empty.
    guard let start = utf8.baseAddress else { return }
    unsafe start.withMemoryRebound(to: CChar.self, capacity: utf8.count) { characters in
      unsafe cenclave_set_error(status, errno, characters, utf8.count)
    }
  }
  return status
}

func failedArgument(_ what: String) -> enclave_status {
  failed(ENCLAVE_ERROR_ARGUMENT, "\(what)")
}

/// A size_t larger than Int.max.
func failedSize(_ size: Int, _ alignment: Int) -> enclave_status {
  failed(
    ENCLAVE_ERROR_SIZE,
    "invalid size: \(UInt(bitPattern: size)) bytes aligned to \(UInt(bitPattern: alignment)); sizes are 0 to 2 GiB, "
      + "alignments powers of two up to the page size")
}

func failedStale() -> enclave_status {
  failed(
    ENCLAVE_ERROR_DESTROYED,
    "the secret is gone: it was freed or resized, or its arena was destroyed")
}

func failedNotOurs() -> enclave_status {
  failed(ENCLAVE_ERROR_NOT_OURS, "the address does not belong to a live secret of this process")
}

/// Runs a throwing body.
@inline(__always)
func attempt(_ body: () throws(EnclaveError) -> Void) -> enclave_status {
  do {
    try body()
    return ENCLAVE_OK
  } catch { return failed(error) }
}
