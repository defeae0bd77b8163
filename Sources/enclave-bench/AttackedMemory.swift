// The memory under attack: Enclave's, and that of each installed peer.

import Enclave
import Glibc

/// The operations of a library that the attacks use.
@safe
struct AttackedMemory {
  var name: String
  var isOurs = false
  /// Allocates a secret filled with 0xa5, and closes it if the library can.
  var allocate: (Int) throws -> UnsafeMutableRawPointer
  var free: (UnsafeMutableRawPointer) -> Void
  /// Runs the body while the secret is open for writing, and passes the address of its contents.
  var open: (UnsafeMutableRawPointer, (UnsafeMutableRawPointer) -> Void) -> Void
  /// Makes the secret write-once, as well as the library can.
  var freeze: (UnsafeMutableRawPointer) -> Void
}

struct Refused: Error {}

extension Attacks {
  nonisolated(unsafe) private static var held:
    [UnsafeMutableRawPointer: UnsafeMutablePointer<Secret>] =
      unsafe [:]

  private static func symbol<T>(_ library: UnsafeMutableRawPointer, _ name: String, as: T.Type) -> T
  {
    guard let address = unsafe dlsym(library, name) else { exit(notInstalled) }
    return unsafe unsafeBitCast(address, to: T.self)
  }

  private static func library(_ names: String...) -> UnsafeMutableRawPointer {
    for name in names {
      if let library = unsafe dlopen(name, RTLD_NOW) { return unsafe library }
    }
    exit(notInstalled)
  }

  private typealias Allocate = @convention(c) (Int) -> UnsafeMutableRawPointer?
  private typealias Release = @convention(c) (UnsafeMutableRawPointer) -> Void
  private typealias Protect = @convention(c) (UnsafeMutableRawPointer) -> Int32

  private static func filled(_ address: UnsafeMutableRawPointer?, _ count: Int) throws
    -> UnsafeMutableRawPointer
  {
    guard let address = unsafe address else { throw Refused() }
    unsafe memset(address, Int32(pattern), count)
    return unsafe address
  }

  private static func options(_ target: String, _ attack: String) -> Arena.Options {
    var options = Arena.Options()
    switch target {
    case "pages": options.gate = .pages
    case "cipher":
      options.gate = .cipher
      // Keys and scratch memory are locked; ciphertext need not be.
      if attack == unlockedPage { options.lock = .off }
    case "enclave isolated": options.layout = .isolated
    case "enclave endsAtGuard":
      options.layout = .isolated
      options.endsAtGuard = true
    default: break
    }
    return options
  }

  static func target(_ number: Int, of attack: String) -> AttackedMemory {
    switch targets[number] {
    case "enclave", "pages", "cipher", "enclave isolated", "enclave endsAtGuard":
      let arena: Arena
      do { arena = try Arena("attacked", options(targets[number], attack)) } catch {
        exit(detected)
      }
      return unsafe AttackedMemory(
        name: targets[number], isOurs: true,
        allocate: { count in
          let place = UnsafeMutablePointer<Secret>.allocate(capacity: 1)
          unsafe place.initialize(to: try arena.allocate(byteCount: count))
          unsafe try place.pointee.withMutableBytes { bytes in
            unsafe bytes.withUnsafeMutableBytes {
              _ = unsafe memset($0.baseAddress!, Int32(pattern), $0.count)
            }
          }
          let address = unsafe place.pointee.handle.address
          unsafe held[address] = unsafe place
          return unsafe address
        },
        free: { address in
          let secret = unsafe held.removeValue(forKey: address)!.move()
          try? secret.destroy()
        },
        open: { address, body in
          do {
            unsafe try held[address]!.pointee.withMutableBytes { bytes in
              unsafe bytes.withUnsafeMutableBytes { unsafe body($0.baseAddress!) }
            }
          } catch { exit(detected) }
        },
        freeze: { _ in
          // Sealing needs protection keys or a cipher gate.
          do { try arena.seal() } catch { try? arena.freeze() }
        })
    case "libsodium":
      let sodium = unsafe library("libsodium.so.23", "libsodium.so.26", "libsodium.so")
      _ = unsafe symbol(sodium, "sodium_init", as: (@convention(c) () -> Int32).self)()
      let allocate = unsafe symbol(sodium, "sodium_malloc", as: Allocate.self)
      let free = unsafe symbol(sodium, "sodium_free", as: Release.self)
      let close = unsafe symbol(sodium, "sodium_mprotect_noaccess", as: Protect.self)
      let open = unsafe symbol(sodium, "sodium_mprotect_readwrite", as: Protect.self)
      let readOnly = unsafe symbol(sodium, "sodium_mprotect_readonly", as: Protect.self)
      return unsafe AttackedMemory(
        name: "libsodium",
        allocate: { count in
          let address = unsafe try filled(allocate(count), count)
          _ = unsafe close(address)
          return unsafe address
        }, free: unsafe free,
        open: { address, body in
          _ = unsafe open(address)
          unsafe body(address)
          _ = unsafe close(address)
        }, freeze: { _ = unsafe readOnly($0) })
    case "openssl":
      let crypto = unsafe library("libcrypto.so.3", "libcrypto.so.1.1")
      let start = unsafe symbol(
        crypto, "CRYPTO_secure_malloc_init", as: (@convention(c) (Int, Int) -> Int32).self)
      // 1: success; 2: something could not be protected.
      if start(1 << 20, 32) != 1 { exit(detected) }
      typealias Traced =
        @convention(c) (Int, UnsafePointer<CChar>?, Int32)
        -> UnsafeMutableRawPointer?
      typealias Cleared =
        @convention(c) (
          UnsafeMutableRawPointer, Int, UnsafePointer<CChar>?, Int32
        ) -> Void
      let allocate = unsafe symbol(crypto, "CRYPTO_secure_malloc", as: Traced.self)
      let free = unsafe symbol(crypto, "CRYPTO_secure_clear_free", as: Cleared.self)
      return unsafe AttackedMemory(
        name: "openssl", allocate: { unsafe try filled(allocate($0, nil, 0), $0) },
        free: { unsafe free($0, 32, nil, 0) }, open: { unsafe $1($0) }, freeze: { _ in })
    case "libgcrypt":
      let gcrypt = unsafe library("libgcrypt.so.20")
      _ = unsafe symbol(
        gcrypt, "gcry_check_version",
        as: (@convention(c) (UnsafePointer<CChar>?) -> UnsafePointer<CChar>?).self)(nil)
      // gcry_control is variadic; for these commands' integers the calling convention is the same.
      let control = unsafe symbol(
        gcrypt, "gcry_control", as: (@convention(c) (Int32, Int, Int) -> UInt32).self)
      if control(24, 1 << 20, 0) != 0 { exit(detected) }  // GCRYCTL_INIT_SECMEM
      _ = control(38, 0, 0)  // GCRYCTL_INITIALIZATION_FINISHED
      let allocate = unsafe symbol(gcrypt, "gcry_malloc_secure", as: Allocate.self)
      return unsafe AttackedMemory(
        name: "libgcrypt", allocate: { unsafe try filled(allocate($0), $0) },
        free: unsafe symbol(gcrypt, "gcry_free", as: Release.self), open: { unsafe $1($0) },
        freeze: { _ in })
    default:
      return unsafe AttackedMemory(
        name: "malloc", allocate: { unsafe try filled(malloc($0), $0) },
        free: { unsafe Glibc.free($0) },
        open: { unsafe $1($0) }, freeze: { _ in })
    }
  }
}
