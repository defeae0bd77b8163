// TLS handshakes of NIOSSL clients with keys in arenas; P-256 keys.

import Enclave
import EnclaveTLS
import EnclaveTLSP256
import Foundation
import NIOCore
import NIOPosix
import NIOSSL
import NIOTLS
import Testing

/// A key from a standard's examples, and its certificate.
enum Identity: CaseIterable, CustomTestStringConvertible {
  /// RFC 8032, 7.1, test 2.
  case ed25519
  /// RFC 6979, A.2.5.
  case p256

  var testDescription: String { self == .p256 ? "P-256" : "Ed25519" }

  /// PKCS #8.
  var der: [UInt8] {
    TLSKeyTests.bytes(
      hex: self == .ed25519
        ? TLSKeyTests.version1
        : "308187020100301306072a8648ce3d020106082a8648ce3d030107046d" + Self.inner
          + "a144034200" + Self.point)
  }

  /// RFC 5915, without and with the curve.
  static let inner =
    "306b0201010420c9afa9d845ba75166b5c215767b1d6934e50c3db36e89b127b8a622b120f6721"
  static let sec1 =
    "30770201010420c9afa9d845ba75166b5c215767b1d6934e50c3db36e89b127b8a622b120f6721"
    + "a00a06082a8648ce3d030107a144034200" + point
  static let point =
    "0460fed4ba255a9d31c961eb74c6356d68c049b8923b61fa6ce669622e60f29fb6"
    + "7903fe1008b8bc99a41ae9e95628bc64f2f1b20c2d7e9f5177a3c294d4462299"

  func key(in arena: Arena) throws -> NIOSSLPrivateKey {
    let der = try arena.allocate(copying: der)
    return switch self {
    case .ed25519:
      NIOSSLPrivateKey(customPrivateKey: try TLSSigningKey(pkcs8: der, in: arena))
    case .p256: NIOSSLPrivateKey(customPrivateKey: try P256SigningKey(der: der, in: arena))
    }
  }

  /// Self-signed for "localhost", 2020 to 2119.
  var certificate: String {
    switch self {
    case .ed25519:
      """
      -----BEGIN CERTIFICATE-----
      MIIBHTCB0KADAgECAgEBMAUGAytlcDAUMRIwEAYDVQQDDAlsb2NhbGhvc3QwIBcN
      MjAwMTAxMDAwMDAwWhgPMjEyMDAxMDEwMDAwMDBaMBQxEjAQBgNVBAMMCWxvY2Fs
      aG9zdDAqMAUGAytlcAMhAD1AF8PoQ4lakrcKp00bfrycmCzPLsSWjMDNVfEq9GYM
      o0UwQzAUBgNVHREEDTALgglsb2NhbGhvc3QwDAYDVR0TBAUwAwEB/zAdBgNVHQ4E
      FgQUE/dyZp4VKuamKmCjSIpvKX0GE90wBQYDK2VwA0EAKaRdwo0BdUcSKdTw4YHW
      XamOF2T4XeTB8uSOA4nWU8f/eVs9Y0C+frSngOKcwBgdx4VZHZ50RDX1cqZgKPA9
      Bw==
      -----END CERTIFICATE-----
      """
    case .p256:
      """
      -----BEGIN CERTIFICATE-----
      MIIBXjCCAQSgAwIBAgIBATAKBggqhkjOPQQDAjAUMRIwEAYDVQQDDAlsb2NhbGhv
      c3QwIBcNMjAwMTAxMDAwMDAwWhgPMjEyMDAxMDEwMDAwMDBaMBQxEjAQBgNVBAMM
      CWxvY2FsaG9zdDBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABGD+1LolWp0xyWHr
      dMY1bWjASbiSO2H6bOZpYi5g8p+2eQP+EAi4vJmkGunpVii8ZPLxsgwtfp9Rd6PC
      lNRGIpmjRTBDMBQGA1UdEQQNMAuCCWxvY2FsaG9zdDAMBgNVHRMEBTADAQH/MB0G
      A1UdDgQWBBQalWlXm84ympQtB2nJwLVkMVY3EDAKBggqhkjOPQQDAgNIADBFAiEA
      0M8yGZh+K0vn5EJ1Mh2nCkz0+s4nv3ipsQiavAnwwikCIAE2BMreyxLEVaRwLUjc
      BTO85s7vXL+9twKvC6c5F9xh
      -----END CERTIFICATE-----
      """
    }
  }
}

