// Random operations that are compared with a model. A secret's contents are derived from its number
// and a seed, so that another process can search for everything that was ever written.

#if Sodium
  import CTestSupport
  import Enclave
  import EnclaveVault
  import Glibc

  final class Model {
    private final class Item {
      let number: UInt64
      let size: Int
      var secret: Secret?
      var encrypted: EncryptedSecret?
      var stream: EncryptedStream?
      init(_ number: UInt64, _ size: Int) { (self.number, self.size) = (number, size) }
    }

    private let seed: UInt64
    private var state: UInt64
    private var written: UInt64 = 0
    private var items: [Item] = []
    private let arenas: [Arena]
    private let vaults: [Vault]

    init(seed: UInt64, gate: Arena.Gate) throws {
      self.seed = seed
      state = seed | 1
      arenas = [
        try Arena("slabs", .init(lock: .preferred, gate: gate)),
        try Arena("pages", .init(layout: .isolated, lock: .preferred, gate: gate)),
      ]
      vaults = [
        try Vault("first", lock: .preferred, gate: gate),
        try Vault("second", lock: .preferred, gate: gate, cipher: .xchacha20poly1305),
      ]
    }

    private func random(_ limit: Int) -> Int {
      state ^= state << 13
      state ^= state >> 7
      state ^= state << 17
      return Int(state >> 33) % limit
    }

    private func expect(_ condition: Bool, _ what: String, _ item: Item) throws {
      if !condition { throw Failure(text: "\(what) of \(item.number), seed \(seed)") }
    }

    private func isRight(_ secret: borrowing Secret, _ item: Item) throws -> Bool {
      guard secret.byteCount == item.size else { return false }
      return try secret.withBytes { bytes in
        unsafe bytes.withUnsafeBytes {
          unsafe ct_is_pattern($0.baseAddress, $0.count, seed, item.number) != 0
        }
      }
    }

    private func make(_ arena: Arena) throws {
      let item = Item(written, 8 + random(400))
      written += 1
      var secret = try arena.allocate(byteCount: item.size)
      try secret.withMutableBytes { bytes in
        unsafe bytes.withUnsafeMutableBytes {
          unsafe ct_fill_pattern($0.baseAddress, $0.count, seed, item.number)
        }
      }
      item.secret = consume secret
      items.append(item)
    }

    func run(steps: Int) throws -> String {
      for step in 0..<steps {
        let choice = random(100)
        if items.count < 20 || choice < 20 && items.count < 150 {
          try make(arenas[random(16) == 0 ? 1 : 0])
          continue
        }
        if step % 2000 == 1999 {
          try fork()
          continue
        }
        let item = items[random(items.count)]
        let vault = vaults[Int(item.number % 2)]
        switch choice {
        case 20..<35: if item.secret != nil { item.encrypted = try vault.encrypt(item.secret!) }
        case 35..<50: if item.secret != nil { item.encrypted = try vault.park(&item.secret) }
        case 50..<65:
          if item.encrypted != nil {
            item.secret = try vault.decrypt(item.encrypted!, into: arenas[random(2)])
          }
        case 65..<72: items.removeAll { $0 === item }
        case 72..<77:
          if item.secret != nil {
            var writer = try vault.makeStream(through: arenas[0], chunkByteCount: 1 + random(60))
            try writer.append(item.secret!)
            item.stream = try writer.finish()
          }
        case 77..<82:
          if let stream = item.stream {
            var reader = try stream.makeReader(through: arenas[0])
            var whole = try arenas[0].allocate(byteCount: item.size)
            let count = try reader.read(over: &whole)
            let isSame = try isRight(whole, item)
            try expect(isSame && count == item.size, "what is read", item)
          }
        case 82..<84: if random(20) == 0 { try vault.rotate() }
        default:
          if item.secret != nil {
            let isSame = try isRight(item.secret!, item)
            try expect(isSame, "contents", item)
          }
        }
      }
      clear()
      return "\(written)"
    }

    /// A child has none of the contents, and gets errors.
    private func fork() throws {
      guard let item = items.first(where: { $0.secret != nil || $0.encrypted != nil }) else {
        return
      }
      let child = ct_fork()
      if child == 0 {
        do {
          if item.secret != nil {
            _ = try isRight(item.secret!, item)
          } else {
            _ = try vaults[Int(item.number % 2)].decrypt(item.encrypted!, into: arenas[0])
          }
          _exit(1)
        } catch {
          _exit("\(error)".contains("forked process") ? 0 : 2)
        }
      }
      var status: Int32 = -1
      guard unsafe waitpid(child, &status, 0) == child, status == 0 else {
        throw Failure(text: "the child: \(status)")
      }
    }

    /// Clears the stack and the registers of the calls above, which do not belong to the library.
    private func clear() { ct_clear_stack() }

    func free() {
      items = []
      clear()
    }

    /// After a wipe every use is an error.
    func useAll() throws -> String {
      var errors = 0
      for item in items {
        if item.secret != nil {
          do { _ = try isRight(item.secret!, item) } catch { errors += 1 }
        }
        if item.encrypted != nil {
          let vault = vaults[Int(item.number % 2)]
          do { item.secret = try vault.decrypt(item.encrypted!, into: arenas[0]) } catch {
            errors += 1
          }
        }
      }
      let uses = items.reduce(0) { count, item in
        count + (item.secret == nil ? 0 : 1) + (item.encrypted == nil ? 0 : 1)
      }
      clear()
      return "\(uses) \(errors)"
    }
  }
#endif
