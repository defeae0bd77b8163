// Unchanged programs of Debian, adopted and watched: they work, their keys are in named and locked
// arenas, and sabotage of the arenas is found.

import Foundation
import TestSupport
import Testing

@Suite(.serialized, .waitsForProcesses) struct AdoptedProgramTests {
  let adopting: Adopting
  let scratch: Scratch
  let stats: Scratch

  init() throws {
    adopting = try Adopting.shared.get()
    scratch = try Scratch()
    stats = try Scratch(onTmpfs: true)
  }

  /// The number of clients that connect; the long run sets more.
  static let handshakes =
    ProcessInfo.processInfo.environment["ADOPTED_HANDSHAKES"].flatMap(Int.init) ?? 200

  private func run(_ arguments: String..., input: String? = nil, isAdopted: Bool = true) throws
    -> Ended
  {
    try Launch(
      arguments, stats: stats,
      environment: isAdopted ? adopting.environment(["GNUPGHOME": scratch.file("gnupg")]) : [:]
    ).run(input: input)
  }

  /// Makes a key and its certificate.
  private func makeCertificate(_ kind: [String]) throws {
    let made = try Launch(
      ["openssl", "req", "-x509", "-nodes", "-subj", "/CN=localhost", "-days", "2"] + kind
        + ["-keyout", scratch.file("key.pem"), "-out", scratch.file("cert.pem")]
    ).run()
    try #require(made.status == 0, "\(made.error)")
  }

  /// Connects clients one after the other. Returns the number of successes.
  private func connect(_ count: Int) throws -> Int {
    let script = """
      n=0
      for i in $(seq \(count)); do
        openssl s_client -unix \(scratch.file("socket")) -CAfile \(scratch.file("cert.pem")) -verify_return_error \
          -brief </dev/null >/dev/null 2>&1 && n=$((n+1))
      done
      echo $n
      """
    let result = try Launch(["bash", "-c", script]).run(within: 300)
    return Int(result.output.trimmingCharacters(in: .whitespacesAndNewlines)) ?? -1
  }

  @Test(arguments: [
    ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"], ["-newkey", "ed25519"],
    ["-newkey", "rsa:2048"],
  ])
  func opensslServerIsAdopted(kind: [String]) throws {
    try makeCertificate(kind)
    // (A relative path: s_server takes at most 31 characters.)
    var launch = Launch(
      [
        "openssl", "s_server", "-unix", "socket", "-key", "key.pem", "-cert", "cert.pem", "-www",
        "-quiet",
      ], stats: stats, environment: adopting.environment())
    launch.directory = scratch.path
    let server = try Running(launch)
    try eventually("the server listens") {
      FileManager.default.fileExists(atPath: scratch.file("socket"))
    }
    let count = kind.contains("ec") ? Self.handshakes : 10
    #expect(try connect(count) == count)
    try expectAdopted(server.pid, "openssl", stats)
    try expectSabotageIsFound(server.pid, stats)
    server.end()
  }