@Suite struct HandshakeTests {
  /// Echoes its input.
  private final class Echo: ChannelInboundHandler, Sendable {
    typealias InboundIn = ByteBuffer
    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
      context.writeAndFlush(data, promise: nil)
    }
  }

  /// Sends "ping" after the handshake, and returns the reply.
  private final class Ping: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer
    typealias OutboundOut = ByteBuffer
    let answer: EventLoopPromise<String>

    init(_ answer: EventLoopPromise<String>) { self.answer = answer }

    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
      if case .handshakeCompleted = event as? TLSUserEvent {
        context.writeAndFlush(wrapOutboundOut(ByteBuffer(string: "ping")), promise: nil)
      }
      context.fireUserInboundEventTriggered(event)
    }
    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
      answer.succeed(String(buffer: unwrapInboundIn(data)))
      context.close(promise: nil)
    }
    func errorCaught(context: ChannelHandlerContext, error: any Error) {
      answer.fail(error)
      context.close(promise: nil)
    }
    func channelInactive(context: ChannelHandlerContext) { answer.fail(ChannelError.eof) }
  }

  private func certificates(_ identity: Identity) throws -> [NIOSSLCertificate] {
    try NIOSSLCertificate.fromPEMBytes(Array(identity.certificate.utf8))
  }

  private func serve(
    _ certificate: Identity, key: NIOSSLPrivateKey, _ version: TLSVersion
  ) async throws -> any Channel {
    var configuration = TLSConfiguration.makeServerConfiguration(
      certificateChain: try certificates(certificate).map { .certificate($0) },
      privateKey: .privateKey(key))
    configuration.minimumTLSVersion = version
    configuration.maximumTLSVersion = version
    let context = try NIOSSLContext(configuration: configuration)
    return try await ServerBootstrap(group: MultiThreadedEventLoopGroup.singleton)
      .childChannelInitializer { channel in
        channel.eventLoop.makeCompletedFuture {
          try channel.pipeline.syncOperations.addHandlers([
            NIOSSLServerHandler(context: context), Echo(),
          ])
        }
      }.bind(host: "127.0.0.1", port: 0).get()
  }

  private func ping(_ server: any Channel, trusting identity: Identity) async throws -> String {
    var configuration = TLSConfiguration.makeClientConfiguration()
    configuration.trustRoots = .certificates(try certificates(identity))
    // (BoringSSL's clients do not take Ed25519 unless they are told to.)
    configuration.verifySignatureAlgorithms = [.ed25519, .ecdsaSecp256R1Sha256]
    let context = try NIOSSLContext(configuration: configuration)
    let loop = MultiThreadedEventLoopGroup.singleton.next()
    let answer = loop.makePromise(of: String.self)
    do {
      _ = try await ClientBootstrap(group: loop).channelInitializer { channel in
        channel.eventLoop.makeCompletedFuture {
          try channel.pipeline.syncOperations.addHandlers([
            NIOSSLClientHandler(context: context, serverHostname: "localhost"), Ping(answer),
          ])
        }
      }.connect(to: try #require(server.localAddress)).get()
    } catch { answer.fail(error) }
    return try await answer.futureResult.get()
  }

  @Test(arguments: Identity.allCases, [TLSVersion.tlsv12, .tlsv13])
  func niosslClientsCompleteHandshakes(identity: Identity, version: TLSVersion) async throws {
    let arena = try Arena("tls", .init(lock: .preferred))
    let server = try await serve(identity, key: try identity.key(in: arena), version)
    for _ in 0..<20 { #expect(try await ping(server, trusting: identity) == "ping") }
    let answers = try await withThrowingTaskGroup(of: String.self) { group in
      for _ in 0..<50 { group.addTask { try await ping(server, trusting: identity) } }
      return try await group.reduce(into: []) { $0.append($1) }
    }
    #expect(answers == Array(repeating: "ping", count: 50))
    // A client that trusts another certificate does not complete a handshake.
    await #expect(throws: (any Error).self) {
      try await ping(server, trusting: identity == .p256 ? .ed25519 : .p256)
    }
    try await server.close()
    #expect(arena.statistics.openWindows == 0)
  }

  /// The twin: a signature by a key other than the certificate's is refused.
  @Test func anotherKeyIsRefused() async throws {
    let arena = try Arena("tls", .init(lock: .preferred))
    var other = Identity.p256.der
    other[40] ^= 1
    let key = try P256SigningKey(der: try arena.allocate(copying: other), in: arena)
    let server = try await serve(.p256, key: NIOSSLPrivateKey(customPrivateKey: key), .tlsv13)
    await #expect(throws: (any Error).self) { try await ping(server, trusting: .p256) }
    try await server.close()
  }

  /// After the key is destroyed, the client gets an error.
  @Test(arguments: Identity.allCases)
  func aDestroyedKeyDoesNotSign(identity: Identity) async throws {
    let arena = try Arena("tls", .init(lock: .preferred))
    let server = try await serve(identity, key: try identity.key(in: arena), .tlsv13)
    #expect(try await ping(server, trusting: identity) == "ping")
    try arena.destroy()
    await #expect(throws: (any Error).self) { try await ping(server, trusting: identity) }
    try await server.close()
  }
}

