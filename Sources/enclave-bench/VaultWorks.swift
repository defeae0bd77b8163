// Encryption at rest: `seal` encrypts a secret and drops the ciphertext; `open` decrypts into a new
// secret and destroys it; `open_over` decrypts over an existing secret; `stream_write` writes a
// stream of ordinary bytes in chunks of 64 KiB and drops it; `stream_read` reads one from start to
// end.

#if Sodium
  import Enclave
  import EnclaveVault

  @safe
  final class VaultWork: Work {
    let vault: Vault
    let arena: Arena
    let op: String
    let place: UnsafeMutablePointer<Secret>
    let encrypted: EncryptedSecret
    let stream: EncryptedStream
    let plain: [UInt8]
    private var sum: UInt8 = 0

    init(_ arena: Arena, _ size: Int, gate: Arena.Gate, op: String) {
      do {
        let vault = try Vault("bench vault", lock: .preferred, gate: gate)
        var secret = make(arena, size)
        fillAll(&secret)
        encrypted = try vault.encrypt(secret)
        unsafe place = .allocate(capacity: 1)
        unsafe place.initialize(to: secret)
        plain = op == "stream_write" ? Array(repeating: 0xa5, count: size) : []
        var writer = try vault.makeStream(through: arena)
        if op == "stream_read" { unsafe try writer.append(place.pointee) }
        stream = try writer.finish()
        self.vault = vault
      } catch { fail("\(error)") }
      self.arena = arena
      self.op = op
    }

    deinit {
      unsafe place.deinitialize(count: 1)
      unsafe place.deallocate()
    }

    func step() {
      do throws(EnclaveError) {
        switch op {
        case "open":
          let opened = try vault.decrypt(encrypted, into: arena)
          try opened.destroy()
        case "stream_write":
          let plain = self.plain
          var writer = try vault.makeStream(through: arena)
          unsafe try writer.append(plain.span.bytes)
          _ = try writer.finish()
        case "stream_read":
          var reader = try stream.makeReader(through: arena)
          do {
            while let byte = try reader.withNext({ unsafe $0.unsafeLoad(as: UInt8.self) }) {
              sum &+= byte
            }
          } catch {
            switch error {
            case .access(let error): throw error
            }
          }
        case "open_over": unsafe try vault.decrypt(encrypted, over: &place.pointee)
        default: _ = unsafe try vault.encrypt(place.pointee)
        }
      } catch { fail("\(error)") }
    }
  }
#endif
