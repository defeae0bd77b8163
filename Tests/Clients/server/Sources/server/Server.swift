// A server whose token key lives in an arena: it makes and checks tokens, publishes itself for memwatch,
// and wipes the key when it has stopped.
//
//   server CERTIFICATE KEY [ordinary]
//                       PEM files, the key Ed25519 or P-256; prints "serving port PORT", and SIGTERM and SIGINT stop it;
//                       "ordinary" leaves the TLS key to BoringSSL, to compare
//   GET /token/NAME     a token
//   GET /check          200 and the name for "Authorization: Bearer TOKEN", else 401

import Enclave
import EnclaveService
import EnclaveTLS
import EnclaveTLSP256
import Foundation
import Hummingbird
import HummingbirdTLS
import Logging
import NIOSSL
import ServiceLifecycle
import Tokens
import UnixSignals

@main
struct Server {
  static func main() async throws {
    let logger = Logger(label: "server")

    // The tokens' key is made anew at each start; TLS's comes from a file, straight into the arena.
    // Locks are preferred: where RLIMIT_MEMLOCK is too low the server starts all the same, and its log and
    // memwatch tell what is not locked. Without that word it would refuse to start.
    let keys = try Arena("token-keys", .init(lock: .preferred))
    let scratch = try Arena("token-scratch", .init(lock: .preferred))
    let key = SecretReference(try keys.allocateRandom(byteCount: 32, label: "token key"))
    let tokens = TokenKey(key, scratch: scratch)

    let router = Router()
    router.get("token/:name") { _, context in
      let name = try context.parameters.require("name")
      let token = WebToken(sub: name, exp: Int(Date().timeIntervalSince1970) + 3600)
      // Signed inside of a window, synchronously; what is awaited is awaited outside.
      return try token.signed(by: tokens)
    }
    router.get("check") { request, _ in
      guard let sent = request.headers[.authorization], sent.hasPrefix("Bearer "),
        let token = try WebToken.checked(String(sent.dropFirst(7)), by: tokens)
      else { throw HTTPError(.unauthorized) }
      return token.sub
    }

    let arguments = CommandLine.arguments
    guard arguments.count >= 3 else { fatalError("usage: server CERTIFICATE KEY [ordinary]") }
    let tlsKeys = try Arena("tls-keys", .init(layout: .isolated, lock: .preferred))
    let certificates = try NIOSSLCertificate.fromPEMFile(arguments[1])
    let tlsKey =
      arguments.count == 3
      ? try readKey(arguments[2], in: tlsKeys)
      : try NIOSSLPrivateKey(file: arguments[2], format: .pem)
    let server = Application(
      router: router,
      server: try .tls(
        tlsConfiguration: .makeServerConfiguration(
          certificateChain: certificates.map { .certificate($0) }, privateKey: .privateKey(tlsKey))),
      configuration: .init(address: .hostname("127.0.0.1", port: 0)),
      onServerRunning: { channel in
        say("serving port \(channel.localAddress?.port ?? 0)")
      }, logger: logger)

    var options = ArenaService.Options()
    options.wipesOnSignals = true
    // First in, last out: the arenas go when the server has answered its last request.
    let arenas = ArenaService([tlsKeys, keys, scratch], logger: logger, options: options)
    let group = ServiceGroup(
      configuration: .init(
        services: [.init(service: arenas), .init(service: server)],
        gracefulShutdownSignals: [.sigterm, .sigint], logger: logger))
    do { try await group.run() } catch {
      // All services were cancelled at once: only now does nothing use a secret any more.
      try await arenas.destroyArenas()
      throw error
    }
    say("stopped")
  }

  /// A file is read straight into the arena, whatever kind of key it holds.
  static func readKey(_ path: String, in arena: Arena) throws -> NIOSSLPrivateKey {
    do {
      return NIOSSLPrivateKey(
        customPrivateKey: try TLSSigningKey(file: path, format: .pem, in: arena))
    } catch InvalidPrivateKey.notEd25519 {
      return NIOSSLPrivateKey(
        customPrivateKey: try P256SigningKey(file: path, format: .pem, in: arena))
    }
  }

  /// At once, also where standard output is a file.
  static func say(_ text: String) { FileHandle.standardOutput.write(Data((text + "\n").utf8)) }
}