@Suite struct P256KeyTests {
  @Test func keysAreRead() throws {
    let arena = try Arena("tls", .init(lock: .preferred))
    let point = TLSKeyTests.bytes(hex: Identity.point)
    let pkcs8 = Identity.p256.der
    let sec1 = TLSKeyTests.bytes(hex: Identity.sec1)
    for der in [pkcs8, sec1] {
      let key = try P256SigningKey(der: try arena.allocate(copying: der), in: arena)
      #expect(key.publicKey == point)
      #expect(key.signatureAlgorithms == [.ecdsaSecp256R1Sha256] && key.derBytes.isEmpty)
      #expect(Set([key, key]).count == 1)
    }
    let texts = [
      TLSKeyTests.pem(pkcs8), TLSKeyTests.pem(pkcs8, separator: "\r\n"),
      "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"
        + TLSKeyTests.pem(sec1).replacing("PRIVATE", with: "EC PRIVATE"),
    ]
    for text in texts {
      let key = try P256SigningKey(pem: try arena.allocate(copying: text.utf8), in: arena)
      #expect(key.publicKey == point)
    }
    #expect(arena.statistics.secretCount == 0)
  }

  @Test func filesAreRead() throws {
    let arena = try Arena("tls", .init(lock: .preferred))
    let folder = FileManager.default.temporaryDirectory.appending(path: UUID().uuidString)
    try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: false)
    defer { try? FileManager.default.removeItem(at: folder) }
    let path = folder.appending(path: "key").path
    for identity in Identity.allCases {
      func read(
        _ format: NIOSSLSerializationFormats, _ path: String = path
      ) throws -> [UInt8] {
        switch identity {
        case .ed25519: try TLSSigningKey(file: path, format: format, in: arena).publicKey
        case .p256: try P256SigningKey(file: path, format: format, in: arena).publicKey
        }
      }
      let publicKey = TLSKeyTests.bytes(
        hex: identity == .ed25519 ? TLSKeyTests.publicKey : Identity.point)
      try Data(identity.der).write(to: URL(filePath: path))
      #expect(try read(.der) == publicKey)
      #expect(throws: InvalidPrivateKey.notPEM) { try read(.pem) }
      try Data(TLSKeyTests.pem(identity.der).utf8).write(to: URL(filePath: path))
      #expect(try read(.pem) == publicKey)
      #expect(throws: InvalidPrivateKey.self) { try read(.der) }
      // As orchestrators mount credentials.
      try FileManager.default.createSymbolicLink(atPath: path + "2", withDestinationPath: path)
      defer { try? FileManager.default.removeItem(atPath: path + "2") }
      #expect(try read(.pem, path + "2") == publicKey)
    }
    for wrong in [folder.path, path + "3", "/dev/zero"] {
      let failure = #expect(throws: InvalidPrivateKey.self) {
        try P256SigningKey(file: wrong, format: .pem, in: arena)
      }
      #expect(failure?.description.contains(wrong) == true, "\(String(describing: failure))")
    }
    #expect(arena.statistics.secretCount == 0)
  }

  @Test func invalidKeysAreRefused() throws {
    let arena = try Arena("tls", .init(lock: .preferred))
    func isRefused(_ der: [UInt8]) throws -> Bool {
      do {
        _ = try P256SigningKey(der: try arena.allocate(copying: der), in: arena)
        return false
      } catch InvalidPrivateKey.notP256 { return true }
    }
    for whole in [Identity.p256.der, TLSKeyTests.bytes(hex: Identity.sec1)] {
      #expect(try !isRefused(whole))
      for count in 1..<whole.count {
        #expect(try isRefused(Array(whole.prefix(count))), "\(count)")
      }
      #expect(try isRefused(whole + [0]))
      // Any byte except the scalar's, the point's (which is not read) and its tag's bits.
      let scalar = whole.count == Identity.p256.der.count ? 36 : 7
      for index in 0..<scalar {
        var other = whole
        other[index] ^= 0x40
        #expect(try isRefused(other), "byte \(index)")
      }
      // 0, and the group's order.
      let order = TLSKeyTests.bytes(
        hex: "ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551")
      for number in [[UInt8](repeating: 0, count: 32), order, [UInt8](repeating: 0xff, count: 32)] {
        var other = whole
        other.replaceSubrange(scalar..<scalar + 32, with: number)
        #expect(try isRefused(other))
      }
      var largest = whole
      largest.replaceSubrange(scalar..<scalar + 32, with: order.dropLast() + [0x50])
      #expect(try !isRefused(largest))
    }
    // Another curve, another algorithm.
    #expect(try isRefused(Identity.ed25519.der))
    #expect(try isRefused(TLSKeyTests.bytes(hex: Identity.inner)))
    #expect(arena.statistics.secretCount == 0)
  }
}