  /// The master reads the key, and forks two workers.
  private func startNginx(user: String, stats: Scratch?) throws -> (Running, workers: [Int32]) {
    try makeCertificate(["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"])
    let socket = scratch.file("socket")
    let paths = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
      .map { "\($0)_temp_path \(scratch.file($0));" }.joined(separator: " ")
    try """
    daemon off; worker_processes 2; pid \(scratch.file("pid")); error_log \(scratch.file("log"));
    \(Programs.isRoot ? "user \(user);" : "")
    events { worker_connections 64; }
    http {
      access_log off; \(paths)
      server {
        listen unix:\(socket) ssl; ssl_certificate \(scratch.file("cert.pem"));
        ssl_certificate_key \(scratch.file("key.pem")); location / { return 200 "hello"; }
      }
    }
    """.write(toFile: scratch.file("conf"), atomically: true, encoding: .utf8)
    let path = ["/usr/sbin/nginx", "/usr/bin/nginx", "/usr/local/bin/nginx"].first {
      FileManager.default.isExecutableFile(atPath: $0)
    }
    let server = try Running(
      Launch(
        [try #require(path), "-p", scratch.path, "-c", scratch.file("conf")], stats: stats,
        environment: adopting.environment()))
    try eventually("the server listens") { FileManager.default.fileExists(atPath: socket) }
    var workers: [Int32] = []
    try eventually("there are two workers") {
      workers = try Launch(["pgrep", "-P", "\(server.pid)"]).run().output
        .split(separator: "\n").compactMap { Int32($0) }
      return workers.count == 2
    }
    return (server, workers)
  }

  @Test(.enabled(if: areThere("nginx"), "nginx is not installed"))
  func nginxWithWorkersIsAdopted() throws {
    let (server, workers) = try startNginx(user: "root root", stats: stats)
    defer { server.end() }
    #expect(try connect(Self.handshakes) == Self.handshakes)
    for pid in [server.pid] + workers { try expectAdopted(pid, "openssl", stats) }
    try expectSabotageIsFound(workers[0], stats)
    #expect(try Watched(workers[1], stats).status == 0)
  }

  /// Workers that change their user publish in that user's directory, although nginx clears their
  /// environment, and keep their inherited memory locked.
  @Test(
    .enabled(if: areThere("nginx") && Programs.isRoot, "nginx is not installed, or not as root"))
  func workersThatChangeUserPublish() throws {
    let (server, workers) = try startNginx(user: "nobody nogroup", stats: nil)
    defer { server.end() }
    #expect(try connect(10) == 10)
    for pid in [server.pid] + workers { try expectAdopted(pid, "openssl", nil) }
  }

  @Test(.enabled(if: areThere("minisign"), "minisign is not installed"))
  func minisignSignsAndVerifies() throws {
    let (secret, known, text) = (
      scratch.file("secret"), scratch.file("public"), scratch.file("text")
    )
    try "a text\n".write(toFile: text, atomically: true, encoding: .utf8)
    let made = try run("minisign", "-G", "-p", known, "-s", secret, input: "pass\npass\n")
    #expect(made.status == 0, "\(made.error)")
    // It is inspected while it prompts for the passphrase, when the key's memory is allocated.
    let signer = try Running(
      Launch(
        ["minisign", "-S", "-s", secret, "-m", text], stats: stats,
        environment: adopting.environment()))
    try expectAdopted(signer.pid, "libsodium", stats)
    try expectSabotageIsFound(signer.pid, stats)
    try signer.input.fileHandleForWriting.write(contentsOf: Data("pass\n".utf8))
    try signer.input.fileHandleForWriting.close()
    _ = signer.output.fileHandleForReading.readDataToEndOfFile()
    signer.process.waitUntilExit()
    #expect(signer.process.terminationStatus == 0)
    let verified = try run("minisign", "-V", "-p", known, "-m", text)
    #expect(verified.status == 0, "\(verified)")
    let unadopted = try run("minisign", "-V", "-p", known, "-m", text, isAdopted: false)
    #expect(unadopted.status == 0, "\(unadopted)")
  }

  @Test(
    .enabled(
      if: areThere("gpg", "gpg-agent", "gpg-connect-agent"), "gpg and gpg-agent are not installed"))
  func gpgAgentCreatesAndUsesAKey() throws {
    let home = scratch.file("gnupg")
    try FileManager.default.createDirectory(
      atPath: home, withIntermediateDirectories: false, attributes: [.posixPermissions: 0o700])
    // gpg-agent --server serves one client and ends with its input; other clients use its socket.
    let agent = try Running(
      Launch(
        ["gpg-agent", "--homedir", home, "--daemon", "--", "cat"], stats: stats,
        environment: adopting.environment()))
    var pid: Int32 = 0
    defer {
      // Foundation takes `cat` for running as long as the agent has its descriptors.
      if pid > 0 { kill(pid, SIGTERM) }
      agent.end()
    }
    func gpg(_ arguments: String..., input: String? = nil) throws -> Ended {
      try Launch(
        ["gpg", "--homedir", home, "--batch", "--no-autostart"] + arguments, stats: stats
      ).run(input: input)
    }
    try eventually("the agent answers") {
      let asked = try Launch([
        "gpg-connect-agent", "--homedir", home, "--no-autostart", "GETINFO pid", "/bye",
      ]).run()
      pid =
        asked.output.split(separator: "\n").first { $0.hasPrefix("D ") }
        .flatMap { Int32($0.dropFirst(2)) } ?? 0
      return pid > 0
    }
    let made = try gpg(
      "--passphrase", "pass", "--pinentry-mode", "loopback", "--quick-gen-key", "a@example.org",
      "ed25519", "sign", "1d")
    #expect(made.status == 0, "\(made.error)")
    let signed = try gpg(
      "--passphrase", "pass", "--pinentry-mode", "loopback", "--clearsign", input: "a text\n")
    #expect(signed.status == 0, "\(signed.error)")
    let verified = try gpg("--verify", input: signed.output)
    #expect(verified.status == 0, "\(verified.error)")
    try expectAdopted(pid, "libgcrypt", stats)
    // The agent is not dumpable: users other than root see only the total of what it has locked,
    // which includes libgcrypt's own pool.
    if Programs.isRoot { try expectSabotageIsFound(pid, stats) }
    _ = try Launch([
      "gpg-connect-agent", "--homedir", home, "--no-autostart", "KILLAGENT", "/bye",
    ]).run()
  }
}
