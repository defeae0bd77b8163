// Commands about vaults.

import CTestSupport
import Enclave
import EnclaveSystem
import Glibc

#if Sodium
  import EnclaveVault

  extension Host {
    /// Runs a command about a vault. Returns nil for other commands.
    mutating func vaultCommand() throws -> String? {
      switch words.first ?? "" {
      case "vault":
        let cipher: Vault.Cipher? =
          try word(2) == "any" ? nil : word(2) == "aes" ? .aes256gcm : .xchacha20poly1305
        vaults[words[1]] = (try Vault("vault", lock: .preferred, cipher: cipher), [])
        return ""
      case "encrypt":
        // Encrypts the last secret of an arena this many times.
        guard let secret = secrets[try word(2)]?.last, let vault = vaults[words[1]]?.vault else {
          throw Failure(text: "no such vault or secret")
        }
        for _ in 0..<(try number(3)) {
          vaults[words[1]]!.encrypted.append(Encrypted(try vault.encrypt(secret)))
        }
        return ""
      case "decrypt":
        guard let arena = arenas[try word(2)], let (vault, encrypted) = vaults[words[1]],
          let last = encrypted.last
        else { throw Failure(text: "no such vault or arena") }
        secrets[words[2]]!.append(SecretReference(try vault.decrypt(last.secret, into: arena)))
        return ""
      case "drop":
        vaults[try word(1)]!.encrypted.removeLast(try number(2))
        return ""
      case "rotate":
        try vaults[try word(1)]!.vault.rotate()
        return ""
      case "tamper":
        unsafe vaults[try word(1)]!.encrypted.last!.secret.withStorage { text, _ in
          unsafe text[0] ^= 1
        }
        return ""
      case "storm":
        // Threads that copy, free, grow, encrypt, decrypt and rotate until the end, ignoring
        // errors. Only the library ever holds the bytes.
        guard let secret = secrets[try word(1)]?.last else { throw Failure(text: "no secret") }
        let gate = try Pool.gate(word(2))
        let slabs = try Arena("slabs", .init(lock: .preferred, gate: gate))
        let pages = try Arena("pages", .init(layout: .isolated, lock: .preferred, gate: gate))
        let vault = try Vault(
          "vault", lock: .preferred, gate: gate == .cipher ? .automatic : gate)
        spawnThread { while true { _ = try? secret.copy(into: pages) } }
        spawnThread {
          while true {
            var copies: [SecretReference] = []
            for _ in 0..<500 {
              if let copy = try? secret.copy(into: slabs) { copies.append(SecretReference(copy)) }
            }
          }
        }
        spawnThread {
          while true {
            guard let encrypted = try? vault.encrypt(secret) else { continue }
            _ = try? vault.decrypt(encrypted, into: slabs)
          }
        }
        spawnThread {
          while true {
            var held: [Encrypted] = []
            for _ in 0..<3 {
              if let one = try? vault.encrypt(secret) { held.append(Encrypted(one)) }
            }
            try? vault.rotate()
            _ = consume held
          }
        }
        return ""
      case "model":
        // none|pages|key STEPS SEED; then `free`, or `wipe` and `use`.
        switch try word(1) {
        case "free": model!.free()
        case "wipe": EmergencyWipe.wipeEverything()
        case "use": return try model!.useAll()
        case let word:
          model = try Model(seed: UInt64(try number(3)), gate: Pool.gate(word))
          return try model!.run(steps: try number(2))
        }
        return ""
      default: return nil
      }
    }
  }
#endif
