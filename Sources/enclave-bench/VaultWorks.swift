// Encryption at rest: `seal` encrypts a secret and drops the ciphertext, `open` decrypts into a new
// secret and destroys it, `open_over` decrypts over one that is there.

#if Vault
  import Enclave
  import EnclaveVault

  @safe
  final class VaultWork: Work {
    let vault: Vault
    let arena: Arena
    let op: String
    let place: UnsafeMutablePointer<Secret>
    let encrypted: EncryptedSecret

    init(_ arena: Arena, _ size: Int, gate: Arena.Gate, op: String) {
      do {
        let vault = try Vault("bench vault", lock: .preferred, gate: gate)
        var secret = make(arena, size)
        fillAll(&secret)
        encrypted = try vault.encrypt(secret)
        unsafe place = .allocate(capacity: 1)
        unsafe place.initialize(to: secret)
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
        case "open_over": unsafe try vault.decrypt(encrypted, over: &place.pointee)
        default: _ = unsafe try vault.encrypt(place.pointee)
        }
      } catch { fail("\(error)") }
    }
  }
#endif
