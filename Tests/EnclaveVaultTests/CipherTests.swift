// The ciphers against published test vectors.

#if Sodium
  import Enclave
  import Testing

  private func bytes(_ hex: String) -> [UInt8] {
    let digits = Array(hex)
    return stride(from: 0, to: digits.count, by: 2).map {
      UInt8(String(digits[$0...$0 + 1]), radix: 16)!
    }
  }

  @Suite struct CipherTests {
    struct Vector: Sendable {
      var cipher: AEAD
      var key, nonce, associated, text, ciphertext, tag: [UInt8]
    }

    private static let sunscreen = Array(
      ("Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the "
        + "future, sunscreen would be it.").utf8)

    static let vectors = [
      // McGrew and Viega, "The Galois/Counter Mode of Operation", test case 16.
      Vector(
        cipher: .aes256gcm,
        key: bytes("feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308"),
        nonce: bytes("cafebabefacedbaddecaf888"),
        associated: bytes("feedfacedeadbeeffeedfacedeadbeefabaddad2"),
        text: bytes(
          "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72"
            + "1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39"),
        ciphertext: bytes(
          "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa"
            + "8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662"),
        tag: bytes("76fc6ece0f4e1768cddf8853bb2d551b")),
      // RFC 8439, 2.8.2.
      Vector(
        cipher: .chacha20poly1305,
        key: bytes("808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9f"),
        nonce: bytes("070000004041424344454647"),
        associated: bytes("50515253c0c1c2c3c4c5c6c7"),
        text: sunscreen,
        ciphertext: bytes(
          "d31a8d34648e60db7b86afbc53ef7ec2a4aded51296e08fea9e2b5a736ee62d63dbea45e8ca9671282fafb69"
            + "da92728b1a71de0a9e060b2905d6a5b67ecd3b3692ddbd7f2d778b8c9803aee328091b58fab324e4fad675"
            + "945585808b4831d7bc3ff4def08e4b7a9de576d26586cec64b6116"),
        tag: bytes("1ae10b594f09e26a7e902ecbd0600691")),
      // draft-irtf-cfrg-xchacha-03, A.3.1.
      Vector(
        cipher: .xchacha20poly1305,
        key: bytes("808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9f"),
        nonce: bytes("404142434445464748494a4b4c4d4e4f5051525354555657"),
        associated: bytes("50515253c0c1c2c3c4c5c6c7"),
        text: sunscreen,
        ciphertext: bytes(
          "bd6d179d3e83d43b9576579493c0e939572a1700252bfaccbed2902c21396cbb731c7f1b0b4aa6440bf3a82f"
            + "4eda7e39ae64c6708c54c216cb96b72e1213b4522f8c9ba40db5d945b11b69b982c1bb9e3f3fac2bc36948"
            + "8f76b2383565d3fff921f9664c97637da9768812f615c68b13b52e"),
        tag: bytes("c0875924c1c7987947deafd8780acf49")),
    ]

    @Test(arguments: vectors.filter(\.cipher.isAvailable)) func ciphersGiveKnownAnswers(
      vector: Vector
    ) {
      let schedule = UnsafeMutableRawPointer.allocate(
        byteCount: AEAD.scheduleBytes, alignment: 16)
      defer { schedule.deallocate() }
      var (made, tag) = (
        [UInt8](repeating: 0, count: vector.text.count), [UInt8](repeating: 0, count: 16)
      )
      let cipher = vector.cipher
      #expect(vector.nonce.count == cipher.nonceBytes)
      cipher.prepare(key: vector.key, schedule: schedule)
      vector.associated.withUnsafeBytes { associated in
        cipher.encrypt(
          vector.text, byteCount: vector.text.count, into: &made, tag: &tag, nonce: vector.nonce,
          associated: associated, schedule: schedule)
        #expect(made == vector.ciphertext && tag == vector.tag)
        var back = [UInt8](repeating: 1, count: vector.text.count)
        #expect(
          cipher.decrypt(
            made, byteCount: made.count, into: &back, tag: tag, nonce: vector.nonce,
            associated: associated, schedule: schedule))
        #expect(back == vector.text)
        tag[3] ^= 4
        #expect(
          !cipher.decrypt(
            made, byteCount: made.count, into: &back, tag: tag, nonce: vector.nonce,
            associated: associated, schedule: schedule))
        #expect(back.allSatisfy { $0 == 0 })
      }
    }
  }
#endif
