// A server with its token key in an arena: it issues and checks tokens, publishes a stats page for memwatch,
// and wipes the key when it stops.
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

    // The token key is created at each start; the TLS key is read from a file, directly into its arena.
    // Locks are preferred: if RLIMIT_MEMLOCK is too low, the server still starts, and its log and memwatch
    // show what is not locked. By default (required) it would not start.
    let keys = try Arena("token-keys", .init(lock: .preferred))
    let scratch = try Arena("token-scratch", .init(lock: .preferred))
    let key = SecretReference(try keys.allocateRandom(byteCount: 32, label: "token key"))
    let tokens = TokenKey(key, scratch: scratch)

    let router = Router()
    router.get("token/:name") { _, context in
      let name = try context.parameters.require("name")
      let token = WebToken(sub: name, exp: Int(Date().timeIntervalSince1970) + 3600)
      // Signed synchronously in a window; nothing is awaited in it.
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
    // Without protection keys, each handshake would open and close a page gate with a system call.
    // A cipher gate needs none, and the key rests encrypted.
    let gate: Arena.Gate = Capability.protectionKeys.isAvailable ? .key : .cipher
    let tlsKeys = try Arena("tls-keys", .init(layout: .isolated, lock: .preferred, gate: gate))
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
    // First in, last out: the arenas are destroyed after the server has answered its last request.
    let arenas = ArenaService([tlsKeys, keys, scratch], logger: logger, options: options)
    let group = ServiceGroup(
      configuration: .init(
        services: [.init(service: arenas), .init(service: server)],
        gracefulShutdownSignals: [.sigterm, .sigint], logger: logger))
    do { try await group.run() } catch {
      // All services were cancelled at once: only now are no secrets in use.
      try await arenas.destroyArenas()
      throw error
    }
    say("stopped")
  }

  /// Reads a key of either kind from a file, directly into the arena.
  static func readKey(_ path: String, in arena: Arena) throws -> NIOSSLPrivateKey {
    do {
      return NIOSSLPrivateKey(
        customPrivateKey: try TLSSigningKey(file: path, format: .pem, in: arena))
    } catch InvalidPrivateKey.notEd25519 {
      return NIOSSLPrivateKey(
        customPrivateKey: try P256SigningKey(file: path, format: .pem, in: arena))
    }
  }

  /// Unbuffered, even if standard output is a file.
  static func say(_ text: String) { FileHandle.standardOutput.write(Data((text + "\n").utf8)) }
}
